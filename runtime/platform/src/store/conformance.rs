//! What every store must do: one suite, run over each.

use std::sync::Arc;
use std::time::Duration;

use super::*;

/// A place where a store lies; opening it again finds what was acknowledged.
pub(super) struct Fixture {
    pub(super) open: Box<dyn Fn() -> Arc<dyn Store> + Send + Sync>,
}

/// Runs the suite; `make` makes an empty place, whose log keeps that many changes.
pub(super) async fn run(make: impl AsyncFn(usize) -> Fixture) {
    reads_and_writes(&*(make(1000).await.open)()).await;
    conditions(&*(make(1000).await.open)()).await;
    batches(&*(make(1000).await.open)()).await;
    lists(&*(make(1000).await.open)()).await;
    bounds(&*(make(1000).await.open)()).await;
    watches(&*(make(1000).await.open)()).await;
    compaction(&*(make(10).await.open)()).await;
    one_winner((make(1000).await.open)()).await;
    no_lost_update((make(1000).await.open)()).await;
    gapless_under_load((make(100_000).await.open)()).await;
    reopened(&make(1000).await).await;
}

fn put(key: &str, value: &str) -> Write {
    Write::Put(key.to_owned(), value.as_bytes().to_vec())
}

fn delete(key: &str) -> Write {
    Write::Delete(key.to_owned())
}

fn absent(key: &str) -> Condition {
    Condition::Absent(key.to_owned())
}

fn unchanged(key: &str, rev: Rev) -> Condition {
    Condition::Unchanged(key.to_owned(), rev)
}

async fn done(store: &dyn Store, conditions: &[Condition], writes: &[Write]) -> Rev {
    match store.commit(conditions, writes).await.unwrap() {
        Commit::Done(rev) => rev,
        Commit::Conflict => panic!("conflict"),
    }
}

async fn reads_and_writes(store: &dyn Store) {
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(store.list("").await.unwrap(), (vec![], Rev(0)));
    let first = done(store, &[], &[put("a", "1")]).await;
    assert_eq!(first, Rev(1));
    let second = done(store, &[], &[put("a", "2")]).await;
    let entry = store.get("a").await.unwrap().unwrap();
    assert_eq!(
        (entry.value.as_slice(), entry.created, entry.modified),
        (b"2".as_slice(), first, second)
    );
    let third = done(store, &[], &[delete("a")]).await;
    assert!(second < third);
    assert_eq!(store.get("a").await.unwrap(), None);
    // A key that comes back is a new one.
    let fourth = done(store, &[], &[put("a", "3")]).await;
    assert_eq!(store.get("a").await.unwrap().unwrap().created, fourth);
    // What changes nothing takes no revision.
    assert_eq!(done(store, &[], &[delete("none")]).await, fourth);
    assert_eq!(done(store, &[], &[]).await, fourth);
    // Putting the same value is a change: its revision is what conditions look at.
    assert!(done(store, &[], &[put("a", "3")]).await > fourth);
    // Values are bytes, and may be empty.
    done(
        store,
        &[],
        &[
            Write::Put("bytes".to_owned(), vec![0, 255]),
            put("empty", ""),
        ],
    )
    .await;
    assert_eq!(store.get("bytes").await.unwrap().unwrap().value, [0, 255]);
    assert!(store.get("empty").await.unwrap().unwrap().value.is_empty());
}

async fn conditions(store: &dyn Store) {
    let rev = done(store, &[absent("a")], &[put("a", "1")]).await;
    let refused = store
        .commit(&[absent("a")], &[put("a", "2")])
        .await
        .unwrap();
    assert_eq!(refused, Commit::Conflict);
    assert_eq!(
        store
            .commit(&[unchanged("a", Rev(rev.0 + 1))], &[delete("a")])
            .await
            .unwrap(),
        Commit::Conflict
    );
    assert_eq!(
        store
            .commit(&[unchanged("none", Rev(0))], &[delete("a")])
            .await
            .unwrap(),
        Commit::Conflict
    );
    assert_eq!(store.get("a").await.unwrap().unwrap().value, b"1");
    // All conditions must hold, also those of keys that are not written.
    let both = [unchanged("a", rev), absent("a")];
    assert_eq!(
        store.commit(&both, &[put("b", "1")]).await.unwrap(),
        Commit::Conflict
    );
    assert_eq!(
        store.list("").await.unwrap().1,
        rev,
        "a conflict takes no revision"
    );
    done(store, &[unchanged("a", rev), absent("b")], &[put("b", "1")]).await;
    // A condition alone answers whether it holds.
    assert_eq!(
        store.commit(&[absent("a")], &[]).await.unwrap(),
        Commit::Conflict
    );
    done(store, &[unchanged("a", rev)], &[]).await;
}

