use std::time::Duration;

use super::*;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_owned();
    (temp, dir)
}

fn messages(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.message.as_str()).collect()
}

fn small(dir: PathBuf, file_bytes: u64, ring_bytes: usize) -> AppLog {
    AppLog::new(Some(Files::new(dir, file_bytes)), None, ring_bytes)
}

const ALL: LogFilter = LogFilter {
    dyno: None,
    source: None,
};

#[test]
fn lines_reach_the_ring_and_the_file_in_contract_form() {
    let (temp, dir) = folder();
    let logs = Logs::start().unwrap();
    let log = logs.open(dir);
    log.write(LogSource::App, "worker.1", "3 entries indexed");
    log.write(
        LogSource::Oarlock,
        "web.1",
        "State changed from starting to up",
    );
    let lines = log.tail(10, &ALL);
    logs.close();
    let text = std::fs::read_to_string(temp.path().join("app.log")).unwrap();
    let printed: String = lines.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(text, printed);
    assert!(
        text.contains("+00:00 app[worker.1]: 3 entries indexed\n"),
        "{text}"
    );
    log.write(LogSource::App, "worker.1", "too late");
    assert_eq!(log.tail(10, &ALL).len(), 2);
}

#[test]
fn after_a_restart_older_lines_come_from_the_file() {
    let (_temp, dir) = folder();
    let logs = Logs::start().unwrap();
    let log = logs.open(dir.clone());
    for n in 0..5 {
        log.write(LogSource::App, "web.1", &format!("old {n}"));
    }
    logs.close();
    // A host that was killed left half a line.
    let mut half = std::fs::OpenOptions::new()
        .append(true)
        .open(dir.join("app.log"))
        .unwrap();
    std::io::Write::write_all(&mut half, b"2026-11-22T10:00:00.1234").unwrap();
    drop(half);

    let logs = Logs::start().unwrap();
    let log = logs.open(dir);
    log.write(LogSource::App, "web.1", "new 0");
    assert_eq!(messages(&log.tail(3, &ALL)), ["old 3", "old 4", "new 0"]);
    log.inner.save();
    log.write(LogSource::App, "web.1", "new 1");
    assert_eq!(
        messages(&log.tail(100, &ALL)),
        [
            "old 0", "old 1", "old 2", "old 3", "old 4", "new 0", "new 1"
        ]
    );
    logs.close();
    assert_eq!(
        messages(&log.tail(4, &ALL)),
        ["old 3", "old 4", "new 0", "new 1"]
    );
}

#[test]
fn files_rotate_and_stay_bounded_and_tail_spans_ring_and_files() {
    let (temp, dir) = folder();
    let log = small(dir, 2_000, 1_000);
    for n in 0..200 {
        log.write(LogSource::App, "web.1", &format!("line {n}"));
        log.inner.save();
    }
    let sizes = ["app.log", "app.log.1"]
        .map(|name| std::fs::metadata(temp.path().join(name)).unwrap().len());
    assert!(
        sizes.iter().all(|size| (1..=2_000).contains(size)),
        "{sizes:?}"
    );
    let lines = log.tail(40, &ALL);
    let wanted: Vec<String> = (160..200).map(|n| format!("line {n}")).collect();
    assert_eq!(messages(&lines), wanted);
    assert!(lines.is_sorted_by_key(|line| line.time));
}

#[test]
fn lines_lost_to_the_file_are_counted() {
    let (temp, dir) = folder();
    let log = small(dir, 100_000, 2_000);
    for n in 0..100 {
        log.write(LogSource::App, "web.1", &format!("line {n}"));
    }
    let kept = log.tail(1_000, &ALL).len();
    log.close();
    let text = std::fs::read_to_string(temp.path().join("app.log")).unwrap();
    let told = format!(
        "oarlock[logs]: Error L10 (Lines dropped): {} lines were dropped",
        100 - kept
    );
    assert!(text.contains(&told), "{told}\n{text}");
    assert_eq!(text.lines().count(), kept + 1);
}

#[test]
fn filters_choose_dynos_types_and_sources() {
    let log = AppLog::in_memory();
    log.write(LogSource::App, "web.1", "a");
    log.write(LogSource::App, "web.12", "b");
    log.write(LogSource::Oarlock, "web.1", "c");
    log.write(LogSource::Oarlock, "router", "d");
    let find = |dyno: Option<&str>, source| {
        let filter = LogFilter {
            dyno: dyno.map(str::to_owned),
            source,
        };
        messages(&log.tail(10, &filter)).concat()
    };
    assert_eq!(find(Some("web.1"), None), "ac");
    assert_eq!(find(Some("web"), None), "abc");
    assert_eq!(find(Some("we"), None), "");
    assert_eq!(find(Some("web"), Some(LogSource::Oarlock)), "c");
    assert_eq!(find(None, Some(LogSource::Oarlock)), "cd");
}

