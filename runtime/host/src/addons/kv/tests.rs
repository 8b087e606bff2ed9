use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const I64: RangeInclusive<i128> = i64::MIN as i128..=i64::MAX as i128;
/// Set for the child of `acknowledged_writes_survive_kill_9`.
const CHILD: &str = "OARLOCK_TEST_KV_CHILD";

impl std::ops::Deref for Bucket {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

fn bucket(store: Arc<Store>, size: u64) -> Arc<Bucket> {
    Arc::new(Bucket { store, size })
}

fn open(data: &Path, idle: Duration) -> Arc<Bucket> {
    bucket(Store::new(data, "store", idle), DEFAULT_SIZE)
}

fn store() -> (tempfile::TempDir, Arc<Bucket>) {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path(), IDLE);
    (data, store)
}

fn pair(key: &str, value: &str) -> (String, Vec<u8>) {
    (key.to_owned(), value.as_bytes().to_vec())
}

async fn get(store: &Bucket, key: &str) -> Option<Vec<u8>> {
    store
        .get(vec![key.to_owned()])
        .await
        .unwrap()
        .pop()
        .unwrap()
}

#[tokio::test]
async fn sets_gets_and_deletes() {
    let (data, store) = store();
    assert_eq!(get(&store, "a").await, None);
    store
        .set(vec![pair("a", "1"), pair("b", "2"), pair("a", "3")])
        .await
        .unwrap();
    let keys = ["b", "no", "a"].map(str::to_owned).to_vec();
    assert_eq!(
        store.get(keys).await.unwrap(),
        [Some(b"2".to_vec()), None, Some(b"3".to_vec())]
    );
    store
        .delete(vec!["a".to_owned(), "no".to_owned()])
        .await
        .unwrap();
    assert_eq!(store.version("a".to_owned()).await.unwrap(), 0);
    store.close().await;
    assert!(matches!(
        store.set(vec![pair("a", "1")]).await,
        Err(KvError::Failed(_))
    ));
    // Another handle finds it all.
    let again = open(data.path(), IDLE);
    assert_eq!(get(&again, "b").await, Some(b"2".to_vec()));
    assert_eq!(get(&again, "a").await, None);
}

#[tokio::test]
async fn nothing_is_opened_before_its_first_use() {
    let (data, store) = store();
    assert!(!data.path().join("store").exists());
    store.version("a".to_owned()).await.unwrap();
    assert!(data.path().join("store/kv.redb").exists());
}

#[tokio::test]
async fn a_full_store_takes_only_what_makes_it_smaller() {
    let (_data, store) = store();
    let store = bucket(Arc::clone(&store.store), 10_000);
    store
        .set(vec![pair("a", &"x".repeat(9_000))])
        .await
        .unwrap();
    let refused = store
        .set(vec![
            pair("b", &"x".repeat(500)),
            pair("c", &"x".repeat(500)),
        ])
        .await;
    assert_eq!(
        refused,
        Err(KvError::Full {
            used: 10_000 + 1_000 - 1_000 + 195,
            limit: 10_000
        })
    );
    // All or nothing.
    assert_eq!(get(&store, "b").await, None);
    store.set(vec![pair("b", "small")]).await.unwrap();
    // Another release has it smaller; the one beside it goes on as before.
    let large = store.clone();
    let store = bucket(Arc::clone(&store.store), 100);
    assert!(matches!(
        store.set(vec![pair("b", "larger")]).await,
        Err(KvError::Full { .. })
    ));
    assert!(matches!(
        store.increment("n".to_owned(), 1, I64).await,
        Err(KvError::Full { .. })
    ));
    large.set(vec![pair("b", "large!")]).await.unwrap();
    store.set(vec![pair("a", "y")]).await.unwrap();
    store.delete(vec!["b".to_owned()]).await.unwrap();
    assert_eq!(
        store.open().await.unwrap().shared.database.used(),
        1 + 1 + 64
    );
    store.delete(vec!["a".to_owned()]).await.unwrap();
    assert_eq!(store.open().await.unwrap().shared.database.used(), 0);
}

