//! What a child says, bounded.
//!
//! A line has at most [`MAX_LINE`] bytes, the rest of it is dropped. At most [`IN_FLIGHT`] lines wait; then the child waits
//! when the pipe is full as well. So a child costs [`MAX_LINE`] × ([`IN_FLIGHT`] + 2) bytes, whatever it writes.

use std::io::{self, Read};
use std::process::{ChildStderr, ChildStdout};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The longest line of output that is told whole, in bytes (8 KiB: compilers' lines are shorter); the rest of it is dropped.
pub const MAX_LINE: usize = 8 * 1024;

/// Lines that wait to be told (256: 2 MiB at most); then the child waits.
pub const IN_FLIGHT: usize = 256;

/// The lines of a child, of its output and its errors as they come. Dropped, it closes the child's pipes.
#[derive(Debug)]
pub struct Lines {
    told: mpsc::Receiver<String>,
    _readers: JoinSet<()>,
}

impl Lines {
    pub(crate) fn of(out: Option<ChildStdout>, err: Option<ChildStderr>) -> io::Result<Self> {
        let (lines, told) = mpsc::channel(IN_FLIGHT);
        let mut readers = JoinSet::new();
        if let Some(out) = out {
            let out = tokio::process::ChildStdout::from_std(out)?;
            readers.spawn(read_lines(out, lines.clone()));
        }
        if let Some(err) = err {
            let err = tokio::process::ChildStderr::from_std(err)?;
            readers.spawn(read_lines(err, lines));
        }
        Ok(Self {
            told,
            _readers: readers,
        })
    }

    /// The next line, without its end; `None`: nobody has the other ends any more, which a child's children may keep longer
    /// than it. Can be dropped and asked again.
    pub async fn next(&mut self) -> Option<String> {
        self.told.recv().await
    }
}

async fn read_lines<R: AsyncRead + Unpin>(from: R, to: mpsc::Sender<String>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        let (used, ended) = match from.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
                let room = MAX_LINE.saturating_sub(line.len());
                line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
                (end.map_or(bytes.len(), |at| at + 1), end.is_some())
            }
        };
        from.consume(used);
        if ended && !send(&mut line, &to).await {
            return;
        }
    }
    if !line.is_empty() {
        send(&mut line, &to).await;
    }
}

async fn send(line: &mut Vec<u8>, to: &mpsc::Sender<String>) -> bool {
    let text = String::from_utf8_lossy(line)
        .trim_end_matches('\r')
        .to_owned();
    line.clear();
    to.send(text).await.is_ok()
}

/// The first `limit` bytes of what comes, trimmed. The rest is read and dropped, so that a child need not wait. Blocks.
pub fn last_words(mut from: impl Read, limit: u64) -> String {
    let mut kept = Vec::new();
    drop(from.by_ref().take(limit).read_to_end(&mut kept));
    drop(io::copy(&mut from, &mut io::sink()));
    String::from_utf8_lossy(&kept).trim().to_owned()
}
