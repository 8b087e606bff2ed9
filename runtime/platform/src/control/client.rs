//! The commands' side of the control API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use oarlock_spec::api::{
    AppRow, ConfigChange, ConfigVars, DynoRow, ErrorBody, Formation, LogLine, LogSource,
    ReleaseRow, RestartRequest, RollbackRequest, RunFrame, RunRequest,
};
use oarlock_spec::codes::exit;
use oarlock_spec::names::{AppName, DynoName, ReleaseId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{ReadHalf, WriteHalf};

use super::frames::{FrameError, read_frame, write_frame};
use super::{DYNO_HEADER, RUN_PROTOCOL, socket};

/// How long a host may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer read into memory, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The longest line of a log stream, in bytes.
const MAX_LINE: usize = 4 * 1024 * 1024;

/// Why a call of the control API failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No host has this data folder, or it does not answer.
    #[error("no host runs for {}: {reason}; start it with `oarlock up` or `oarlock serve`", data.display())]
    NoHost {
        /// The data folder.
        data: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The data folder or its socket is another user's.
    #[error("{} belongs to another user{}; run this command as that user", data.display(), owner.map(|uid| format!(" (uid {uid})")).unwrap_or_default())]
    NotOurs {
        /// The data folder.
        data: PathBuf,
        /// Whose it is, if that can be seen.
        owner: Option<u32>,
    },
    /// The host answered with an error.
    #[error("{}", body.message)]
    Api {
        /// The HTTP status.
        status: StatusCode,
        /// The word and the message.
        body: ErrorBody,
    },
    /// The connection broke, or the answer is not what this version understands.
    #[error("the host's answer was not understood: {0}")]
    Protocol(String),
}

impl ClientError {
    /// For the shell; one of [`oarlock_spec::codes::exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoHost { .. } => exit::NO_HOST,
            Self::NotOurs { .. } | Self::Api { .. } | Self::Protocol(_) => exit::FAILURE,
        }
    }

    /// The API's stable word (see [`super::words`]), if the host answered with an error.
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Api { body, .. } => Some(&body.error),
            Self::NoHost { .. } | Self::NotOurs { .. } | Self::Protocol(_) => None,
        }
    }
}

fn protocol(error: impl std::fmt::Display) -> ClientError {
    ClientError::Protocol(error.to_string())
}

/// Which log lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// How many of the last; `None`: 100.
    pub n: Option<usize>,
    /// Whether to go on with those to come.
    pub follow: bool,
    /// A dyno, a process type or `router`.
    pub dyno: Option<String>,
    /// The app's or Oarlock's.
    pub source: Option<LogSource>,
}

/// Talks to the host of one data folder; one connection per call.
#[derive(Debug, Clone)]
pub struct Client {
    data: PathBuf,
}

impl Client {
    /// `data`: the host's data folder (`.oarlock` of an app under `up`). Nothing is opened yet.
    pub fn new(data: impl AsRef<Path>) -> Self {
        Self {
            data: data.as_ref().to_owned(),
        }
    }

    /// The apps of the host.
    pub async fn apps(&self) -> Result<Vec<AppRow>, ClientError> {
        self.get("/v1/apps").await
    }

    /// The rows of `ps`.
    pub async fn dynos(&self, app: &AppName) -> Result<Vec<DynoRow>, ClientError> {
        self.get(&format!("/v1/apps/{app}/dynos")).await
    }

    /// The formation as it is wanted now.
    pub async fn formation(&self, app: &AppName) -> Result<Formation, ClientError> {
        self.get(&format!("/v1/apps/{app}/formation")).await
    }

    /// Changes the named types; the whole formation comes back.
    pub async fn scale(&self, app: &AppName, change: &Formation) -> Result<Formation, ClientError> {
        self.call(Method::PATCH, &format!("/v1/apps/{app}/formation"), change)
            .await
    }

    /// Restarts a dyno, a process type or all; the names of those restarted.
    pub async fn restart(
        &self,
        app: &AppName,
        target: Option<&str>,
    ) -> Result<Vec<DynoName>, ClientError> {
        let body = RestartRequest {
            target: target.map(str::to_owned),
        };
        self.call(Method::POST, &format!("/v1/apps/{app}/restart"), &body)
            .await
    }

    /// Log lines, oldest first.
    pub async fn logs(&self, app: &AppName, query: &LogQuery) -> Result<LogStream, ClientError> {
        let mut path = format!("/v1/apps/{app}/logs?follow={}", query.follow);
        if let Some(n) = query.n {
            path.push_str(&format!("&n={n}"));
        }
        if let Some(dyno) = &query.dyno {
            path.push_str(&format!("&dyno={}", encode(dyno)));
        }
        if let Some(source) = query.source {
            path.push_str(&format!("&source={}", source.as_str()));
        }
        let response = self.send(Method::GET, &path, Bytes::new(), false).await?;
        Ok(LogStream {
            body: response.into_body(),
            buffer: BytesMut::new(),
            ended: false,
        })
    }

    /// The config vars of the current release.
    pub async fn config(&self, app: &AppName) -> Result<ConfigVars, ClientError> {
        self.get(&format!("/v1/apps/{app}/config")).await
    }

