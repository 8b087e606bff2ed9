//! `oarlock build [DIR]`

use std::path::PathBuf;

use oarlock_platform::Event;
use oarlock_spec::codes::exit;
use tokio::sync::mpsc;

use crate::output::{Failure, Outcome};
use crate::print;
use crate::signals::Signals;

/// Build the app in a folder
#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    /// The app's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
}

impl Build {
    pub(crate) fn run(self) -> Outcome {
        super::block_on(async move {
            let manifest = oarlock_platform::load_manifest(&self.dir)
                .map_err(|message| Failure::new(exit::MANIFEST, message))?;
            let mut signals = Signals::install()
                .map_err(|error| Failure::new(exit::FAILURE, format!("cannot listen for signals: {error}")))?;
            let (events, mut told) = mpsc::unbounded_channel();
            let env = std::env::vars().collect();
            let mut building =
                Box::pin(oarlock_platform::build::build(&self.dir, &manifest, &env, &events));
            loop {
                tokio::select! {
                    biased;
                    // Dropping the build ends its processes.
                    () = signals.next() => return Ok(exit::INTERRUPTED),
                    Some(event) = told.recv() => show(&event),
                    built = &mut building => {
                        while let Ok(event) = told.try_recv() {
                            show(&event);
                        }
                        return match built {
                            Ok(()) => Ok(exit::OK),
                            Err(error) => Err(Failure::new(exit::BUILD, error.to_string())),
                        };
                    }
                }
            }
        })
    }
}

fn show(event: &Event) {
    match event {
        Event::Building { app, command } => print::note("Building", &format!("{app}: {command}")),
        Event::BuildOutput { line, .. } => print::foreign(line),
        Event::Logging { .. } | Event::Loaded { .. } | Event::Ready { .. } | Event::Failed { .. } => {}
    }
}
