use std::time::Duration;

use super::*;
use crate::testing::{manifest, path_env, write};

fn app(command: Option<&str>) -> (tempfile::TempDir, Manifest) {
    let root = tempfile::tempdir().unwrap();
    let mut manifest = manifest(&[("web", "web.wasm")]);
    manifest.build = command.map(|command| oarlock_spec::manifest::Build {
        command: command.to_owned(),
    });
    (root, manifest)
}

async fn built(root: &Path, manifest: &Manifest) -> (Result<(), BuildError>, Vec<Progress>) {
    let mut told = Vec::new();
    let result = build(root, manifest, &path_env(), |progress| told.push(progress)).await;
    (result, told)
}

fn lines(told: &[Progress]) -> Vec<&str> {
    told.iter()
        .filter_map(|progress| match progress {
            Progress::Output(line) => Some(line.as_str()),
            Progress::Starting(_) => None,
        })
        .collect()
}

#[tokio::test]
async fn a_command_makes_the_components_and_is_heard() {
    let command = "echo one; printf two >&2; cat; echo made > web.wasm";
    let (root, manifest) = app(Some(command));
    let (result, told) = built(root.path(), &manifest).await;
    result.unwrap();
    assert_eq!(told[0], Progress::Starting(command.to_owned()));
    let mut lines = lines(&told);
    lines.sort_unstable();
    assert_eq!(lines, ["one", "two"]);
}

#[tokio::test]
async fn failures_are_told_with_the_code_and_what_is_missing() {
    let (root, manifest) = app(Some("exit 7"));
    let error = built(root.path(), &manifest)
        .await
        .0
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("exit code 7") && error.contains("`exit 7`"),
        "{error}"
    );
    let (root, manifest) = app(Some("true"));
    let error = built(root.path(), &manifest)
        .await
        .0
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("after `true`") && error.contains("web.wasm of process `web`"),
        "{error}"
    );
    let (root, manifest) = app(Some("no-such-program-here"));
    let error = built(root.path(), &manifest)
        .await
        .0
        .unwrap_err()
        .to_string();
    assert!(error.contains("was not found"), "{error}");
}

#[tokio::test]
async fn buildpacks_are_found_by_the_folder() {
    let (root, manifest) = app(None);
    write(root.path(), "package.json", "{}");
    let error = built(root.path(), &manifest)
        .await
        .0
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no JavaScript buildpack yet") && error.contains("--no-build"),
        "{error}"
    );
    // With its components there, an app of any language runs.
    write(root.path(), "web.wasm", "x");
    assert!(planned_command(root.path(), &manifest).unwrap().is_none());
    built(root.path(), &manifest).await.0.unwrap();
    write(root.path(), "Cargo.toml", "");
    assert_eq!(
        planned_command(root.path(), &manifest).unwrap().as_deref(),
        Some(rust::COMMAND)
    );
}

#[tokio::test]
async fn a_long_line_is_cut_and_background_processes_end() {
    let command = "head -c 100000 /dev/zero | tr '\\0' x; echo; sleep 1000 & echo $! > pid; echo x > web.wasm";
    let (root, manifest) = app(Some(command));
    let (result, told) = built(root.path(), &manifest).await;
    result.unwrap();
    assert_eq!(lines(&told)[0].len(), 8 * 1024);
    ended(&root.path().join("pid")).await;
}

/// Waits for the end of the process whose id a file holds.
async fn ended(pid: &Path) {
    let pid = std::fs::read_to_string(pid).unwrap();
    let status = Path::new("/proc").join(pid.trim()).join("stat");
    for _ in 0..500 {
        // A zombie has ended; who reaps it is the init's matter.
        match std::fs::read_to_string(&status) {
            Ok(stat) if !stat.contains(") Z ") => {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
            _ => return,
        }
    }
    panic!("the process {pid} goes on");
}

async fn appears(path: &Path) {
    for _ in 0..500 {
        if std::fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n')) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} does not appear", path.display());
}

#[tokio::test]
async fn dropping_the_build_kills_the_whole_group() {
    let (root, manifest) = app(Some("sh -c 'sleep 1000 & echo $! > pid; wait'"));
    let pid = root.path().join("pid");
    {
        let build = built(root.path(), &manifest);
        tokio::select! {
            _ = build => panic!("it ends only when it is dropped"),
            () = appears(&pid) => {}
        }
    }
    ended(&pid).await;
}

/// The child of [`a_killed_host_leaves_no_build_behind`].
#[tokio::test]
#[ignore = "run by another test, as a process of its own"]
async fn build_until_killed() {
    let Some(root) = std::env::var_os("OARLOCK_TEST_ROOT") else {
        return;
    };
    let (_, manifest) = app(Some("sleep 1000 & echo $! > pid; wait"));
    let _ = built(Path::new(&root), &manifest).await;
}

#[tokio::test]
async fn a_killed_host_leaves_no_build_behind() {
    let root = tempfile::tempdir().unwrap();
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "build::tests::build_until_killed", "--ignored"])
        .env("OARLOCK_TEST_ROOT", root.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = root.path().join("pid");
    appears(&pid).await;
    host.kill().unwrap();
    host.wait().unwrap();
    ended(&pid).await;
}

#[test]
fn the_callers_cargo_does_not_reach_the_apps() {
    let env: BTreeMap<String, String> = [
        ("PATH", "/bin"),
        ("CARGO_TARGET_DIR", "/elsewhere"),
        ("RUSTFLAGS", "-C target-cpu=native"),
        ("CARGO_PKG_NAME", "oarlock"),
        ("CARGO_MANIFEST_DIR", "/elsewhere"),
        ("RUSTUP_TOOLCHAIN", "1.95"),
        ("CARGO_HOME", "/home/cargo"),
        ("RUSTUP_HOME", "/home/rustup"),
        ("RUSTC_WRAPPER", "sccache"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut outside = env.clone();
    outside.remove("CARGO_MANIFEST_DIR");
    let names =
        |env: &BTreeMap<String, String>| command::clean_env(env).into_keys().collect::<Vec<_>>();
    assert_eq!(
        names(&env),
        ["CARGO_HOME", "PATH", "RUSTC_WRAPPER", "RUSTUP_HOME"]
    );
    // What the user set outside of cargo is meant.
    assert!(names(&outside).contains(&"RUSTUP_TOOLCHAIN".to_owned()));
}
