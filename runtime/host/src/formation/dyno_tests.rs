//! A dyno's task, with a run that a test pretends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oarlock_sandbox::Exit;
use tokio::sync::{mpsc, watch};

use super::dyno::{Control, News, RunEnd, Running, SETTLED, Signal, Task};
use super::table::DynoId;
use crate::logs::{AppLog, LogFilter};

/// A guest that ends when it is told to, as it likes.
struct Pretend {
    on_stop: Option<Exit>,
    stops: Arc<AtomicU32>,
    end: watch::Sender<Option<Exit>>,
}

impl Control for Pretend {
    fn stop(&self) {
        self.stops.fetch_add(1, Ordering::SeqCst);
        if let Some(exit) = &self.on_stop {
            self.end.send_replace(Some(exit.clone()));
        }
    }
    fn kill(&self) {
        self.end.send_replace(Some(Exit::Killed));
    }
}

struct Scene {
    signals: watch::Sender<Signal>,
    end: watch::Sender<Option<Exit>>,
    stops: Arc<AtomicU32>,
    log: AppLog,
    readies: mpsc::Receiver<News>,
    task: tokio::task::JoinHandle<RunEnd>,
}

fn scene(on_stop: Option<Exit>, grace: Duration, limit: Option<Duration>) -> Scene {
    let (signals, told) = watch::channel(Signal::Go);
    let (news, readies) = mpsc::channel(4);
    let (end, mut ended) = watch::channel(None);
    let log = AppLog::in_memory();
    let stops = Arc::new(AtomicU32::new(0));
    let mut task = Task {
        id: DynoId(1),
        name: "worker.1".parse().unwrap(),
        log: log.clone(),
        signals: told,
        news,
        boot_timeout: Duration::from_secs(1),
        stop_grace: grace,
        command: "worker.wasm".into(),
    };
    let running = Running {
        control: Box::new(Pretend {
            on_stop,
            stops: stops.clone(),
            end: end.clone(),
        }),
        ended: Box::pin(async move {
            ended
                .wait_for(Option::is_some)
                .await
                .unwrap()
                .clone()
                .unwrap()
        }),
    };
    let task = tokio::spawn(async move { task.supervise(running, limit).await });
    Scene {
        signals,
        end,
        stops,
        log,
        readies,
        task,
    }
}

impl Scene {
    async fn end(self) -> (RunEnd, Vec<String>) {
        let end = tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .unwrap()
            .unwrap();
        let lines = self.log.tail(100, &LogFilter::default());
        (end, lines.into_iter().map(|line| line.message).collect())
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_run_that_settles_is_ready_and_its_status_is_logged() {
    let mut scene = scene(None, LONG, None);
    let news = scene.readies.recv().await.unwrap();
    assert!(matches!(news, News::Ready { id: DynoId(1), .. }));
    scene.end.send_replace(Some(Exit::Code(1)));
    let (end, log) = scene.end().await;
    assert!(end.settled && !end.told);
    assert_eq!(end.exit, Exit::Code(1));
    assert_eq!(log, ["Process exited with status 1"]);
}

#[tokio::test]
async fn a_run_that_fails_at_once_was_never_ready() {
    let mut scene = scene(None, LONG, None);
    scene.end.send_replace(Some(Exit::Memory));
    tokio::time::sleep(SETTLED * 2).await;
    assert!(scene.readies.try_recv().is_err());
    let (end, log) = scene.end().await;
    assert!(!end.settled);
    assert_eq!(
        log,
        [
            "Error R14 (Memory limit reached)",
            "Process exited with status 126"
        ]
    );
}

#[tokio::test]
async fn a_short_run_that_ends_well_was_ready() {
    let mut scene = scene(None, LONG, None);
    scene.end.send_replace(Some(Exit::Code(0)));
    assert!(scene.readies.recv().await.is_some());
    assert!(scene.end().await.0.settled);
}

#[tokio::test]
async fn the_stop_signal_comes_first() {
    let scene = scene(Some(Exit::Code(0)), LONG, None);
    scene.signals.send_replace(Signal::Stop);
    let stops = scene.stops.clone();
    let (end, log) = scene.end().await;
    assert_eq!(
        (end.exit, end.told, stops.load(Ordering::SeqCst)),
        (Exit::Code(0), true, 1)
    );
    assert_eq!(
        log,
        [
            "Stopping the process with the stop signal",
            "Process exited with status 0"
        ]
    );
}

#[tokio::test]
async fn a_run_that_ignores_the_signal_is_ended_with_r12() {
    let scene = scene(None, Duration::from_millis(50), None);
    scene.signals.send_replace(Signal::Stop);
    let (end, log) = scene.end().await;
    assert_eq!((end.exit, end.told), (Exit::Killed, true));
    assert_eq!(
        log,
        [
            "Stopping the process with the stop signal",
            "Error R12 (Exit timeout) -> The process did not exit within 0.05 seconds of the stop signal",
            "Ending the process",
            "Process exited with status 126",
        ]
    );
}

#[tokio::test]
async fn a_run_over_its_limit_is_stopped() {
    let scene = scene(Some(Exit::Code(0)), LONG, Some(Duration::from_millis(20)));
    let (end, log) = scene.end().await;
    assert!(end.told);
    assert_eq!(log.first().unwrap(), "The process ran longer than it may");
}

#[tokio::test]
async fn a_dispatcher_that_is_gone_stops_its_dynos() {
    let mut scene = scene(Some(Exit::Code(0)), LONG, None);
    drop(std::mem::replace(
        &mut scene.signals,
        watch::channel(Signal::Wait).0,
    ));
    assert!(scene.end().await.0.told);
}
