//! `oarlock fetch-relay SOCKET COMMAND`: what a fence starts that fetches for a build. Not for people.
//!
//! A fence has no network but its own loopback. This listens there as a proxy, and carries each connection to the host's
//! socket, where it is decided what may be connected to.

use std::net::Ipv4Addr;
use std::path::PathBuf;

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
        let mut command = tokio::process::Command::new("sh");
        let status = command
            .args(["-c", &self.command])
            .kill_on_drop(true)
            .status();
        tokio::select! {
            status = status => {
                let code = status.map_err(failed)?.code();
                Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILURE))
            }
            () = relay(listener, self.socket) => Err(Failure::new(exit::FAILURE, "the relay ended".to_owned())),
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