#[tokio::test]
async fn limits_of_keys_values_and_calls() {
    let (data, store) = store();
    for too_large in [
        store.set(vec![pair(&"k".repeat(1_025), "v")]).await,
        store
            .set(vec![("k".to_owned(), vec![0; VALUE_BYTES + 1])])
            .await,
        store
            .set((0..2).map(|i| (format!("{i}"), vec![0; 7 << 20])).collect())
            .await,
        store.delete(vec!["k".to_owned(); 10_001]).await,
        store.get(vec!["k".to_owned(); 10_001]).await.map(drop),
    ] {
        assert!(
            matches!(too_large, Err(KvError::TooLarge(_))),
            "{too_large:?}"
        );
    }
    assert!(
        !data.path().join("store").exists(),
        "refused before anything is opened"
    );
    for key in ["a", "b", "c", "d", "e"] {
        store
            .set(vec![(key.to_owned(), vec![7; 7 << 20])])
            .await
            .unwrap();
    }
    let all = store
        .get(["a", "b", "c", "d", "e"].map(str::to_owned).to_vec())
        .await;
    assert!(matches!(all, Err(KvError::TooLarge(_))));
    assert_eq!(get(&store, "c").await.unwrap().len(), 7 << 20);
}

#[tokio::test]
async fn pages_stay_right_while_entries_come_and_go() {
    let (_data, store) = store();
    store
        .set((0..2_500).map(|i| pair(&format!("k{i:05}"), "v")).collect())
        .await
        .unwrap();
    let (mut by_key, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(after).await.unwrap();
        by_key.extend(page.keys);
        after = page.cursor;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(by_key.len(), 2_500);
    assert!(by_key.is_sorted());
    // Deleting what a page brought neither skips nor repeats anything.
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let page = store.list_created(after).await.unwrap();
        assert!(page.keys.len() <= 1_000);
        seen.extend(page.keys.clone());
        store.delete(page.keys).await.unwrap();
        store
            .set(vec![pair(&format!("a-late-{after}"), "v")])
            .await
            .unwrap();
        match page.cursor {
            Some(cursor) => after = cursor,
            None => break,
        }
    }
    seen.retain(|key| key.starts_with('k'));
    assert_eq!(seen, by_key);
    assert_eq!(
        store.list(None).await.unwrap().keys.len(),
        1,
        "the last late one came after the last page"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_and_swaps_of_many_lose_nothing() {
    let (_data, store) = store();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..25 {
                    store.increment("count".to_owned(), 1, I64).await.unwrap();
                    let mut version = store.version("list".to_owned()).await.unwrap();
                    loop {
                        let mut value = get(&store, "list").await.unwrap_or_default();
                        value.push(b'x');
                        match store.swap("list".to_owned(), version, value).await.unwrap() {
                            KvSwap::Done => break,
                            KvSwap::Changed(now) => version = now,
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(get(&store, "count").await, Some(b"200".to_vec()));
    assert_eq!(get(&store, "list").await.map(|list| list.len()), Some(200));
}

#[tokio::test]
async fn counters_keep_to_their_range_and_swaps_to_their_version() {
    let (_data, store) = store();
    let unsigned = 0..=i128::from(u64::MAX);
    let count = |delta, range| store.increment("n".to_owned(), delta, range);
    assert_eq!(count(-5, I64).await, Ok(-5));
    assert!(matches!(
        count(1, unsigned.clone()).await,
        Err(KvError::WrongType(_))
    ));
    assert_eq!(
        get(&store, "n").await,
        Some(b"-5".to_vec()),
        "what failed changed nothing"
    );
    assert_eq!(count(5, unsigned.clone()).await, Ok(0));
    assert_eq!(
        count(i128::from(u64::MAX), unsigned.clone()).await,
        Ok(i128::from(u64::MAX))
    );
    assert!(matches!(
        count(1, unsigned).await,
        Err(KvError::WrongType(_))
    ));
    store.set(vec![pair("n", "many")]).await.unwrap();
    assert!(matches!(count(1, I64).await, Err(KvError::WrongType(_))));

    // A value that came back is still another version.
    store.set(vec![pair("s", "a")]).await.unwrap();
    let version = store.version("s".to_owned()).await.unwrap();
    store.set(vec![pair("s", "b")]).await.unwrap();
    store.set(vec![pair("s", "a")]).await.unwrap();
    let before = store.commits().await;
    let swap = store
        .swap("s".to_owned(), version, b"c".to_vec())
        .await
        .unwrap();
    let KvSwap::Changed(now) = swap else {
        panic!("{swap:?}")
    };
    assert_eq!(
        store.swap("s".to_owned(), now, b"c".to_vec()).await,
        Ok(KvSwap::Done)
    );
    assert_eq!(store.commits().await, before + 2);
    assert_eq!(
        store.swap("new".to_owned(), 0, b"c".to_vec()).await,
        Ok(KvSwap::Done)
    );
    assert!(matches!(
        store.swap("new".to_owned(), 0, b"d".to_vec()).await,
        Ok(KvSwap::Changed(_))
    ));
}

#[tokio::test]
async fn a_damaged_file_is_named_and_a_repaired_one_is_opened_without_a_restart() {
    let (data, store) = store();
    std::fs::create_dir(data.path().join("store")).unwrap();
    let file = data.path().join("store/kv.redb");
    std::fs::write(&file, vec![0x5a; 100_000]).unwrap();
    let error = store.version("a".to_owned()).await.unwrap_err().to_string();
    assert!(
        error.contains("damaged") && error.contains("store/kv.redb"),
        "{error}"
    );
    assert!(!error.contains(data.path().to_str().unwrap()), "{error}");
    std::fs::remove_file(&file).unwrap();
    store.set(vec![pair("a", "1")]).await.unwrap();
}

#[tokio::test]
async fn a_file_in_use_by_another_handle_is_an_error() {
    let (data, store) = store();
    store.set(vec![pair("a", "1")]).await.unwrap();
    let second = open(data.path(), IDLE);
    let error = second
        .version("a".to_owned())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("in use by another process"), "{error}");
    assert_eq!(get(&store, "a").await, Some(b"1".to_vec()));
}

#[tokio::test]
async fn a_link_out_of_the_data_folder_is_not_followed() {
    let (data, store) = store();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), data.path().join("store")).unwrap();
    assert!(matches!(
        store.version("a".to_owned()).await,
        Err(KvError::Failed(_))
    ));
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let data = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    // Twice, so that a database that was repaired once is written and killed again.
    for round in 0..2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "addons::kv::tests::child_that_writes_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD, format!("{round}={}", data.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let before = acknowledged.len();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            acknowledged.extend(
                line.strip_prefix("ack ")
                    .filter(|key| key.ends_with('.'))
                    .map(str::to_owned),
            );
            if acknowledged.len() == before + 300 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(
            acknowledged.len() >= before + 300,
            "the child ended early, after {}",
            acknowledged.len()
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(data.path(), IDLE);
        for keys in acknowledged.chunks(1_000) {
            for (key, value) in keys.iter().zip(store.get(keys.to_vec()).await.unwrap()) {
                assert_eq!(
                    value.map(|value| value.len()),
                    Some(1_000),
                    "{key} was acknowledged"
                );
            }
        }
        store.set(vec![pair("after", "1")]).await.unwrap();
    });
}