#[test]
fn long_lines_come_in_pieces_and_line_ends_split() {
    let log = AppLog::in_memory();
    log.write(LogSource::App, "web.1", "one\r\ntwo\n");
    assert_eq!(messages(&log.tail(9, &ALL)), ["one", "two", ""]);
    let long = "é".repeat(LINE_BYTES);
    log.write(LogSource::App, "web.1", &long);
    let lines = log.tail(2, &ALL);
    assert!(lines.iter().all(|line| line.message.len() == LINE_BYTES));
    assert_eq!(messages(&lines).concat(), long);
}

#[test]
fn a_folder_that_cannot_be_written_is_said_once() {
    let (temp, dir) = folder();
    std::fs::create_dir(temp.path().join("app.log")).unwrap();
    let log = small(dir, 1_000, 100_000);
    for _ in 0..3 {
        log.write(LogSource::App, "web.1", "a");
        log.inner.save();
    }
    let lines = log.tail(10, &ALL);
    let told = lines
        .iter()
        .filter(|line| line.message.starts_with("the log file cannot be written"))
        .count();
    assert_eq!((lines.len(), told), (4, 1));
}

#[tokio::test]
async fn followers_get_old_and_new_lines_once() {
    let log = AppLog::in_memory();
    log.write(LogSource::App, "web.1", "0");
    log.write(LogSource::App, "web.1", "1");
    let mut follower = log.follow(1, ALL);
    let writing = log.clone();
    let thread = std::thread::spawn(move || {
        for n in 2..500 {
            writing.write(LogSource::App, "web.1", &n.to_string());
        }
        writing.close();
    });
    let mut got = Vec::new();
    while let Some(line) = tokio::time::timeout(Duration::from_secs(10), follower.next())
        .await
        .unwrap()
    {
        got.push(line.message);
    }
    thread.join().unwrap();
    let wanted: Vec<String> = (1..500).map(|n: u32| n.to_string()).collect();
    assert_eq!(got, wanted);
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_missed() {
    let log = AppLog::new(None, None, 1_000);
    let mut follower = log.follow(0, ALL);
    for n in 0..100 {
        log.write(LogSource::App, "web.1", &n.to_string());
    }
    let left = log.tail(1_000, &ALL);
    let first = follower.next().await.unwrap();
    let told = format!(
        "Error L10 (Lines dropped): {} lines were dropped because this follower",
        100 - left.len()
    );
    assert!(first.message.starts_with(&told), "{}", first.message);
    assert_eq!(first.source, LogSource::Oarlock);
    assert_eq!(follower.next().await, left.first().cloned());
}

#[test]
fn times_never_go_back_and_no_line_is_lost_under_many_threads() {
    let (temp, dir) = folder();
    let logs = Logs::start().unwrap();
    let log = logs.open(dir);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let log = log.clone();
            scope.spawn(move || {
                for n in 0..2_000 {
                    log.write(
                        LogSource::App,
                        &format!("web.{writer}"),
                        &format!("{n:0100}"),
                    );
                }
            });
        }
    });
    logs.close();
    let text = std::fs::read_to_string(temp.path().join("app.log")).unwrap();
    let times: Vec<&str> = text.lines().map(|line| &line[..32]).collect();
    assert!(times.is_sorted());
    assert_eq!(times.len(), 8_000);
    assert_eq!(log.tail(100_000, &ALL).len(), 8_000);
}

#[test]
fn a_silent_log_holds_no_file_and_goes_on_where_it_was() {
    let (temp, dir) = folder();
    let log = small(dir, 100_000, 100_000);
    let release = |idle| lock(&log.inner.files).as_mut().unwrap().release(idle);
    assert!(
        !release(Duration::ZERO),
        "nothing was written: nothing is open"
    );
    log.write(LogSource::App, "web.1", "one");
    log.inner.save();
    assert!(
        release(Duration::from_secs(3_600)),
        "it was written just now"
    );
    assert!(!release(Duration::ZERO));
    log.write(LogSource::App, "web.1", "two");
    log.inner.save();
    let text = std::fs::read_to_string(temp.path().join("app.log")).unwrap();
    let lines: Vec<_> = text.lines().map(|line| &line[line.len() - 3..]).collect();
    assert_eq!(lines, ["one", "two"]);
    assert_eq!(messages(&log.tail(10, &ALL)), ["one", "two"]);
}

#[test]
fn a_pipe_in_the_place_of_a_file_holds_nobody_up() {
    let (temp, dir) = folder();
    let fifo = rustix::fs::FileType::Fifo;
    for name in ["app.log", "app.log.1"] {
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, temp.path().join(name), fifo, mode, 0).unwrap();
    }
    let logs = Logs::start().unwrap();
    let log = logs.open(dir);
    log.write(LogSource::App, "web.1", "a line");
    // From the ring: no file has one.
    assert_eq!(messages(&log.tail(10, &ALL)), ["a line"]);
    logs.close();
}
