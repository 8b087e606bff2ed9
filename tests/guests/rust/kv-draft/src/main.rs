//! What `wasi:keyvalue@0.2.0-draft` promises, from inside: the argument names the scenario. It ends
//! with a panic where something is not as it should be.

wit_bindgen::generate!({ path: "../../../../runtime/sandbox/wit/keyvalue-draft", world: "imports", generate_all });

use wasi::keyvalue::{atomics, batch, store};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args[0].as_str() {
        "basics" => basics(),
        "pages" => pages(),
        "count" => count(args[1].parse().unwrap()),
        "acks" => acks(),
        "check" => check(&args[1], args[2].parse().unwrap()),
        "open" => println!("{:?}", store::open(&args[1]).map(drop)),
        "set" => store::open(&args[1])
            .unwrap()
            .set(&args[2], args[3].as_bytes())
            .unwrap(),
        "get" => println!(
            "{:?}",
            store::open(&args[1])
                .unwrap()
                .get(&args[2])
                .unwrap()
                .map(|v| String::from_utf8(v).unwrap())
        ),
        other => panic!("no scenario {other}"),
    }
}

fn basics() {
    let bucket = store::open("default").unwrap();
    assert_eq!(bucket.get("a").unwrap(), None);
    bucket.set("a", b"1").unwrap();
    assert!(bucket.exists("a").unwrap() && !bucket.exists("b").unwrap());
    batch::set_many(
        &bucket,
        &[("b".into(), b"2".to_vec()), ("c".into(), b"3".to_vec())],
    )
    .unwrap();
    let many = batch::get_many(&bucket, &["c".into(), "no".into(), "a".into()]).unwrap();
    assert_eq!(
        many,
        [
            Some(("c".into(), b"3".to_vec())),
            None,
            Some(("a".into(), b"1".to_vec()))
        ]
    );
    batch::delete_many(&bucket, &["b".into(), "no".into()]).unwrap();
    bucket.delete("c").unwrap();
    assert_eq!(bucket.list_keys(None).unwrap().keys, ["a"]);
    assert_eq!(atomics::increment(&bucket, "n", 5).unwrap(), 5);
    assert_eq!(
        atomics::increment(&bucket, "n", u64::MAX - 5).unwrap(),
        u64::MAX
    );
    assert!(matches!(
        atomics::increment(&bucket, "n", 1),
        Err(store::Error::Other(_))
    ));
    assert!(matches!(
        bucket.set(&"k".repeat(2000), b""),
        Err(store::Error::Other(_))
    ));
    println!("ok");
}

fn pages() {
    let bucket = store::open("default").unwrap();
    let pairs: Vec<_> = (0..2_500).map(|i| (format!("k{i}"), vec![b'v'])).collect();
    batch::set_many(&bucket, &pairs).unwrap();
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor).unwrap();
        batch::delete_many(&bucket, &page.keys).unwrap();
        seen.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2_500);
    assert!(bucket.list_keys(None).unwrap().keys.is_empty());
    println!("ok");
}

/// Writes without end, and says of each write when it has been acknowledged.
fn acks() {
    let bucket = store::open("default").unwrap();
    let run = atomics::increment(&bucket, "runs", 1).unwrap();
    for n in 0.. {
        bucket
            .set(&format!("{run}/{n}"), n.to_string().as_bytes())
            .unwrap();
        println!("acknowledged {run} {n}");
    }
}

/// Whether the first writes of a run are there, up to this one.
fn check(run: &str, last: u32) {
    let bucket = store::open("default").unwrap();
    for n in 0..=last {
        let value = bucket.get(&format!("{run}/{n}")).unwrap();
        assert_eq!(value, Some(n.to_string().into_bytes()), "{run}/{n}");
    }
    println!("{run}: all of 0 to {last}");
}

fn count(times: u32) {
    let bucket = store::open("default").unwrap();
    for _ in 0..times {
        atomics::increment(&bucket, "count", 1).unwrap();
    }
    println!("ok");
}
