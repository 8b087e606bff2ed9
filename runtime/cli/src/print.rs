//! Text for people: errors and notes on stderr, log lines on stdout; colours only on a terminal and
//! never with `NO_COLOR`.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use oarlock_spec::api::{LogLine, LogSource};

use crate::output::{self, Failure};

/// The width that texts for people are laid out for.
const COLUMNS: usize = 80;

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// What takes long right now: the terminal's last line, below all that is printed meanwhile.
static WORK: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Prints in its turn what goes to stderr; there once [`behind`] was called.
static BEHIND: OnceLock<SyncSender<Job>> = OnceLock::new();

type Job = Box<dyn FnOnce() + Send>;

/// Texts that wait to be printed; more are lost.
const WAITING: usize = 1_000;

/// From now on stderr is written to by a thread of its own: a terminal that was stopped (Ctrl-S), or a pipe that nobody
/// reads, must not hold up a host, nor its end.
pub(crate) fn behind() {
    let (sender, jobs) = sync_channel::<Job>(WAITING);
    let printer = std::thread::Builder::new().name("oarlock-print".into());
    let started = printer.spawn(move || {
        for job in jobs {
            job();
        }
    });
    if started.is_ok() {
        // `Err`: there is one already.
        let _there = BEHIND.set(sender).is_err();
    }
}

/// Waits until what was said is printed, but not for longer than this.
pub(crate) fn flush(limit: Duration) {
    let Some(behind) = BEHIND.get() else { return };
    let (done, printed) = sync_channel(1);
    let job = Box::new(move || {
        // Whoever waited may have gone.
        let _gone = done.send(()).is_err();
    });
    if behind.try_send(job).is_ok() {
        // An error: it takes longer.
        let _late = printed.recv_timeout(limit).is_err();
    }
}

/// Does it at once, or in its turn.
fn in_turn(job: impl FnOnce() + Send + 'static) {
    match BEHIND.get() {
        // An error: too much waits already, and nobody reads it.
        Some(behind) => drop(behind.try_send(Box::new(job))),
        None => job(),
    }
}

fn work() -> MutexGuard<'static, Option<ProgressBar>> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows what takes long and for how long, until [`worked`]; nothing where stderr is no terminal.
pub(crate) fn working(what: &str) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let what = what.to_owned();
    in_turn(|| {
        let bar = work().get_or_insert_with(spinner).clone();
        bar.set_message(what);
    });
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    // A template of our own, so it parses; without it the spinner has indicatif's look.
    if let Ok(style) = ProgressStyle::with_template("{spinner:>12} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TURN);
    bar
}

/// Whatever took long is over.
pub(crate) fn worked() {
    in_turn(|| {
        let bar = work().take();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    });
}

/// Prints without running into the line of [`working`].
fn above_work<T>(print: impl FnOnce() -> T) -> T {
    // Not with the lock: a stream that nobody reads would hold up whoever else has something to say.
    let bar = work().clone();
    match bar {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// Whether a stream gets colours.
pub(crate) fn colour(terminal: bool) -> bool {
    static NO_COLOR: OnceLock<bool> = OnceLock::new();
    // https://no-color.org: set and not empty.
    let refused = *NO_COLOR
        .get_or_init(|| std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()));
    terminal && !refused
}

fn styled(style: Style, text: &str, terminal: bool) -> String {
    if colour(terminal) {
        format!("{style}{text}{style:#}")
    } else {
        text.to_owned()
    }
}

/// An error, on stderr.
pub(crate) fn error(message: &str) {
    labelled(' ', message);
}

/// Mistakes of a file, on stderr. They are laid out for 80 columns, and keep them.
pub(crate) fn mistakes(message: &str) {
    let first = message.lines().next().unwrap_or_default();
    let fits = "error: ".len() + first.chars().count() <= COLUMNS;
    labelled(if fits { ' ' } else { '\n' }, message);
}

fn say(text: String) {
    in_turn(move || {
        above_work(|| {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    });
}

fn labelled(gap: char, message: &str) {
    let terminal = std::io::stderr().is_terminal();
    let label = styled(AnsiColor::Red.on_default().bold(), "error:", terminal);
    // Names of files and what a tenant wrote may be in it.
    let lines: Vec<String> = message.lines().map(visible).collect();
    let message = lines.join("\n");
    say(format!("{label}{gap}{message}"));
}

/// A note of what goes on, on stderr, in the manner of `cargo`.
pub(crate) fn note(label: &str, message: &str) {
    let terminal = std::io::stderr().is_terminal();
    let label = styled(
        AnsiColor::Green.on_default().bold(),
        &format!("{label:>12}"),
        terminal,
    );
    let message = visible(message);
    say(format!("{label} {message}"));
}

/// A line that something else wrote (a build's output), on stderr; on a terminal, safe to look at.
pub(crate) fn foreign(text: &str) {
    let text = if std::io::stderr().is_terminal() {
        visible(text)
    } else {
        text.to_owned()
    };
    say(text);
}

/// Log lines on stdout, in one write: coloured by dyno, control characters made visible on a terminal.
pub(crate) fn logs(entries: impl IntoIterator<Item = LogLine>) -> Result<(), Failure> {
    let terminal = std::io::stdout().is_terminal();
    let mut text = String::new();
    for entry in entries {
        text.push_str(&render_log(&entry, terminal));
        text.push('\n');
    }
    if terminal {
        above_work(|| output::write(text.as_bytes()))
    } else {
        output::write(text.as_bytes())
    }
}

/// A log line as it is printed: contract 4's, and on a terminal safe and coloured.
pub(crate) fn render_log(entry: &LogLine, terminal: bool) -> String {
    if !terminal {
        return entry.to_string();
    }
    let visible = LogLine {
        message: visible(&entry.message),
        ..entry.clone()
    }
    .to_string();
    // The head ends where the message starts: `time source[dyno]: message`.
    match visible.split_once("]: ") {
        Some((head, message)) => format!(
            "{} {message}",
            styled(style_of(entry), &format!("{head}]:"), terminal)
        ),
        None => visible,
    }
}

fn style_of(entry: &LogLine) -> Style {
    const PALETTE: [AnsiColor; 6] = [
        AnsiColor::Cyan,
        AnsiColor::Yellow,
        AnsiColor::Green,
        AnsiColor::Magenta,
        AnsiColor::Blue,
        AnsiColor::BrightCyan,
    ];
    let mut hasher = DefaultHasher::new();
    entry.dyno.hash(&mut hasher);
    let index = usize::try_from(hasher.finish() % 6).unwrap_or(0);
    let style = PALETTE
        .get(index)
        .copied()
        .unwrap_or(AnsiColor::Cyan)
        .on_default();
    match entry.source {
        LogSource::App => style.bold(),
        LogSource::Oarlock => style,
    }
}

/// Control characters as escapes, so that no guest can write to the terminal itself; tabs stay.
pub(crate) fn visible(message: &str) -> String {
    let harmless = |c: char| c == '\t' || !c.is_control();
    if message.chars().all(harmless) {
        return message.to_owned();
    }
    message
        .chars()
        .flat_map(|c| {
            if harmless(c) {
                vec![c]
            } else {
                c.escape_default().collect()
            }
        })
        .collect()
}

/// A word as a POSIX shell reads it back.
pub(crate) fn quote(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_write_escapes_to_a_terminal() {
        assert_eq!(visible("a\x1b[2Jb\tc"), "a\\u{1b}[2Jb\tc");
        assert_eq!(visible("plain é"), "plain é");
    }
}
