//! `oarlock fetch-relay SOCKET COMMAND`: what a fence starts that fetches for a build. Not for people.
//!
//! A fence has no network but its own loopback. This listens there as a proxy, and carries each connection to the host's
//! socket, where it is decided what may be connected to.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use oarlock_process::{Command, Exit, Stream};
use oarlock_spec::codes::exit;
use tokio::net::{TcpListener, UnixStream};

use crate::output::{Failure, Outcome};

/// The proxy's port in a fence, where nobody else listens.
const PORT: u16 = 3128;

/// Run a command whose proxy is a host's socket
#[derive(Debug, clap::Args)]
pub(crate) struct FetchRelay {
    /// The host's socket
    socket: PathBuf,
    /// What to run, by the shell
    command: String,
}

impl FetchRelay {
    pub(crate) async fn run(self) -> Outcome {
        let failed = |error: std::io::Error| {
            Failure::new(
                exit::FAILURE,
                format!("{error}; this command is for hosts that build apps in a fence"),
            )
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
            .await
            .map_err(failed)?;
        let command = Command::shell(&self.command)
            .env(std::env::vars_os())
            .folder(std::env::current_dir().map_err(failed)?)
            .stdout(Stream::Inherit)
            .stderr(Stream::Inherit);
        let child = command
            .start()
            .map_err(|error| failed(std::io::Error::other(error)))?;
        tokio::select! {
            ended = child.ended() => ended.map_err(failed)?,
            () = relay(listener, self.socket) => return Err(Failure::new(exit::FAILURE, "the relay ended".to_owned())),
        }
        match child.end().map_err(failed)? {
            Exit::Code(code) => Ok(u8::try_from(code).unwrap_or(exit::FAILURE)),
            Exit::Signal(_) => Ok(exit::FAILURE),
        }
    }
}

async fn relay(listener: TcpListener, socket: PathBuf) {
    while let Ok((mut client, _)) = listener.accept().await {
        let socket = socket.clone();
        // One for each connection of the command, which ends with this process.
        tokio::task::spawn(async move {
            if let Ok(mut host) = UnixStream::connect(&socket).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut host).await;
            }
        });
    }
}
