//! `POST …/runs`: a one-off dyno, its stdin, stdout and stderr over one upgraded connection.
//!
//! The dyno is started before the 101, so that every refusal is an ordinary answer. It lives as long as
//! the connection: when the client goes away, it is ended. Each direction is bounded (64 KiB of stdin,
//! 16 chunks of each output); a side that does not read makes the other wait.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use oarlock_host::dynos::OneOffRequest;
use oarlock_spec::api::{RunFrame, RunRequest};
use oarlock_spec::codes::exit;
use rustix::event::{PollFd, PollFlags};
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::frames::{MAX_PAYLOAD, read_frame, write_frame};
use super::routes::read_body;
use super::{ApiError, ControlState, DYNO_HEADER, MAX_BODY, RUN_PROTOCOL, words};
use crate::runtime::OneOffDyno;

/// Chunks of each output that wait for the client.
const OUTPUT_QUEUE: usize = 16;

/// How often a client that is not being read from is looked after.
const HANGUP_CHECK: Duration = Duration::from_millis(250);

pub(super) async fn start(
    State(state): State<ControlState>,
    Path(app): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let app = state.apps.find(&app)?;
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(ApiError::new(
            StatusCode::UPGRADE_REQUIRED,
            words::UPGRADE_REQUIRED,
            format!("send `Connection: upgrade` and `Upgrade: {RUN_PROTOCOL}`"),
        ));
    };
    let body = http_body_util::Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await;
    let body =
        body.map_err(|error| ApiError::bad_request(format!("the body cannot be read: {error}")))?;
    let wanted: RunRequest = read_body(Ok(body.to_bytes()))?;

    let (stdin, guest_stdin) = tokio::io::duplex(MAX_PAYLOAD);
    let (stdout, guest_stdout) = mpsc::channel(OUTPUT_QUEUE);
    let (stderr, guest_stderr) = mpsc::channel(OUTPUT_QUEUE);
    let one_off = OneOffRequest {
        command: wanted.command,
        args: wanted.args,
        stdin: Box::pin(guest_stdin),
        stdout,
        stderr,
    };
    let dyno = state.runtime.run(app.name(), one_off).await?;
    let name = dyno.name().to_string();
    let session = Session {
        dyno,
        stdin,
        stdout: guest_stdout,
        stderr: guest_stderr,
    };
    state.tasks.spawn(async move {
        // Until the client has its 101 the dyno is already running; a client that never comes ends it.
        match upgrade.await {
            Ok(upgraded) => match upgraded.downcast::<TokioIo<UnixStream>>() {
                Ok(parts) => session.serve(parts.io.into_inner(), parts.read_buf).await,
                Err(_) => tracing::error!("a control connection is of an unexpected kind"),
            },
            Err(error) => tracing::debug!(%error, "the client of a one-off dyno did not upgrade"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    *response.body_mut() = Body::empty();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(RUN_PROTOCOL));
    let name =
        HeaderValue::from_str(&name).map_err(|error| ApiError::internal(error.to_string()))?;
    headers.insert(DYNO_HEADER, name);
    Ok(response)
}

/// A one-off dyno and its caller.
struct Session {
    dyno: Box<dyn OneOffDyno>,
    stdin: DuplexStream,
    stdout: mpsc::Receiver<Bytes>,
    stderr: mpsc::Receiver<Bytes>,
}

/// What the client's side tells.
enum FromClient {
    Stop,
    Gone,
}

impl Session {
    /// Until the dyno has ended and the client knows, or the client is gone (then dropping the dyno ends it).
    async fn serve(self, stream: UnixStream, read_before: Bytes) {
        let Self {
            mut dyno,
            stdin,
            mut stdout,
            mut stderr,
        } = self;
        let Ok(watch) = Hangup::of(&stream) else {
            tracing::error!("the connection of a one-off dyno cannot be watched");
            return;
        };
        let (read, mut write) = tokio::io::split(stream);
        let (tell, mut told) = mpsc::channel(4);
        let input = read_input(
            tokio::io::AsyncReadExt::chain(std::io::Cursor::new(read_before), read),
            stdin,
            tell,
        );
        let mut input = std::pin::pin!(input);
        let mut input_open = true;
        let (mut out_open, mut err_open) = (true, true);
        let mut ended = None;
        // Output may still be in the channels when the dyno has ended: the exit goes last.
        while ended.is_none() || out_open || err_open {
            let sent = tokio::select! {
                chunk = stdout.recv(), if out_open => match chunk {
                    Some(chunk) => send_output(&mut write, chunk, RunFrame::Stdout, &watch).await,
                    None => { out_open = false; true }
                },
                chunk = stderr.recv(), if err_open => match chunk {
                    Some(chunk) => send_output(&mut write, chunk, RunFrame::Stderr, &watch).await,
                    None => { err_open = false; true }
                },
                exit = dyno.wait(), if ended.is_none() => { ended = Some(exit); true }
                () = &mut input, if input_open => { input_open = false; true }
                Some(message) = told.recv() => match message {
                    FromClient::Stop => { dyno.stop(); true }
                    FromClient::Gone => false,
                },
                () = watch.gone() => false,
            };
            if !sent {
                return;
            }
        }
        let (code, message) = ended.map_or((exit::DYNO_ENDED, String::new()), |exit| {
            (exit.code, exit.message)
        });
        if write_frame(&mut write, &RunFrame::Exit(code, message))
            .await
            .is_ok()
        {
            let _ = write.shutdown().await;
        }
    }
}

/// `false`: the client is gone.
async fn send_output(
    write: &mut WriteHalf<UnixStream>,
    chunk: Bytes,
    frame: fn(Vec<u8>) -> RunFrame,
    watch: &Hangup,
) -> bool {
    for part in chunk.chunks(MAX_PAYLOAD) {
        let frame = frame(part.to_vec());
        let sent = tokio::select! {
            sent = write_frame(write, &frame) => sent.is_ok(),
            () = watch.gone() => false,
        };
        if !sent {
            return false;
        }
    }
    true
}

/// Hands stdin on until the client ends it, and goes on reading for [`RunFrame::Stop`].
async fn read_input<R: AsyncRead + Unpin>(
    mut read: R,
    stdin: DuplexStream,
    tell: mpsc::Sender<FromClient>,
) {
    let mut stdin = Some(stdin);
    loop {
        match read_frame(&mut read).await {
            Ok(Some(RunFrame::Stdin(bytes))) if bytes.is_empty() => stdin = None,
            Ok(Some(RunFrame::Stdin(bytes))) => {
                if let Some(open) = &mut stdin
                    && open.write_all(&bytes).await.is_err()
                {
                    // The guest closed its stdin or has ended; what else comes is of no use to it.
                    stdin = None;
                }
            }
            Ok(Some(RunFrame::Stop)) => {
                if tell.send(FromClient::Stop).await.is_err() {
                    return;
                }
            }
            Ok(Some(RunFrame::Stdout(_) | RunFrame::Stderr(_) | RunFrame::Exit(..)) | None)
            | Err(_) => {
                let _ = tell.send(FromClient::Gone).await;
                return;
            }
        }
    }
}

/// Notices that the client is gone even while nobody reads from it or writes to it, as when a guest
/// that is silent does not read its stdin. Asked by poll(2): readiness alone cannot tell a hang-up from
/// bytes that wait.
struct Hangup {
    stream: std::os::fd::OwnedFd,
}

impl Hangup {
    fn of(stream: &UnixStream) -> std::io::Result<Self> {
        use std::os::fd::AsFd;
        Ok(Self {
            stream: stream.as_fd().try_clone_to_owned()?,
        })
    }

    async fn gone(&self) {
        loop {
            tokio::time::sleep(HANGUP_CHECK).await;
            let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
            let now = rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let hung_up = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
            if rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
                && fds.iter().any(|fd| fd.revents().intersects(hung_up))
            {
                return;
            }
        }
    }
}