async fn batches(store: &dyn Store) {
    done(store, &[], &[put("a", "1"), put("b", "1")]).await;
    let rev = done(
        store,
        &[],
        &[put("c", "1"), delete("a"), put("b", "2"), delete("none")],
    )
    .await;
    let (entries, at) = store.list("").await.unwrap();
    assert_eq!(at, rev);
    let keys: Vec<_> = entries
        .iter()
        .map(|entry| (entry.key.as_str(), entry.modified))
        .collect();
    assert_eq!(keys, [("b", rev), ("c", rev)], "one revision for all");
    let twice = store.commit(&[], &[put("d", "1"), delete("d")]).await;
    assert_eq!(twice, Err(Bound::DuplicateKey("d".to_owned()).into()));
}

async fn lists(store: &dyn Store) {
    let keys = ["a", "a/1", "a/10", "a/2", "a0", "b/1", "a~", "a/~"];
    for key in keys {
        done(store, &[], &[put(key, key)]).await;
    }
    let list = async |prefix: &str| {
        let (entries, _) = store.list(prefix).await.unwrap();
        entries
            .into_iter()
            .map(|entry| entry.key)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        list("a/").await,
        ["a/1", "a/10", "a/2", "a/~"],
        "in the order of bytes"
    );
    assert_eq!(
        list("a").await,
        ["a", "a/1", "a/10", "a/2", "a/~", "a0", "a~"]
    );
    assert_eq!(list("").await.len(), keys.len());
    assert_eq!(list("c").await, Vec::<String>::new());
    // What patterns mean elsewhere means itself here.
    assert_eq!(list("%").await, Vec::<String>::new());
    assert_eq!(list("A/").await, Vec::<String>::new());
}

async fn bounds(store: &dyn Store) {
    let long = "k".repeat(MAX_KEY);
    done(store, &[absent(&long)], &[put(&long, "1")]).await;
    let longer = "k".repeat(MAX_KEY + 1);
    let too_long = StoreError::from(Bound::KeyLength(MAX_KEY + 1));
    assert_eq!(store.get(&longer).await, Err(too_long.clone()));
    assert_eq!(store.list(&longer).await, Err(too_long.clone()));
    assert_eq!(
        store.commit(&[absent(&longer)], &[]).await,
        Err(too_long.clone())
    );
    assert_eq!(
        store.commit(&[], &[delete(&longer)]).await,
        Err(too_long.clone())
    );
    assert_eq!(
        store.watch(&longer, Rev(0)).next().await,
        Err(too_long.into())
    );
    assert_eq!(store.get("").await, Err(Bound::KeyLength(0).into()));
    for bad in ["a b", "ä", "a\n", "\u{7f}"] {
        assert_eq!(
            store.get(bad).await,
            Err(Bound::KeyCharacter(bad.to_owned()).into())
        );
    }
    let large = Write::Put("v".to_owned(), vec![1; MAX_VALUE]);
    done(store, &[], std::slice::from_ref(&large)).await;
    let larger = Write::Put("v".to_owned(), vec![1; MAX_VALUE + 1]);
    let error = store.commit(&[], &[put("other", "1"), larger]).await;
    assert_eq!(
        error,
        Err(Bound::ValueSize {
            key: "v".to_owned(),
            size: MAX_VALUE + 1
        }
        .into())
    );
    assert_eq!(
        store.get("other").await.unwrap(),
        None,
        "what is refused does nothing"
    );
    let many: Vec<Write> = (0..MAX_BATCH)
        .map(|n| put(&format!("many/{n}"), "1"))
        .collect();
    done(store, &[], &many).await;
    let error = store.commit(&[absent("x")], &many).await;
    assert_eq!(error, Err(Bound::BatchLength(MAX_BATCH + 1).into()));
    for part in 0..=MAX_LIST / MAX_BATCH {
        let writes: Vec<Write> = (0..MAX_BATCH)
            .map(|n| put(&format!("long/{part}/{n}"), ""))
            .collect();
        done(store, &[], &writes).await;
    }
    assert_eq!(
        store.list("long/").await,
        Err(Bound::ListLength("long/".to_owned()).into())
    );
    assert_eq!(store.list("long/1/").await.unwrap().0.len(), MAX_BATCH);
}

fn change(rev: Rev, key: &str, value: Option<&str>) -> Change {
    Change {
        rev,
        key: key.to_owned(),
        value: value.map(|text| text.as_bytes().to_vec()),
    }
}

async fn watches(store: &dyn Store) {
    let first = done(store, &[], &[put("w/a", "1"), put("x", "1")]).await;
    let second = done(store, &[], &[delete("w/a"), put("w/b", "2")]).await;
    done(store, &[], &[put("x", "2")]).await;
    let mut all = store.watch("w/", Rev(0));
    assert_eq!(all.next().await.unwrap(), [change(first, "w/a", Some("1"))]);
    let both = [
        change(second, "w/a", None),
        change(second, "w/b", Some("2")),
    ];
    assert_eq!(
        all.next().await.unwrap(),
        both,
        "a commit's changes come together, in its order"
    );
    let mut later = store.watch("w/", first);
    assert_eq!(
        later.next().await.unwrap(),
        both,
        "`from` itself is not told again"
    );
    // It waits for what is not there yet; what others write does not wake its caller.
    assert!(
        tokio::time::timeout(Duration::from_millis(30), all.next())
            .await
            .is_err()
    );
    done(store, &[], &[put("x", "3")]).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(30), all.next())
            .await
            .is_err()
    );
    let (third, next) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            done(store, &[], &[put("w/c", "3")]).await
        },
        all.next()
    );
    assert_eq!(next.unwrap(), [change(third, "w/c", Some("3"))]);
    assert_eq!(
        later.next().await.unwrap(),
        [change(third, "w/c", Some("3"))]
    );
    // A list and a watch from its revision miss nothing and repeat nothing.
    let (_, at) = store.list("w/").await.unwrap();
    let mut from_list = store.watch("w/", at);
    let fourth = done(store, &[], &[put("w/d", "4")]).await;
    assert_eq!(
        from_list.next().await.unwrap(),
        [change(fourth, "w/d", Some("4"))]
    );
}