#[test]
#[ignore = "the child of acknowledged_writes_survive_kill_9"]
fn child_that_writes_until_it_is_killed() {
    let Ok(argument) = std::env::var(CHILD) else {
        return;
    };
    let (round, data) = argument.split_once('=').unwrap();
    let (round, store) = (round.to_owned(), open(Path::new(data), IDLE));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (store, round) = (Arc::clone(&store), round.clone());
                tokio::spawn(async move {
                    // Bounded: should the parent be gone, this ends.
                    for i in 0..20_000 {
                        let key = format!("{round}-{writer}-{i}.");
                        store
                            .set(vec![(key.clone(), vec![b'v'; 1_000])])
                            .await
                            .unwrap();
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "ack {key}").unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[tokio::test]
async fn after_a_failed_commit_the_database_is_opened_anew() {
    let (_data, store) = store();
    store.set(vec![pair("a", "1")]).await.unwrap();
    let failed = store.open().await.unwrap();
    failed.shared.broken.store(true, Ordering::Release);
    // The old handle's lock is waited for: someone may still be reading by it.
    let reader = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(failed);
    });
    store.set(vec![pair("b", "2")]).await.unwrap();
    reader.await.unwrap();
    assert_eq!(get(&store, "a").await, Some(b"1".to_vec()));
    assert_eq!(store.commits().await, 1);
}

#[tokio::test]
async fn a_database_that_nobody_uses_is_closed_and_opened_again() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path(), Duration::from_millis(50));
    for round in 0..3 {
        let value = round.to_string();
        store.set(vec![pair("a", &value)]).await.unwrap();
        assert_eq!(get(&store, "a").await, Some(value.into_bytes()));
        for turn in 0.. {
            if store.open.load().is_none() {
                break;
            }
            assert!(turn < 1_000, "it stays open");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // Its file is nobody's: another handle gets it, without waiting for a lock.
    drop(store.gate.lock().await);
    let other = open(data.path(), IDLE);
    assert_eq!(get(&other, "a").await, Some(b"2".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_meet_the_close_lose_nothing() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path(), Duration::ZERO);
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for round in 0..50 {
                    let key = format!("{task}-{round}");
                    store.set(vec![pair(&key, "v")]).await.unwrap();
                    assert_eq!(get(&store, &key).await, Some(b"v".to_vec()));
                    tokio::time::sleep(Duration::from_millis(round % 3)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
