//! Mistakes and bad surroundings: each ends `up` with its code and a message that says what to do.

use std::os::unix::fs::symlink;

use oarlock_spec::codes::exit;
use oarlock_tests::app::{App, Finished, Launch};

use super::{command, refused, starts_and_serves};

const WEB: &str = "[processes]\nweb = \"web.wasm\"\n";

fn web() -> App {
    App::new(WEB).guest("web.wasm", "hello-p2")
}

fn assert_refused(done: &Finished, code: u8, words: &[&str]) {
    assert_eq!(done.code, i32::from(code), "{}", done.stderr);
    for word in words {
        assert!(
            done.stderr.contains(word),
            "{word:?} is not in:\n{}",
            done.stderr
        );
    }
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_up_in_one_folder_is_told_who_runs() {
    let app = web();
    let running = app.up(crate::binary()).start().await;
    let pid = running.pid().as_raw_nonzero().to_string();
    let done = refused(&app).await;
    assert_refused(
        &done,
        exit::ALREADY_RUNNING,
        &[&format!("process {pid}"), &format!("`kill {pid}`")],
    );
    assert_eq!(running.get("/").await.status, 200, "the first goes on");
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_address_is_said_whoever_has_it() {
    let app = web();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let up = |address: String| {
        let app = &app;
        async move { command(app, &["up", "--no-build", "--listen", &address]).await }
    };
    let done = up(address.clone()).await;
    assert_refused(&done, exit::ADDRESS_IN_USE, &[&address, "--listen"]);
    drop(other);

    // Another `up` shares its port among its own threads, but not with a second one.
    let neighbour = web();
    let running = neighbour.up(crate::binary()).start().await;
    let address = running.address().to_string();
    let done = up(address.clone()).await;
    assert_refused(&done, exit::ADDRESS_IN_USE, &[&address, "--listen"]);
    assert_eq!(running.get("/").await.status, 200);
    assert_eq!(running.interrupt().await, Some(0));
    starts_and_serves(&app).await;
}

/// A file system of `size`, seen by this `up` only; `None` where none can be made.
async fn up_on_a_small_disk(size: &str) -> Option<Finished> {
    let place = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=$SIZE none . && cd \"$PWD\" && cp $GUEST web.wasm || exit 77\n\
        printf 'app = \"full\"\\n[processes]\\nweb = \"web.wasm\"\\n' > oarlock.toml || exit 77\n\
        exec timeout -s KILL 60 $BINARY up --no-build --listen 127.0.0.1:0";
    let mut launch = Launch::new(std::path::Path::new("unshare"), place.path())
        .args(&["-rm", "sh", "-c", script]);
    launch
        .command
        .env("SIZE", size)
        .env("GUEST", oarlock_tests::guest("hello-p2"))
        .env("BINARY", crate::binary());
    let done = launch.command.output().await.ok()?;
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.status.code() == Some(77) || stderr.contains("unshare:") {
        return None;
    }
    Some(Finished {
        code: done.status.code().unwrap_or(-1),
        stdout: String::new(),
        stderr,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_wherever_it_is_met() {
    // Too small for the state, for the slug's copy, for the log of what is written.
    let needed = std::fs::metadata(oarlock_tests::guest("hello-p2"))
        .unwrap()
        .len()
        / 1024;
    for more in [12, 60, 200, 340] {
        let Some(done) = up_on_a_small_disk(&format!("{}k", needed + more)).await else {
            println!("skipped: no file system can be mounted here (`unshare -rm`)");
            return;
        };
        assert_refused(&done, exit::FAILURE, &["disk is full"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_that_cannot_be_are_refused_by_name() {
    let app = App::new("[processes]\nweb = \"web.wasm\"\nworker = \"worker.wasm\"\n")
        .guest("web.wasm", "hello-p2");
    let worker = app.path().join("worker.wasm");
    assert_refused(
        &refused(&app).await,
        exit::BUILD,
        &[
            "worker.wasm of process `worker`",
            "there is no such file",
            "build the app",
        ],
    );

    std::fs::create_dir(&worker).unwrap();
    assert_refused(
        &refused(&app).await,
        exit::BUILD,
        &["worker.wasm", "this is a folder"],
    );
    std::fs::remove_dir(&worker).unwrap();

    symlink("nowhere", &worker).unwrap();
    assert_refused(&refused(&app).await, exit::BUILD, &["worker.wasm"]);
    std::fs::remove_file(&worker).unwrap();

    if !rustix::process::geteuid().is_root() {
        app.put_guest("worker.wasm", "probe-p2");
        let nobody = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        std::fs::set_permissions(&worker, nobody).unwrap();
        assert_refused(
            &refused(&app).await,
            exit::BUILD,
            &["worker.wasm", "permission denied"],
        );
        std::fs::remove_file(&worker).unwrap();
    }

    for (what, bytes, words) in [
        ("a text", b"hello".to_vec(), vec!["worker.wasm"]),
        ("nothing", Vec::new(), vec!["worker.wasm"]),
        (
            "a core module",
            wat::parse_str("(module)").unwrap(),
            vec!["core WebAssembly module", "wasm32-wasip2"],
        ),
        (
            "no world",
            wat::parse_str("(component)").unwrap(),
            vec!["worker.wasm", "wasi:cli/run"],
        ),
        (
            "missing imports",
            wat::parse_str(
                r#"(component
                    (import "acme:blob/store@1.2.0" (instance (export "get" (func))))
                    (import "acme:blob/other@1.2.0" (instance (export "put" (func))))
                    (core module $code (func (export "run") (result i32) i32.const 0))
                    (core instance $core (instantiate $code))
                    (func $run (result (result)) (canon lift (core func $core "run")))
                    (instance $command (export "run" (func $run)))
                    (export "wasi:cli/run@0.2.0" (instance $command)))"#,
            )
            .unwrap(),
            vec![
                "worker.wasm",
                "acme:blob/store@1.2.0",
                "acme:blob/other@1.2.0",
            ],
        ),
    ] {
        std::fs::write(&worker, bytes).unwrap();
        println!("{what}");
        assert_refused(&refused(&app).await, exit::BUILD, &words);
    }

    app.put_guest("worker.wasm", "hello-p2");
    assert_refused(
        &refused(&app).await,
        exit::BUILD,
        &["`worker`", "worker.wasm is an HTTP handler", "wasi:cli/run"],
    );
    app.put_guest("worker.wasm", "probe-p2");
    // None of it is in the way of what is right.
    app.write(
        "oarlock.toml",
        "app = \"test\"\n[processes]\nweb = \"web.wasm\"\nworker = \"worker.wasm stdin\"\n",
    );
    app.put_guest("web.wasm", "hello-p2");
    starts_and_serves(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_fails_is_said_with_its_output() {
    let app = web();
    app.write(
        "oarlock.toml",
        &format!("app = \"test\"\n{WEB}[build]\ncommand = \"echo it is so; exit 3\"\n"),
    );
    let done = command(&app, &["up", "--listen", "127.0.0.1:0"]).await;
    assert_refused(
        &done,
        exit::BUILD,
        &["it is so", "exit code 3", "`echo it is so; exit 3`"],
    );
    assert_refused(
        &command(&app, &["build"]).await,
        exit::BUILD,
        &["it is so", "exit code 3"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_of_two_hundred_characters_works() {
    let app = web();
    let deep = format!("{}/{}", "a".repeat(100), "b".repeat(100));
    app.write(
        &format!("{deep}/oarlock.toml"),
        &format!("app = \"deep\"\n{WEB}"),
    );
    app.put_guest(&format!("{deep}/web.wasm"), "hello-p2");
    let folder = app.path().join(deep);
    let running = Launch::new(crate::binary(), &folder)
        .args(&["up", "--no-build", "--listen", "127.0.0.1:0"])
        .start()
        .await;
    assert_eq!(running.get("/").await.status, 200);
    let scaled = running.oarlock(&["scale", "web=2"]).await;
    assert_eq!(
        (scaled.code, scaled.stdout.as_str()),
        (0, "web=2\n"),
        "{}",
        scaled.stderr
    );
    assert_eq!(running.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn symbolic_links_in_the_data_folder_are_refused() {
    for name in ["state.db", "control.sock", "apps", "slugs", "tmp", "lock"] {
        let app = web();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::create_dir(app.path().join(".oarlock")).unwrap();
        symlink(
            elsewhere.path().join("victim"),
            app.path().join(".oarlock").join(name),
        )
        .unwrap();
        assert_refused(
            &refused(&app).await,
            exit::FAILURE,
            &[name, "symbolic link", "remove it"],
        );
        assert_eq!(super::names_in(elsewhere.path()), [""; 0]);
        std::fs::remove_file(app.path().join(".oarlock").join(name)).unwrap();
        if name == "state.db" {
            starts_and_serves(&app).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_the_manifest_are_readable_at_80_columns() {
    let app = App::new(
        "app = \"Bad App\"\n[processes]\nweb = \"\"\nworker = { run = \"w.wasm\", scedule = \"x\" }\n\
         [scael]\nweb = 2\n[config]\nPORT = \"1\"\n",
    );
    for args in [["check", "."], ["up", "."], ["build", "."]] {
        let done = command(&app, &args).await;
        assert_refused(
            &done,
            exit::MANIFEST,
            &[
                "oarlock.toml:1:7",
                "oarlock.toml:5:2",
                "did you\n    mean `schedule`?",
                "unknown key `scael`, did you mean `scale`?",
                "5 mistakes",
            ],
        );
        assert!(
            done.stderr.lines().all(|line| line.chars().count() <= 80),
            "{}",
            done.stderr
        );
        assert_eq!(done.stdout, "");
    }
    assert!(
        !app.path().join(".oarlock").exists(),
        "nothing is made for an app that cannot be"
    );

    let empty = tempfile::tempdir().unwrap();
    let done = oarlock_tests::app::oarlock(crate::binary(), empty.path(), &["up"]).await;
    assert_refused(
        &done,
        exit::MANIFEST,
        &["oarlock.toml", "Procfile", "oarlock new"],
    );
    let done = command(&app, &["up", "nowhere"]).await;
    assert_refused(&done, exit::MANIFEST, &["nowhere: there is no such folder"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_in_dot_env_are_all_said_with_their_lines() {
    let app = web();
    app.write(".env", "GOOD=1\nnothing\nPORT=3\nOPEN=\"x\n");
    let done = refused(&app).await;
    assert_refused(
        &done,
        exit::MANIFEST,
        &[
            ".env:2: `nothing`",
            ".env:3: `PORT`",
            ".env:4:",
            "not closed",
        ],
    );
    std::fs::remove_file(app.path().join(".env")).unwrap();
    std::fs::create_dir(app.path().join(".env")).unwrap();
    assert_refused(
        &refused(&app).await,
        exit::MANIFEST,
        &[".env: this is a folder"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_arguments_say_how_they_are_written() {
    let app = web();
    let up = |more: &'static [&'static str]| {
        let app = &app;
        async move {
            command(
                app,
                &[&["up", "--no-build", "--listen", "127.0.0.1:0"], more].concat(),
            )
            .await
        }
    };
    assert_refused(&up(&["--scale", "web"]).await, exit::USAGE, &["`web=3`"]);
    assert_refused(
        &up(&["--scale", "web=1,web=2"]).await,
        exit::USAGE,
        &["`web` is named twice"],
    );
    assert_refused(
        &up(&["--scale", "wep=2"]).await,
        exit::MANIFEST,
        &["`wep`", "web"],
    );
    assert_refused(
        &up(&["--policy", "none.toml"]).await,
        exit::FAILURE,
        &["none.toml"],
    );
    assert_refused(
        &command(&app, &["new", "Not A Name"]).await,
        exit::USAGE,
        &["`Not A Name`"],
    );
    app.write("taken/file", "");
    assert_refused(
        &command(&app, &["new", "taken"]).await,
        exit::FAILURE,
        &["`taken`", "choose another name"],
    );
}

fn fifo(path: &std::path::Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[tokio::test]
async fn a_cloned_app_cannot_have_up_read_or_wait_for_anything_else() {
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("key");
    std::fs::write(&key, "KEY=secret-of-the-user").unwrap();

    let app = web();
    symlink(&key, app.path().join(".env")).unwrap();
    let done = refused(&app).await;
    assert_refused(&done, exit::MANIFEST, &[".env", "leads out"]);
    assert!(!done.stderr.contains("secret-of-the-user"));

    let app = web();
    fifo(&app.path().join(".env"));
    let done = refused(&app).await;
    assert_refused(&done, exit::MANIFEST, &[".env", "a named pipe"]);

    let app = App::new(WEB);
    symlink(&key, app.path().join("web.wasm")).unwrap();
    let done = refused(&app).await;
    assert_refused(&done, exit::BUILD, &["web.wasm", "leads out"]);

    let app = web();
    std::fs::remove_file(app.path().join("oarlock.toml")).unwrap();
    fifo(&app.path().join("oarlock.toml"));
    for args in [&["check"][..], &["build"]] {
        let done = command(&app, args).await;
        assert_refused(&done, exit::MANIFEST, &["oarlock.toml", "a named pipe"]);
    }

    // The state lies in the app's folder, and is no part of the app.
    let more = "[files]\ninclude = [\".oarlock/**\"]\n";
    let app = App::new(&format!("{WEB}{more}")).guest("web.wasm", "hello-p2");
    let done = refused(&app).await;
    let words = &["`.oarlock/**`", "never part of an app"];
    assert_refused(&done, exit::MANIFEST, words);

    // Nor may what came with the app be waited for there.
    let app = web();
    std::fs::create_dir(app.path().join(".oarlock")).unwrap();
    fifo(&app.path().join(".oarlock/.gitignore"));
    let done = refused(&app).await;
    assert_refused(&done, exit::FAILURE, &[".gitignore", "a named pipe"]);
}
