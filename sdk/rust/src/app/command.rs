//! Workers and jobs: one run, and what becomes of its error.

use std::io::Write as _;

use crate::{Error, Stopping};

/// Runs a worker.
///
/// # Errors
/// If `main` failed, after writing why to stderr.
pub async fn worker<F, Fut, E>(main: F) -> Result<(), ()>
where
    F: FnOnce(Stopping) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<Error>,
{
    end(main(Stopping::new()).await)
}

/// Runs a job.
///
/// # Errors
/// If `main` failed, after writing why to stderr.
pub async fn job<F, Fut, E>(main: F) -> Result<(), ()>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<Error>,
{
    end(main().await)
}

fn end<E: Into<Error>>(result: Result<(), E>) -> Result<(), ()> {
    let result = result.map_err(|error| report(&error.into()));
    // Nobody else does: a component that exports `run` has no end of `main` for std to hook.
    let _no_reader = std::io::stdout().flush();
    result
}

/// Writes an error and what caused it to stderr, as one line.
pub(crate) fn report(error: &Error) {
    let mut line = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    eprintln!("{line}");
}
