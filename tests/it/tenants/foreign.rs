//! Guests that know nothing of Oarlock under `oarlock up`: handlers of wstd, waki and raw wasip3, each
//! beside a worker in C.

use oarlock_tests::app::App;

use crate::binary;

#[tokio::test]
async fn guests_of_any_make_run_unmodified() {
    let c = oarlock_tests::c_guest("worker");
    for guest in ["hello-p2", "waki-hello", "raw-wasip3"] {
        let manifest = r#"
            [processes]
            web = "web.wasm"
            worker = "worker.wasm wait"
            job = "worker.wasm fail"
            [scale]
            web = 2
            job = 0
        "#;
        let app = App::new(manifest).guest("web.wasm", guest);
        std::fs::copy(&c, app.path().join("worker.wasm")).unwrap();
        let host = app.up(binary()).start().await;
        for _ in 0..4 {
            let answer = host.get("/a/path").await;
            assert_eq!(
                (answer.status, answer.text()),
                (200, "Hello, Oarlock"),
                "{guest}"
            );
        }
        host.output.wait_for("hello from C in worker.1").await;
        // wasi-libc's `exit` has only two codes in WASI 0.2.
        let job = host.oarlock(&["run", "job"]).await;
        assert_eq!(job.code, 1, "{job:?}");
        assert!(job.stdout.starts_with("hello from C in run."), "{job:?}");

        // The end of its stdin is the stop signal of a guest without our interface.
        let output = host.output.clone();
        assert_eq!(host.interrupt().await, Some(0), "{guest}");
        assert!(
            output.find("app[worker.1]: stopping").is_some(),
            "{:?}",
            output.lines()
        );
        assert!(output.find("R12").is_none(), "{:?}", output.lines());
    }
}
