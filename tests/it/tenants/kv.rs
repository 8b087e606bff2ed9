//! The `kv` add-on over the real binary: what was acknowledged is there after the host was killed.

use oarlock_tests::app::App;
use rustix::process::Signal;

use crate::binary;

#[tokio::test]
async fn an_acknowledged_write_survives_the_death_of_the_host() {
    let manifest = r#"
        [processes]
        writer = "kv.wasm acks"
        kv = "kv.wasm"
        [scale]
        writer = 0
        kv = 0
        [addons]
        store = "kv"
    "#;
    let app = App::new(manifest).guest("kv.wasm", "kv-draft");
    let mut acknowledged = Vec::new();
    for run in 1..=3_u32 {
        let mut up = app.up(binary());
        up.command.args(["--scale", "writer=2"]);
        let mut host = up.start().await;
        host.output.wait_for(&format!(" {}", 40 * run)).await;
        host.signal(Signal::KILL);
        assert_eq!(host.wait().await, None);
        // What the binary told before it died, and nothing later, had been acknowledged.
        let acks = host.output.lines().into_iter().filter_map(|line| {
            let (_, ack) = line.split_once("acknowledged ")?;
            let (run, n) = ack.split_once(' ')?;
            Some((run.parse::<u32>().ok()?, n.parse::<u32>().ok()?))
        });
        acknowledged.extend(acks);
    }

    let host = app.up(binary()).start().await;
    let runs: std::collections::BTreeSet<u32> = acknowledged.iter().map(|(run, _)| *run).collect();
    assert!(runs.len() >= 3, "{runs:?}");
    for run in runs {
        let last = acknowledged
            .iter()
            .filter(|(of, _)| *of == run)
            .map(|(_, n)| *n)
            .max()
            .unwrap();
        let done = host
            .oarlock(&[
                "run",
                "kv",
                "--",
                "check",
                &run.to_string(),
                &last.to_string(),
            ])
            .await;
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(done.stdout.trim(), format!("{run}: all of 0 to {last}"));
    }
    assert_eq!(host.interrupt().await, Some(0));
}
