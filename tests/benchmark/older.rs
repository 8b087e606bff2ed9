//! Processor time per request beside an older release: both binaries in the same rounds, on the same guests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use oarlock_tests::statistics::median;

use crate::app;
use crate::load::Wrk;
use crate::plan::{Load, Row};
use crate::promises::Promise;
use crate::rows;
use crate::server::{self, Server, Tools};
use crate::{Arguments, Effort};

/// Rounds, if not told otherwise: an odd number, and enough for a median that one disturbed round does not move.
const ROUNDS: u32 = 9;
/// The most processor time per request, as a ratio to the older release's.
const MOST: f64 = 1.05;

/// Measures all rows of both; `older` is a binary, or a revision of this repository, which is built first.
pub(crate) fn measure(
    tools: &Tools,
    arguments: &Arguments,
    older: &str,
    effort: Effort,
) -> anyhow::Result<Vec<Promise>> {
    let older = binary(tools, older)?;
    let wrk = Wrk::new()?;
    let rounds = if effort.quick {
        1
    } else {
        arguments.rounds.max(ROUNDS)
    };
    let mut promises = Vec::new();
    for row in arguments.rows.iter().copied() {
        let [mut new, mut old] = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            eprintln!(
                "{}, beside the older release ({} of {rounds})",
                row.name(),
                round + 1
            );
            let mut pair = [(&tools.oarlock, &mut new), (&older, &mut old)];
            // Who comes first meets a cooler machine: each in its turn.
            if round % 2 == 1 {
                pair.reverse();
            }
            for (binary, samples) in pair {
                samples.push(sample(&wrk, binary, row, effort)?);
            }
        }
        promises.push(promise(row, &new, &old));
    }
    Ok(promises)
}

/// Microseconds of processor time per request in one window of load.
fn sample(wrk: &Wrk, binary: &Path, row: Row, effort: Effort) -> anyhow::Result<f64> {
    let load = Load::Hello;
    let addr = server::free_address()?;
    let made = app::App::new(&app::manifest(row, load), &row.component(load))?;
    let command = made.up(binary, addr);
    let server = Server::start(command, addr, Some(made))?;
    let sample = rows::sample(wrk, server, load, effort)?;
    ensure!(sample.failed == 0, "{} requests failed", sample.failed);
    Ok(sample.user_us + sample.system_us)
}

fn promise(row: Row, new: &[f64], old: &[f64]) -> Promise {
    let middle = |values: &[f64]| median(values.iter().copied()).unwrap_or(f64::NAN);
    let (ours, theirs) = (middle(new), middle(old));
    let pairs = new.iter().zip(old).map(|(new, old)| new / old);
    let of_rounds = median(pairs).unwrap_or(f64::NAN);
    let ratio = ours / theirs;
    Promise {
        what: format!("{}: CPU per request beside the older release", row.name()),
        asked: format!("≤ {MOST} times"),
        measured: format!(
            "{ratio:.3} times ({ours:.1} beside {theirs:.1} µs, medians of {}; within a round {of_rounds:.3})",
            new.len()
        ),
        share: Some(ratio / MOST),
    }
}

/// The older binary: the file of this name, or what this revision builds to.
fn binary(tools: &Tools, older: &str) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(older);
    if path.is_file() {
        return Ok(path);
    }
    build(tools, older)
        .with_context(|| format!("{older} is no file, and cannot be built as a revision"))
}

/// Builds a revision in a work tree of its own below `target/`, with the profile of this run.
fn build(tools: &Tools, revision: &str) -> anyhow::Result<PathBuf> {
    let repository = oarlock_tests::repository();
    let name = tools.oarlock.parent().and_then(Path::file_name);
    let profile = name.and_then(|name| name.to_str()).context("no profile")?;
    let git = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(repository)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "git {}: {said}",
            arguments.join(" ")
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--verify", &format!("{revision}^{{commit}}")])?;
    let folder = repository.join("target/older");
    let tree = folder.join(&commit);
    if !tree.is_dir() {
        git(&["worktree", "prune"])?;
        let at = tree.to_str().context("a path that is no text")?;
        git(&["worktree", "add", "--detach", at, &commit])?;
    }
    // One folder for all revisions: what they depend on is built once.
    let target = folder.join("build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--package",
            "oarlock",
            "--profile",
            profile,
            "--target-dir",
        ])
        .arg(&target)
        .current_dir(&tree)
        .status()?;
    ensure!(built.success(), "cargo ended with {built}");
    Ok(target.join(profile).join("oarlock"))
}