async fn compaction(store: &dyn Store) {
    let mut slow = store.watch("k", Rev(0));
    let mut last = Rev(0);
    for n in 0..25 {
        last = done(store, &[], &[put("k", &n.to_string())]).await;
    }
    assert_eq!(slow.next().await, Err(WatchError::Compacted));
    assert_eq!(
        store.watch("other", Rev(1)).next().await,
        Err(WatchError::Compacted)
    );
    let mut fresh = store.watch("k", Rev(last.0 - 10));
    for n in 15..25 {
        let expected = change(Rev(last.0 - 24 + n), "k", Some(&n.to_string()));
        assert_eq!(fresh.next().await.unwrap(), [expected]);
    }
    // A commit of which a part is gone is gone whole.
    let writes: Vec<Write> = (0..11).map(|n| put(&format!("k{n}"), "")).collect();
    let wide = done(store, &[], &writes).await;
    assert_eq!(
        store.watch("k", Rev(wide.0 - 1)).next().await,
        Err(WatchError::Compacted)
    );
    assert_eq!(
        store.list("k").await.unwrap().0.len(),
        12,
        "state itself is never trimmed"
    );
}

async fn one_winner(store: Arc<dyn Store>) {
    for round in 0..5 {
        let key = format!("race/{round}");
        let attempts = (0..8).map(|n| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move {
                store
                    .commit(&[absent(&key)], &[put(&key, &n.to_string())])
                    .await
                    .unwrap()
            })
        });
        let outcomes = futures::future::join_all(attempts).await;
        let won = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Ok(Commit::Done(_))))
            .count();
        assert_eq!(won, 1);
    }
}

async fn no_lost_update(store: Arc<dyn Store>) {
    done(&*store, &[], &[put("n", "0")]).await;
    let workers = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..25 {
                loop {
                    let entry = store.get("n").await.unwrap().unwrap();
                    let n: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    let next = put("n", &(n + 1).to_string());
                    if store
                        .commit(&[unchanged("n", entry.modified)], &[next])
                        .await
                        .unwrap()
                        != Commit::Conflict
                    {
                        break;
                    }
                }
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.unwrap();
    }
    assert_eq!(store.get("n").await.unwrap().unwrap().value, b"100");
}

async fn gapless_under_load(store: Arc<dyn Store>) {
    let watcher = {
        let mut watch = store.watch("load/", Rev(0));
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < 600 {
                seen.extend(watch.next().await.unwrap());
            }
            seen
        })
    };
    let writers = (0..3).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..100 {
                let value = n.to_string();
                let a = put(&format!("load/{writer}/a"), &value);
                let b = put(&format!("load/{writer}/b"), &value);
                done(&*store, &[], &[a, b, put("noise", &value)]).await;
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let seen = tokio::time::timeout(Duration::from_secs(20), watcher)
        .await
        .unwrap()
        .unwrap();
    assert!(
        seen.is_sorted_by_key(|change| change.rev),
        "in the order of revisions"
    );
    for writer in 0..3 {
        for key in ["a", "b"] {
            let key = format!("load/{writer}/{key}");
            let values: Vec<String> = seen
                .iter()
                .filter(|change| change.key == key)
                .map(|change| String::from_utf8(change.value.clone().unwrap()).unwrap())
                .collect();
            let expected: Vec<String> = (0..100).map(|n: u32| n.to_string()).collect();
            assert_eq!(values, expected);
        }
    }
}

async fn reopened(fixture: &Fixture) {
    let store = (fixture.open)();
    let first = done(&*store, &[], &[put("a", "1")]).await;
    let second = done(&*store, &[], &[put("b", "2"), delete("a")]).await;
    drop(store);
    let store = (fixture.open)();
    let (entries, rev) = store.list("").await.unwrap();
    assert_eq!(rev, second);
    assert_eq!(
        entries
            .iter()
            .map(|entry| entry.key.as_str())
            .collect::<Vec<_>>(),
        ["b"]
    );
    // Watches go on where they were, and revisions too.
    let mut watch = store.watch("", first);
    assert_eq!(
        watch.next().await.unwrap(),
        [change(second, "b", Some("2")), change(second, "a", None)]
    );
    assert_eq!(
        done(&*store, &[unchanged("b", second)], &[put("b", "3")]).await,
        Rev(second.0 + 1)
    );
}
