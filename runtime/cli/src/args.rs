//! The command line, as clap sees it. One struct per subcommand, in the file of the subcommand.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use oarlock_spec::codes::exit;

use crate::commands::{
    build, check, compile_component, completions, config, fetch_relay, logs, man, new, ps,
    releases, restart, rollback, run, scale, serve, up,
};
use crate::output::{self, Failure};
use crate::{print, spellings};

/// What the command line asks for. Help and the version are printed here; that is then all.
pub(crate) fn read() -> Result<Args, Failure> {
    let words = spellings::translate(std::env::args_os())
        .map_err(|instead| Failure::new(exit::USAGE, instead))?;
    let parsed = spellings::with_options(Args::command())
        .try_get_matches_from(words)
        .and_then(|matches| Args::from_arg_matches(&matches));
    parsed.map_err(|asked| {
        if asked.use_stderr() {
            // If that cannot be written either, the exit code says it.
            let _ = asked.print();
            return Failure::silent(exit::USAGE);
        }
        let text = asked.render();
        let written = if print::colour(std::io::stdout().is_terminal()) {
            output::write(text.ansi().to_string().as_bytes())
        } else {
            output::write(text.to_string().as_bytes())
        };
        written.err().unwrap_or(Failure::silent(exit::OK))
    })
}

/// Run, scale and release apps of sandboxed WebAssembly components.
#[derive(Debug, Parser)]
#[command(
    name = "oarlock",
    version,
    about,
    propagate_version = true,
    max_term_width = 80
)]
#[command(
    after_help = "Exit codes: 0 success, 1 failure, 2 usage, 120 mistakes in the manifest,\n\
121 build failed, 122 release phase failed, 123 no host is running,\n\
124 already running, 125 address in use, 126 dyno ended by the host,\n\
130 interrupted, 134 the guest trapped. `oarlock run` exits with the guest's\n\
own code below 120."
)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// More of Oarlock's own diagnostics on stderr (-v: info, -vv: debug).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Args {
    /// The filter for Oarlock's own diagnostics.
    pub(crate) fn verbosity(&self) -> &'static str {
        match self.verbose {
            // What the operator should know, of our own.
            0 => "error,oarlock=warn,oarlock_host=warn,oarlock_platform=warn,oarlock_sandbox=warn",
            1 => "info",
            _ => "debug",
        }
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build and run the app in a folder
    Up(up::Up),
    /// Run every app below a folder on one host
    Serve(serve::Serve),
    /// Make a new app from a template
    New(new::New),
    /// Build the app in a folder
    Build(build::Build),
    /// Validate the manifest and show what each process is granted
    Check(check::Check),
    /// List the dynos of a running app
    Ps(ps::Ps),
    /// Show or change how many dynos of each type run
    Scale(scale::Scale),
    /// Restart dynos, one by one
    Restart(restart::Restart),
    /// Run a one-off dyno
    Run(run::Run),
    /// Show the log
    Logs(logs::Logs),
    /// Show or change config vars
    Config(config::Config),
    /// List the releases
    Releases(releases::Releases),
    /// Go back to an earlier release
    Rollback(rollback::Rollback),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    #[command(hide = true)]
    Man(man::Man),
    #[command(hide = true)]
    CompileComponent(compile_component::CompileComponent),
    #[command(hide = true)]
    FetchRelay(fetch_relay::FetchRelay),
}

/// How a running app is found.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The app, where a host runs several [default: the one of the manifest here or above]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) app: Option<String>,
    /// The host's data folder [default: `.oarlock` here or in a folder above]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}
