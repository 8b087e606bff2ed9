//! What ends is started again, by the clock of the test: tokio's, paused, which goes on by itself only to the end of a wait.

use tokio::sync::mpsc;
use tokio::time::Instant as Clock;

use super::*;
use crate::{Command, Event, Exit, Restart, RestartPolicy, Supervisor};

fn restart() -> Restart {
    Restart {
        policy: RestartPolicy {
            cap: Duration::from_secs(4),
            jitter: 0.0,
            ..RestartPolicy::default()
        },
        random: || 0.5,
    }
}

/// Not by the paused clock.
async fn next(told: &mut mpsc::Receiver<Event>) -> Event {
    told.recv().await.unwrap()
}

async fn started(told: &mut mpsc::Receiver<Event>) -> u32 {
    match next(told).await {
        Event::Started(id) => id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_ends_is_started_again_by_the_back_off() {
    let (_supervisor, mut told) = Supervisor::start(Command::shell("exit 3"), restart());
    let mut waits = Vec::new();
    let mut at = Vec::new();
    for _ in 0..7 {
        started(&mut told).await;
        at.push(Clock::now());
        match next(&mut told).await {
            Event::Ended { exit, wait } => {
                assert_eq!(exit, Exit::Code(3));
                waits.push(wait.as_millis());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waits, [0, 500, 1000, 2000, 4000, 4000, 4000]);
    // It waited as long as it said.
    let gaps: Vec<u128> = at
        .windows(2)
        .map(|two| (two[1] - two[0]).as_millis())
        .collect();
    for (gap, wait) in gaps.iter().zip(&waits) {
        assert!((*wait..wait + 100).contains(gap), "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_run_starts_the_count_anew() {
    let (_supervisor, mut told) = Supervisor::start(
        Command::shell("echo up; exec sleep 1000")
            .env(PATH)
            .stdout(crate::Stream::Piped),
        restart(),
    );
    let mut waits = Vec::new();
    for healthy in [false, false, false, true, false] {
        let id = started(&mut told).await;
        assert!(matches!(next(&mut told).await, Event::Line(line) if line == "up"));
        if healthy {
            tokio::time::advance(restart().policy.healthy).await;
        }
        let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        match next(&mut told).await {
            Event::Ended { exit, wait } => {
                assert_eq!(exit, Exit::Signal(9));
                waits.push(wait.as_millis());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waits, [0, 500, 1000, 0, 500]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_started_is_tried_again() {
    let (_supervisor, mut told) = Supervisor::start(Command::new("no-such-program"), restart());
    for expected in [0, 500, 1000] {
        match next(&mut told).await {
            Event::Failed { error, wait } => {
                assert!(error.to_string().contains("`no-such-program`"), "{error}");
                assert_eq!(wait.as_millis(), expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stop_is_the_end_and_says_how() {
    let script = "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.01; done";
    let command = Command::shell(script)
        .env(PATH)
        .stdout(crate::Stream::Piped);
    let (supervisor, mut told) = Supervisor::start(command, restart());
    started(&mut told).await;
    assert!(matches!(next(&mut told).await, Event::Line(line) if line == "up"));
    assert_eq!(supervisor.stop(PATIENCE).await, Some(Exit::Code(4)));
    // It is told what it said at last, and is not started again.
    assert!(matches!(next(&mut told).await, Event::Line(line) if line == "bye"));
    assert!(told.recv().await.is_none());
}

#[tokio::test]
async fn a_stop_in_a_wait_is_at_once() {
    let policy = RestartPolicy {
        first: Duration::from_secs(1000),
        cap: Duration::from_secs(1000),
        ..RestartPolicy::default()
    };
    let random = || 0.5;
    let command = Command::shell("exit 1");
    let (supervisor, mut told) = Supervisor::start(command, Restart { policy, random });
    for _ in 0..4 {
        next(&mut told).await;
    }
    assert_eq!(supervisor.stop(PATIENCE).await, None);
}

#[tokio::test]
async fn dropping_either_end_ends_the_child() {
    for drops_events in [false, true] {
        let command = Command::shell("exec sleep 1000").env(PATH);
        let (supervisor, mut told) = Supervisor::start(command, restart());
        let id = started(&mut told).await.to_string();
        assert!(runs(&id));
        let mut ends = (Some(supervisor), Some(told));
        if drops_events {
            ends.1 = None;
        } else {
            ends.0 = None;
        }
        // In tasks, so that this must let them run.
        for _ in 0..2000 {
            if !runs(&id) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!runs(&id), "it goes on; events dropped: {drops_events}");
    }
}
