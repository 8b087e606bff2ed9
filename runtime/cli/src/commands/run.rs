//! `oarlock run PROCESS-OR-COMPONENT [ARGS]`

use oarlock_platform::control::frames::FrameError;
use oarlock_platform::control::{RunReader, RunWriter};
use oarlock_spec::api::{RunFrame, RunRequest};
use oarlock_spec::codes::exit;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use crate::args::Which;
use crate::output::{self, Failure, Outcome};
use crate::print;
use crate::signals::Signals;
use crate::target::client_failure;

/// Run a one-off dyno, with this terminal's stdin, stdout and stderr, and exit with its code
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  oarlock run report 2026\n  oarlock run report -- --help\n  oarlock run report < entries.csv > report.txt"
)]
pub(crate) struct Run {
    #[command(flatten)]
    which: Which,
    /// A process type, or a component as the manifest names it
    #[arg(value_name = "PROCESS-OR-COMPONENT")]
    command: String,
    /// Arguments for it, from the first that is no option of this command; all after `--`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// What the first signal means.
const STOPPING: &str = "the dyno is asked to end; Ctrl-C again ends it at once";

impl Run {
    pub(crate) async fn run(self) -> Outcome {
        let target = self.which.find().await?;
        let mut signals = Signals::install().map_err(|error| {
            Failure::new(exit::FAILURE, format!("cannot listen for signals: {error}"))
        })?;
        let request = RunRequest {
            command: self.command,
            args: self.args,
        };
        let connection = target
            .client
            .run(&target.app, &request)
            .await
            .map_err(client_failure)?;
        let mut frames = read_frames(connection.reader);
        let to_dyno = write_frames(connection.writer);
        read_stdin(to_dyno.clone());
        let mut stops = 0;
        loop {
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => if let Some(code) = shown(frame.map_err(broken)?)? { return Ok(code) },
                    None => return Err(Failure::new(exit::NO_HOST, "the host ended before the dyno did")),
                },
                () = signals.next() => {
                    stops += 1;
                    if stops > 1 {
                        print::note("Ended", "the dyno, at once");
                        return Ok(exit::INTERRUPTED);
                    }
                    print::note("Stopping", STOPPING);
                    let to_dyno = to_dyno.clone();
                    // It waits behind stdin that the dyno does not read; the next signal does not.
                    tokio::spawn(async move { to_dyno.send(RunFrame::Stop).await.is_ok() });
                },
            }
        }
    }
}

fn broken(error: FrameError) -> Failure {
    Failure::new(
        exit::NO_HOST,
        format!("the connection to the dyno broke: {error}"),
    )
}

/// Reads frames in a task of its own, since a read that was given up in the middle would lose bytes.
fn read_frames(mut reader: RunReader) -> mpsc::Receiver<Result<RunFrame, FrameError>> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Some(frame) = reader.next().await.transpose() {
            let broken = frame.is_err();
            if sender.send(frame).await.is_err() || broken {
                break;
            }
        }
    });
    receiver
}

/// Writes frames in a task of its own, since a dyno that does not read its stdin makes them wait, and
/// must not keep us from its output. A connection that takes no more is no error: the host closes it
/// once it has sent how the dyno ended, and a broken one is noticed where it is read.
fn write_frames(mut writer: RunWriter) -> mpsc::Sender<RunFrame> {
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(frame) = receiver.recv().await {
            if writer.send(&frame).await.is_err() {
                break;
            }
        }
    });
    sender
}

/// Shows a frame; the exit code if it was the last. A closed stdout ends the command as it ends others, and the dyno with it.
fn shown(frame: RunFrame) -> Result<Option<u8>, Failure> {
    match frame {
        RunFrame::Stdout(bytes) => output::write(&bytes)?,
        RunFrame::Stderr(bytes) => output::write_stderr(&bytes)?,
        RunFrame::Exit(code, message) => {
            if !message.is_empty() {
                print::error(&message);
            }
            return Ok(Some(code));
        }
        RunFrame::Stdin(_) | RunFrame::Stop => {}
    }
    Ok(None)
}

/// Reads this process's stdin in a task; a read that blocks does not hold the exit. The end of stdin is
/// an empty frame, once.
fn read_stdin(to_dyno: mpsc::Sender<RunFrame>) {
    tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
            let chunk = buffer.get(..count).unwrap_or_default().to_vec();
            if to_dyno.send(RunFrame::Stdin(chunk)).await.is_err() {
                return;
            }
        }
        // Where nobody takes it any more, the dyno has ended.
        let _ended = to_dyno.send(RunFrame::Stdin(Vec::new())).await.is_err();
    });
}
