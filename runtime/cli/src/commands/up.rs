//! `oarlock up [DIR]`

use std::net::SocketAddr;
use std::path::PathBuf;

use oarlock_platform::{Builds, PlatformConfig, Source};
use oarlock_spec::codes::exit;
use oarlock_spec::names::ProcessType;

use super::{drive, scale};
use crate::address;
use crate::output::Outcome;

/// Build and run the app in a folder; Ctrl-C drains and stops it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  oarlock up\n  oarlock up examples/guestbook --watch\n  oarlock up --listen 8081 --scale web=2,worker=1"
)]
pub(crate) struct Up {
    /// The app's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where to listen for HTTP; a port alone is one of 127.0.0.1
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address::parse)]
    listen: SocketAddr,
    /// Over the manifest's [scale], as in `web=2,worker=1`
    #[arg(long, value_name = "TYPE=COUNT,…", value_delimiter = ',', value_parser = scale::parse)]
    scale: Vec<(ProcessType, u32)>,
    /// Build and release again when files change
    #[arg(long)]
    watch: bool,
    /// Take the components as they are
    #[arg(long)]
    no_build: bool,
    /// The operator's policy file
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

impl Up {
    pub(crate) fn run(self) -> Outcome {
        let config = PlatformConfig {
            source: Source::App {
                dir: self.dir,
                scale: scale::collect(self.scale)?,
                watch: self.watch,
            },
            listen: self.listen,
            domain: "localhost".to_owned(),
            build: if self.no_build {
                Builds::No
            } else {
                Builds::Own
            },
            policy: drive::policy(self.policy.as_deref())?,
            code_cache: drive::user_code_cache(),
            compiler: drive::compiler(),
            relay: None,
            build_env: std::env::vars().collect(),
        };
        drive::until_stopped(config, exit::INTERRUPTED)
    }
}
