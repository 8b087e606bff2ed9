//! `oarlock serve --apps DIR`

use std::net::SocketAddr;
use std::path::PathBuf;

use oarlock_platform::{Builds, PlatformConfig, Source};
use oarlock_spec::codes::exit;

use super::drive;
use crate::address;
use crate::output::Outcome;

/// Run every app below a folder on one host, at `<app>.<domain>`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  oarlock serve --apps /srv/apps\n  oarlock serve --apps /srv/apps --listen 0.0.0.0:80 --domain example.com"
)]
pub(crate) struct Serve {
    /// The folder whose folders with a manifest are the apps
    #[arg(long, value_name = "DIR")]
    apps: PathBuf,
    /// Where to listen for HTTP; a port alone is one of 127.0.0.1
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address::parse)]
    listen: SocketAddr,
    /// The domain below which apps answer
    #[arg(long, default_value = "localhost")]
    domain: String,
    /// The host's own folder [default: `.oarlock` in the apps' folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Build apps first, each in a fence (needs bubblewrap)
    #[arg(long)]
    build: bool,
    /// What it does anyway; earlier versions built unless they were told not to
    #[arg(long, hide = true, conflicts_with = "build")]
    no_build: bool,
    /// The operator's policy file
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

impl Serve {
    pub(crate) fn run(self) -> Outcome {
        let data = self
            .data
            .clone()
            .unwrap_or_else(|| self.apps.join(".oarlock"));
        let config = PlatformConfig {
            source: Source::Apps {
                dir: self.apps,
                data: self.data,
            },
            listen: self.listen,
            domain: self.domain,
            build: if self.build && !self.no_build {
                Builds::Fenced
            } else {
                Builds::No
            },
            policy: drive::policy(self.policy.as_deref())?,
            code_cache: Some(data.join("code")),
            compiler: drive::compiler(),
            relay: std::env::current_exe().ok(),
            build_env: std::env::vars().collect(),
        };
        drive::until_stopped(config, exit::OK)
    }
}
