//! What guests may make in their folders: how deep and how much; and what is left of it.

use oarlock_sandbox::{Exit, Output, Stdin};

use super::{Setup, soon};

/// What a probe prints whose `/tmp` may have 100 entries; and that nothing is left of it.
async fn probe(guest: &str, args: &[&str]) -> Vec<String> {
    probe_with(100, guest, args).await
}

async fn probe_with(most: u64, guest: &str, args: &[&str]) -> Vec<String> {
    let tmp = tempfile::tempdir().unwrap();
    let setup = Setup::new().args(args).files(most).tmp_root(tmp.path());
    let run = setup.sandbox(guest).run(Stdin::Ended, Output::Log, &[]);
    let exit = soon(run.wait()).await;
    assert_eq!(exit, Exit::Code(0), "{args:?}: {:?}", setup.log.stderr());
    soon(async {
        while std::fs::read_dir(tmp.path()).unwrap().count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    setup.log.stdout()
}

#[tokio::test]
async fn folders_in_folders_have_a_bound() {
    assert_eq!(probe("probe-p2", &["deep", "64"]).await, ["all"]);
    assert_eq!(
        probe("probe-p2", &["deep", "65"]).await,
        ["64: InvalidFilename"],
        "ENAMETOOLONG, in 0.2"
    );
    assert_eq!(
        probe("probe-p3", &["deep"]).await,
        ["64: ErrorCode::NameTooLong"]
    );
}

#[tokio::test]
async fn a_move_makes_no_tree_deeper_than_that() {
    assert_eq!(
        probe_with(200, "probe-p2", &["nest"]).await,
        [
            "Err(InvalidFilename)",
            "Err(InvalidFilename)",
            "Ok(())",
            "Err((24, InvalidFilename))"
        ]
    );
}

#[tokio::test]
async fn entries_have_a_bound_and_what_is_removed_makes_room() {
    assert_eq!(probe("probe-p2", &["many", "100"]).await, ["100"]);
    assert_eq!(
        probe("probe-p2", &["many", "101"]).await,
        ["100: StorageFull"],
        "ENOSPC, in 0.2"
    );
    assert_eq!(
        probe("probe-p3", &["many"]).await,
        ["100: ErrorCode::InsufficientSpace"]
    );
}

#[tokio::test]
async fn entries_that_come_and_go_are_counted_as_they_do() {
    assert_eq!(
        probe("probe-p2", &["churn", "40"]).await,
        ["100: StorageFull"]
    );
}

#[tokio::test]
async fn what_was_there_before_does_not_count_and_a_read_only_folder_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..20 {
        std::fs::write(folder.path().join(format!("old-{number}")), "").unwrap();
    }
    let kept = |path: &str, writable| {
        let setup = Setup::new().args(&["write", path, "text"]).files(1);
        setup.folder("/data", folder.path(), writable)
    };
    for (path, writable, said) in [
        ("/data/new", false, "error: PermissionDenied"),
        ("/data/new", true, "text"),
        ("/data/old-1", true, "text"),
    ] {
        let setup = kept(path, writable);
        let run = setup
            .sandbox("probe-p2")
            .run(Stdin::Ended, Output::Log, &[]);
        soon(run.wait()).await;
        assert_eq!(setup.log.stdout(), [said], "{path}");
    }
}
