//! What a command answers: one value, printed as text or as JSON. All that commands print on stdout goes through here, so
//! that each ends in the same way when stdout takes no more.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use oarlock_spec::codes::exit;
use rustix::event::{PollFd, PollFlags};
use serde::Serialize;

/// How often a command that has nothing to print looks whether anybody still reads.
const READER_CHECK: Duration = Duration::from_millis(200);

/// Why a command failed, for stderr, and with which code it exits.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is wrong and what to do next; `None`: nothing is to be said (any more).
    pub(crate) message: Option<String>,
    /// One of `oarlock_spec::codes::exit`, or the guest's own.
    pub(crate) code: u8,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            message: Some(message.into()),
            code,
        }
    }

    /// An end of which nothing is said.
    pub(crate) fn silent(code: u8) -> Self {
        Self {
            message: None,
            code,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(exit::FAILURE, format!("{error:#}"))
    }
}

/// What a command returns: an exit code, or why it failed.
pub(crate) type Outcome = Result<u8, Failure>;

/// A table without borders, as wide as its contents, wrapped at the terminal's width.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    table
}

/// Writes on stdout. Who reads it may have enough at any time (`| head`): that ends the command, and is no error. Whatever
/// else keeps it from being written is one.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    write_to(std::io::stdout().lock(), "stdout", bytes)
}

/// The same on stderr, for what a guest writes there.
pub(crate) fn write_stderr(bytes: &[u8]) -> Result<(), Failure> {
    write_to(std::io::stderr().lock(), "stderr", bytes)
}

fn write_to(mut stream: impl Write, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    // What has no line's end yet would stay behind without the flush, and nobody hears of an error after the end.
    match stream.write_all(bytes).and_then(|()| stream.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::silent(exit::OK)),
        Err(error) => Err(Failure::new(
            exit::FAILURE,
            format!("{name} cannot be written: {error}"),
        )),
    }
}

/// Prints a line on stdout.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes())
}

/// Waits until nobody reads stdout any more: a pipe without a reader, a terminal that was closed. Asked by poll(2), since
/// a command that waits for something to print would not notice.
pub(crate) async fn reader_gone() {
    let stdout = std::io::stdout();
    let now = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        // Errors and hang-ups are always told.
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        if rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
            return;
        }
        tokio::time::sleep(READER_CHECK).await;
    }
}

/// Prints a listing: the JSON of `rows` with `--json`, else what `text` makes of them.
pub(crate) fn listing<T: Serialize + ?Sized>(
    rows: &T,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    if json {
        let rendered = serde_json::to_string_pretty(rows)
            .map_err(|error| Failure::new(exit::FAILURE, format!("cannot print JSON: {error}")))?;
        line(rendered)?;
    } else {
        let rendered = text(rows);
        if !rendered.is_empty() {
            line(
                rendered
                    .lines()
                    .map(str::trim_end)
                    .collect::<Vec<_>>()
                    .join("\n"),
            )?;
        }
    }
    Ok(())
}
