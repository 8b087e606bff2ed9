//! What is fetched before a build, one file for each language: a [`Fetcher`] and what it needs. Another language is
//! another file and a line in [`ALL`].
//!
//! A fetch has the network, so it must run none of the app's code. Each file says how that is held: what the tool reads of
//! the app, and what keeps the tool from starting programs. Index and registry are the app's choice as far as its own
//! files name them (`--index-url` in `requirements.txt`, `resolved` in `package-lock.json`): the host's egress rules say
//! which of them can be reached.

mod cargo;
mod npm;
mod pip;

/// In the order in which they run.
pub(super) const ALL: [&Fetcher; 3] = [&cargo::FETCHER, &pip::FETCHER, &npm::FETCHER];

/// How what one file of an app asks for is fetched.
pub(super) struct Fetcher {
    /// The file.
    pub(super) file: &'static str,
    /// The program, without which nothing is fetched.
    pub(super) tool: &'static str,
    /// Where it comes from, for who has not got it.
    pub(super) tool_from: &'static str,
    /// What is run, for people.
    pub(super) shown: &'static str,
    /// What is run: by a shell, in an empty folder.
    pub(super) script: &'static str,
    /// What a fetch may do with the app's folder.
    pub(super) app: App,
    /// Its environment, beside what every fetch has.
    pub(super) env: &'static [(&'static str, &'static str)],
    /// Variables that name a file of certificates to this tool.
    pub(super) certificates: &'static [&'static str],
    /// What a build gets in its environment, so that it finds what was fetched and looks nowhere else.
    pub(super) build_env: &'static [(&'static str, &'static str)],
}

/// What a fetch may do with the app's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum App {
    Read,
    Write,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_fetchers_share_a_variable_or_a_file() {
        let mut seen = std::collections::BTreeSet::new();
        for fetcher in ALL {
            assert!(seen.insert(fetcher.file), "{}", fetcher.file);
            for (name, _) in fetcher.build_env {
                assert!(seen.insert(*name), "{name}");
            }
        }
    }
}
