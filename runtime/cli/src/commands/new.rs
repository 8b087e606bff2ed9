//! `oarlock new NAME`

#[path = "../../../../sdk/templates/mod.rs"]
mod templates;

use std::path::{Path, PathBuf};

use oarlock_spec::codes::exit;

use crate::output::{self, Failure, Outcome};
use crate::target::parse_app;

/// Make a new app from a template
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  oarlock new my-app\n  cd my-app && oarlock up")]
pub(crate) struct New {
    /// The app's name, and the folder that is made for it
    name: String,
    /// Which template
    #[arg(long, default_value = "rust", value_parser = clap::builder::PossibleValuesParser::new(templates::NAMES))]
    template: String,
}

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
        let files = templates::files(&self.template, app.as_str()).unwrap_or_default();
        for (path, content) in files {
            write(&folder.join(path), &content)?;
        }
        output::line(format!("Made {app}/. Next:\n  cd {app}\n  oarlock up"))?;
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
