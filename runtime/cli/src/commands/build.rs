//! `oarlock build [DIR]`

use std::path::PathBuf;

use oarlock_platform::build::Progress;
use oarlock_spec::codes::exit;

use crate::output::{Failure, Outcome};
use crate::print;
use crate::signals::Signals;

/// Build the app in a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  oarlock build\n  oarlock build examples/guestbook")]
pub(crate) struct Build {
    /// The app's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
}

impl Build {
    pub(crate) fn run(self) -> Outcome {
        super::block_on(async move {
            let manifest = oarlock_platform::load_manifest(&self.dir, None)
                .map_err(|message| Failure::new(exit::MANIFEST, message))?;
            let mut signals = Signals::install().map_err(|error| {
                Failure::new(exit::FAILURE, format!("cannot listen for signals: {error}"))
            })?;
            let env = std::env::vars().collect();
            let building = oarlock_platform::build::build(&self.dir, &manifest, &env, show);
            tokio::select! {
                // Dropping the build ends its processes.
                () = signals.next() => Ok(exit::INTERRUPTED),
                built = building => match built {
                    Ok(()) => Ok(exit::OK),
                    Err(error) => Err(Failure::new(exit::BUILD, error.to_string())),
                },
            }
        })
    }
}

fn show(progress: Progress) {
    match progress {
        Progress::Starting(command) => print::note("Building", &command),
        Progress::Output(line) => print::foreign(&line),
    }
}
