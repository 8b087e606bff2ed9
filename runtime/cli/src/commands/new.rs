//! `oarlock new NAME`

use std::path::{Path, PathBuf};

use oarlock_spec::codes::exit;

use crate::output::{self, Failure, Outcome};
use crate::target::parse_app;

/// Make a new app from a template
#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// The app's name, and the folder that is made for it
    name: String,
    /// Which template
    #[arg(long, default_value = "rust")]
    template: Template,
}

/// The templates there are.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Template {
    /// A web handler and a worker in Rust
    Rust,
}

/// A template's files: path and content, where `{{name}}` stands for the app's name.
type Files = &'static [(&'static str, &'static str)];

impl Template {
    fn files(self) -> Files {
        match self {
            Self::Rust => RUST,
        }
    }
}

macro_rules! template {
    ($dir:literal: $($file:literal => $source:literal),* $(,)?) => {
        &[$(($file, include_str!(concat!("../../../../sdk/templates/", $dir, "/", $source)))),*]
    };
}

const RUST: Files = template!("rust": );

impl New {
    pub(crate) fn run(self) -> Outcome {
        let app = parse_app(&self.name)?;
        let folder = PathBuf::from(app.as_str());
        std::fs::create_dir(&folder).map_err(|error| {
            Failure::new(
                exit::FAILURE,
                format!("the folder `{app}` cannot be made: {error}; choose another name"),
            )
        })?;
        for (path, content) in self.template.files() {
            write(
                &folder.join(path),
                &content.replace("{{name}}", app.as_str()),
            )?;
        }
        output::line(format!("Made {app}/. Next:\n  cd {app}\n  oarlock up"));
        Ok(exit::OK)
    }
}

fn write(path: &Path, content: &str) -> Result<(), Failure> {
    let made = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(path, content));
    made.map_err(|error| {
        Failure::new(
            exit::FAILURE,
            format!("{} cannot be written: {error}", path.display()),
        )
    })
}
