//! Paths within the app: relative, `/`-separated, never leaving its folder.

/// What is wrong with a path within the app's folder, and what to write instead.
pub(crate) fn check(path: &str) -> Option<(String, Option<String>)> {
    let shown = crate::mistakes::brief(path);
    if path.contains('\\') {
        let help = format!(
            "write `{}`",
            crate::mistakes::brief(&path.replace('\\', "/"))
        );
        return Some((
            format!("`{shown}` has a backslash; paths are separated by `/`"),
            Some(help),
        ));
    }
    if path.starts_with('/') || path.starts_with('~') || has_drive(path) {
        let help = "give it relative to the folder of the manifest".to_owned();
        return Some((format!("`{shown}` is an absolute path"), Some(help)));
    }
    if path.split('/').any(|part| part == "..") {
        let help =
            "move the file into the app's folder, and write the path without `..`".to_owned();
        return Some((format!("`{shown}` may leave the app's folder"), Some(help)));
    }
    if path.chars().any(char::is_control) {
        return Some(("the path has a control character".to_owned(), None));
    }
    None
}

/// `C:` or `c:` at the start.
fn has_drive(path: &str) -> bool {
    let mut bytes = path.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic()) && bytes.next() == Some(b':')
}

/// The path without `.` parts and doubled slashes; empty if nothing is left.
pub(crate) fn tidy(path: &str) -> String {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect::<Vec<_>>()
        .join("/")
}

/// What is wrong with a glob of files within the app's folder.
pub(crate) fn check_glob(glob: &str) -> Option<(String, Option<String>)> {
    if glob.trim().is_empty() {
        return Some((
            "the glob is empty".to_owned(),
            Some("name files, as in \"static/**\"".to_owned()),
        ));
    }
    let shown = crate::mistakes::brief(glob);
    if glob.starts_with('!') {
        let help = "name only what is to be included".to_owned();
        return Some((
            format!("`{shown}` would exclude files, which globs here cannot"),
            Some(help),
        ));
    }
    if let Some(refusal) = check(glob) {
        return Some(refusal);
    }
    let pattern = globset::GlobBuilder::new(glob)
        .literal_separator(true)
        .build();
    pattern.err().map(|error| {
        (
            format!("`{shown}` is not a valid glob: {}", error.kind()),
            None,
        )
    })
}