    /// Sets (`Some`) and removes (`None`) config vars; the release that this made comes back once it runs.
    pub async fn change_config(
        &self,
        app: &AppName,
        change: &ConfigChange,
    ) -> Result<ReleaseRow, ClientError> {
        self.call(Method::PATCH, &format!("/v1/apps/{app}/config"), change)
            .await
    }

    /// The releases, newest first.
    pub async fn releases(&self, app: &AppName) -> Result<Vec<ReleaseRow>, ClientError> {
        self.get(&format!("/v1/apps/{app}/releases")).await
    }

    /// Makes a new release with the slug and config of an old one (`None`: the one before the current).
    pub async fn rollback(
        &self,
        app: &AppName,
        to: Option<ReleaseId>,
    ) -> Result<ReleaseRow, ClientError> {
        self.call(
            Method::POST,
            &format!("/v1/apps/{app}/rollback"),
            &RollbackRequest { to },
        )
        .await
    }

    /// Starts a one-off dyno and connects to it. Dropping the connection ends the dyno.
    pub async fn run(
        &self,
        app: &AppName,
        request: &RunRequest,
    ) -> Result<RunConnection, ClientError> {
        let body = serde_json::to_vec(request).map_err(protocol)?;
        let response = self
            .send(
                Method::POST,
                &format!("/v1/apps/{app}/runs"),
                body.into(),
                true,
            )
            .await?;
        let dyno = response
            .headers()
            .get(DYNO_HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| protocol("the dyno's name is missing"))?;
        let upgraded = hyper::upgrade::on(response).await.map_err(protocol)?;
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        Ok(RunConnection {
            dyno,
            reader: RunReader(read),
            writer: RunWriter(write),
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        read_json(self.send(Method::GET, path, Bytes::new(), false).await?).await
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(protocol)?;
        read_json(self.send(method, path, body.into(), false).await?).await
    }

    /// One request on a connection of its own; an error status becomes [`ClientError::Api`].
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        upgrade: bool,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, socket::connect(&self.data)).await
        {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(self.not_ours());
            }
            Ok(Err(error)) => return Err(self.no_host(error)),
            Err(_) => return Err(self.no_host("it does not accept connections")),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.no_host(error))?;
        tokio::spawn(async move {
            // Its error is also the request's.
            let _ = connection.with_upgrades().await;
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "oarlock");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        if upgrade {
            request = request
                .header("connection", "upgrade")
                .header("upgrade", RUN_PROTOCOL);
        }
        let request = request.body(Full::new(body)).map_err(protocol)?;
        let response = sender.send_request(request).await.map_err(protocol)?;
        let status = response.status();
        let wanted = if upgrade {
            status == StatusCode::SWITCHING_PROTOCOLS
        } else {
            status.is_success()
        };
        if wanted {
            return Ok(response);
        }
        let bytes = read_all(response).await?;
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Err(ClientError::Api { status, body }),
            Err(_) => Err(protocol(format!("status {status} without an error body"))),
        }
    }

    fn not_ours(&self) -> ClientError {
        let folder = std::fs::metadata(&self.data);
        ClientError::NotOurs {
            data: self.data.clone(),
            owner: folder
                .ok()
                .map(|found| std::os::unix::fs::MetadataExt::uid(&found)),
        }
    }

    fn no_host(&self, reason: impl std::fmt::Display) -> ClientError {
        ClientError::NoHost {
            data: self.data.clone(),
            reason: reason.to_string(),
        }
    }
}

async fn read_all(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    Ok(body.collect().await.map_err(protocol)?.to_bytes())
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    serde_json::from_slice(&read_all(response).await?).map_err(protocol)
}

/// Percent-encodes a query value.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Log lines as they come.
pub struct LogStream {
    body: Incoming,
    buffer: BytesMut,
    ended: bool,
}

impl LogStream {
    /// The next line; `None` at the end (of the tail, or of the host when following). Cancel safe.
    pub async fn next(&mut self) -> Result<Option<LogLine>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return serde_json::from_slice(&line).map(Some).map_err(protocol);
            }
            if self.ended {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(protocol("a log line was cut"))
                };
            }
            if self.buffer.len() > MAX_LINE {
                return Err(protocol("a log line is too long"));
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(frame) => {
                    if let Ok(data) = frame.map_err(protocol)?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// The connection of a one-off dyno. Dropping both halves ends the dyno.
pub struct RunConnection {
    /// Its name, as in `run.4821`.
    pub dyno: DynoName,
    /// Output and the exit.
    pub reader: RunReader,
    /// Input and stop.
    pub writer: RunWriter,
}

/// The host's frames.
pub struct RunReader(ReadHalf<TokioIo<Upgraded>>);

impl RunReader {
    /// The next frame; `None` when the host is gone (after [`RunFrame::Exit`] that is the normal end).
    /// Not cancel safe.
    pub async fn next(&mut self) -> Result<Option<RunFrame>, FrameError> {
        read_frame(&mut self.0).await
    }
}

/// Frames to the host.
pub struct RunWriter(WriteHalf<TokioIo<Upgraded>>);

impl RunWriter {
    /// Sends a frame; at most [`super::frames::MAX_PAYLOAD`] of stdin at once. Waits while the guest
    /// does not read, so [`RunFrame::Stop`] comes after the stdin that was sent before it.
    pub async fn send(&mut self, frame: &RunFrame) -> Result<(), FrameError> {
        write_frame(&mut self.0, frame).await
    }
}
