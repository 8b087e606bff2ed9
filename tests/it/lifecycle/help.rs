//! What the command line promises: help texts as golden files, completions.
//!
//! `OARLOCK_WRITE_GOLDEN=1` writes the golden files anew, and fails where they changed.

use oarlock_spec::codes::exit;

const COMMANDS: [&str; 18] = [
    "",
    "up",
    "serve",
    "new",
    "build",
    "check",
    "ps",
    "scale",
    "restart",
    "run",
    "logs",
    "config",
    "config set",
    "config get",
    "config unset",
    "releases",
    "rollback",
    "completions",
];

#[tokio::test]
async fn every_help_text_is_as_promised_and_fits_80_columns() {
    let golden = oarlock_tests::repository().join("tests/it/golden/help");
    let write = std::env::var_os("OARLOCK_WRITE_GOLDEN").is_some();
    let folder = tempfile::tempdir().unwrap();
    let mut differ = Vec::new();
    for command in COMMANDS {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let done = oarlock_tests::app::oarlock(crate::binary(), folder.path(), &args).await;
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{command}");
        for line in done.stdout.lines() {
            assert!(line.chars().count() <= 80, "{command}: {line}");
        }
        let name = if command.is_empty() {
            "oarlock".to_owned()
        } else {
            command.replace(' ', "-")
        };
        let path = golden.join(format!("{name}.txt"));
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if done.stdout != expected {
            differ.push(format!(
                "{}\n--- expected\n{expected}--- said\n{}",
                path.display(),
                done.stdout
            ));
            if write {
                std::fs::create_dir_all(&golden).unwrap();
                std::fs::write(&path, &done.stdout).unwrap();
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[tokio::test]
async fn all_subcommands_have_their_help_here() {
    let folder = tempfile::tempdir().unwrap();
    let done = oarlock_tests::app::oarlock(crate::binary(), folder.path(), &["--help"]).await;
    let commands = done.stdout.split("Commands:\n").nth(1).unwrap();
    let listed: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    for name in listed
        .iter()
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase()))
    {
        // A wrapped description continues on a line of its own, which starts further right.
        let is_command = commands
            .lines()
            .any(|line| line.starts_with(&format!("  {name} ")));
        assert!(
            !is_command || COMMANDS.contains(name),
            "{name} has no golden help"
        );
    }
    assert!(listed.len() > 10);
}

#[tokio::test]
async fn completions_are_scripts_of_their_shells() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let done =
            oarlock_tests::app::oarlock(crate::binary(), folder.path(), &["completions", shell])
                .await;
        assert_eq!(done.code, 0, "{}", done.stderr);
        for word in ["oarlock", "rollback", "no-build"] {
            assert!(done.stdout.contains(word), "{shell}: {word}");
        }
        let script = folder.path().join(shell);
        std::fs::write(&script, &done.stdout).unwrap();
        // Where the shell is installed, it can read it.
        if let Ok(status) = std::process::Command::new(shell)
            .arg("-n")
            .arg(&script)
            .status()
        {
            assert!(status.success(), "{shell} does not understand its script");
        }
    }
    let done =
        oarlock_tests::app::oarlock(crate::binary(), folder.path(), &["completions", "csh"]).await;
    assert_eq!(done.code, i32::from(exit::USAGE));
    assert!(done.stderr.contains("possible values"), "{}", done.stderr);
}
