//! Standard streams: lines to the dyno's log, raw bytes to a one-off dyno's caller, the stdins of
//! contract 2. Lines never block the guest; raw bytes make it wait when the channel is full.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, PollSender, WaitForCancellationFutureOwned};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, OutputStream, StreamError};

use crate::grant::{DynoLog, OutputStream as Stream};

/// A line longer than this is logged in pieces.
const LINE: usize = 64 * 1024;

/// What a guest may write at once.
const WRITE: usize = 64 * 1024;

/// Splits what is written into lines for the log. What is left is a line too, when this is dropped.
struct Lines {
    log: Arc<dyn DynoLog>,
    stream: Stream,
    partial: Vec<u8>,
}

impl Lines {
    fn write(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.extend(line);
            self.emit();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(bytes);
    }

    /// Adds to the line, logging full pieces. A piece may be empty only if the whole line is.
    fn extend(&mut self, mut bytes: &[u8]) {
        while self.partial.len() + bytes.len() > LINE {
            let (piece, rest) = bytes.split_at(LINE - self.partial.len());
            self.partial.extend_from_slice(piece);
            // A character on the border stays whole: its first bytes go with the next piece.
            let keep = incomplete_tail(&self.partial);
            let tail = self.partial.split_off(self.partial.len() - keep);
            self.emit();
            self.partial = tail;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn emit(&mut self) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        self.log.line(self.stream, &String::from_utf8_lossy(line));
        self.partial.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.emit();
        }
    }
}

/// How many bytes at the end of `bytes` begin a UTF-8 character that is not complete; at most 3.
fn incomplete_tail(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let Some(&byte) = bytes.get(bytes.len() - back) else {
            break;
        };
        let length = match byte {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            _ => 1,
        };
        return if length > back { back } else { 0 };
    }
    0
}

/// A standard output whose lines go to the dyno's log.
pub(crate) struct LogOutput {
    log: Arc<dyn DynoLog>,
    stream: Stream,
    /// Made when the guest first opens the stream: most requests write nothing.
    lines: OnceLock<Arc<Mutex<Lines>>>,
}

impl LogOutput {
    pub(crate) fn new(log: Arc<dyn DynoLog>, stream: Stream) -> Self {
        Self {
            log,
            stream,
            lines: OnceLock::new(),
        }
    }

    fn writer(&self) -> LogWriter {
        let lines = self.lines.get_or_init(|| {
            Arc::new(Mutex::new(Lines {
                log: self.log.clone(),
                stream: self.stream,
                partial: Vec::new(),
            }))
        });
        LogWriter(lines.clone())
    }
}

impl IsTerminal for LogOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.writer())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.writer())
    }
}

struct LogWriter(Arc<Mutex<Lines>>);

impl LogWriter {
    fn write_lines(&self, bytes: &[u8]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes);
    }
}

impl AsyncWrite for LogWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.write_lines(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl Pollable for LogWriter {
    async fn ready(&mut self) {}
}

impl OutputStream for LogWriter {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.write_lines(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(WRITE)
    }
}

/// A standard output whose bytes go to a channel as they are.
pub(crate) struct ChannelOutput(mpsc::Sender<Bytes>);

impl ChannelOutput {
    pub(crate) fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self(sender)
    }
}

impl IsTerminal for ChannelOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ChannelOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(ChannelAsyncWriter(Mutex::new(PollSender::new(
            self.0.clone(),
        ))))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(ChannelWriter(self.0.clone()))
    }
}

/// For 0.2.
struct ChannelWriter(mpsc::Sender<Bytes>);

#[async_trait::async_trait]
impl Pollable for ChannelWriter {
    async fn ready(&mut self) {
        // Ready too when the receiver is gone: the next write says so.
        drop(self.0.reserve().await);
    }
}

impl OutputStream for ChannelWriter {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        if bytes.is_empty() {
            // Says nothing, and would take a place from what does.
            return Ok(());
        }
        match self.0.try_send(bytes) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(StreamError::Closed),
            // Two handles of one stream may each have been told that there is room for one.
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(StreamError::trap("wrote to an output that was not ready"))
            }
        }
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        if self.0.is_closed() {
            Err(StreamError::Closed)
        } else if self.0.capacity() == 0 {
            Ok(0)
        } else {
            Ok(WRITE)
        }
    }
}

/// For 0.3. The mutex is never contended: it only makes the sender `Sync`.
struct ChannelAsyncWriter(Mutex<PollSender<Bytes>>);

impl AsyncWrite for ChannelAsyncWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let closed = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let sender = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        ready!(sender.poll_reserve(cx)).map_err(closed)?;
        let piece = bytes.get(..WRITE).unwrap_or(bytes);
        sender
            .send_item(Bytes::copy_from_slice(piece))
            .map_err(closed)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A formation dyno's stdin: open and empty until the dyno is to stop, then at its end.
pub(crate) struct UntilStop(pub(crate) CancellationToken);

impl IsTerminal for UntilStop {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for UntilStop {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(UntilStopReader(Box::pin(self.0.clone().cancelled_owned())))
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(UntilStopStream(self.0.clone()))
    }
}

struct UntilStopReader(Pin<Box<WaitForCancellationFutureOwned>>);

impl AsyncRead for UntilStopReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

struct UntilStopStream(CancellationToken);

#[async_trait::async_trait]
impl Pollable for UntilStopStream {
    async fn ready(&mut self) {
        self.0.cancelled().await;
    }
}

impl InputStream for UntilStopStream {
    fn read(&mut self, _size: usize) -> Result<Bytes, StreamError> {
        if self.0.is_cancelled() {
            Err(StreamError::Closed)
        } else {
            Ok(Bytes::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl DynoLog for Log {
        fn line(&self, _stream: Stream, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
        fn remark(&self, _text: &str) {}
    }

    fn written(chunks: &[&[u8]]) -> Vec<String> {
        let log = Arc::new(Log::default());
        let output = LogOutput::new(log.clone(), Stream::Stdout);
        let writer = output.writer();
        for chunk in chunks {
            writer.write_lines(chunk);
        }
        drop((writer, output));
        Arc::into_inner(log).unwrap().0.into_inner().unwrap()
    }

    #[test]
    fn lines_are_joined_over_writes_and_the_last_needs_no_end() {
        assert_eq!(written(&[b"a\nb", b"c\r\n\nd"]), ["a", "bc", "", "d"]);
        assert!(written(&[]).is_empty());
        assert_eq!(written(&[b"x\n"]), ["x"]);
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        assert_eq!(written(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }

    #[test]
    fn long_lines_come_in_pieces_that_split_no_character() {
        let mut text = "x".repeat(LINE - 1);
        text.push('é');
        text.push_str("end\n");
        let lines = written(&[text.as_bytes()]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), LINE - 1);
        assert_eq!(lines[1], "éend");
        let exact = written(&["y".repeat(LINE).as_bytes(), b"\n"]);
        assert_eq!(exact.len(), 1);
    }
}
