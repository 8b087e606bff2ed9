//! `oarlock.toml` and plain Procfiles: contract 1, validated.
//!
//! [`parse`] and [`parse_procfile`] report every mistake of a file at once; a [`Manifest`] that
//! they give is valid in itself. Whether its files exist, its components are what they should be
//! and its providers have the plans it names is for those to say who have these things.

mod addons;
mod allow;
mod arguments;
pub(crate) use allow::read as read_allow;
mod config;
mod paths;
mod processes;
mod procfile;
mod schedule;
mod sections;
mod types;
mod words;

#[cfg(test)]
mod tests;

use crate::mistakes::{FileErrors, Findings, Source};
use crate::names::AppName;
use crate::policy::Policy;
use crate::read;

pub use allow::allow_line;
pub use arguments::{Argument, Piece};
pub use config::config_name_mistake;
pub use sections::MAX_SCALE;
pub use types::{Addon, AllowEntry, Build, HostPattern, Manifest, Process, Schedule};
pub use words::split_line;

/// The manifest's file name.
pub const MANIFEST_FILE: &str = "oarlock.toml";

/// The file name of a plain Procfile, used where there is no [`MANIFEST_FILE`].
pub const PROCFILE: &str = "Procfile";

/// Why a manifest was refused: too large, or all its mistakes.
pub type ManifestErrors = FileErrors;

/// What a manifest is checked against beyond its own rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Its defaults lie below the manifest's limits, and limits above its caps are mistakes.
    pub policy: Option<&'a Policy>,
    /// The add-on providers that the host has; when empty, any is taken.
    pub providers: &'a [&'a str],
}

/// Reads `oarlock.toml`.
///
/// # Errors
/// All mistakes of the file, by place; or that it is over [`crate::mistakes::MAX_FILE_BYTES`].
pub fn parse(text: &str, options: &Options<'_>) -> Result<Manifest, ManifestErrors> {
    let mut findings = Findings::new(Source::new(MANIFEST_FILE, text)?);
    let mended = read::mend(false, &mut findings);
    let syntax_mistakes = findings.count();
    let document = read::document(&mended);
    let manifest = sections::read(document.get_ref(), options, &mut findings);
    findings.drop_consequences(syntax_mistakes);
    findings.finish(manifest)
}

/// Reads a plain Procfile (`web: web.wasm --flag`, a line per process type, `#` begins a comment
/// line). The app's name comes from the caller, since a Procfile has none: the folder's.
///
/// # Errors
/// All mistakes of the file, by place; or that it is over [`crate::mistakes::MAX_FILE_BYTES`].
pub fn parse_procfile(
    text: &str,
    app: AppName,
    options: &Options<'_>,
) -> Result<Manifest, ManifestErrors> {
    procfile::parse(text, app, options)
}
