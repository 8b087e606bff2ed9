//! What `wasi:keyvalue@0.2.0-draft2` promises, from inside: the argument names the scenario. It ends
//! with a panic where something is not as it should be.

wit_bindgen::generate!({ path: "../../../../runtime/sandbox/wit/keyvalue-draft2", world: "imports", generate_all });

use wasi::keyvalue::{atomics, batch, store};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args[0].as_str() {
        "basics" => basics(),
        "pages" => pages(),
        "count" => count(args[1].parse().unwrap()),
        "open" => println!("{:?}", store::open(&args[1]).map(drop)),
        other => panic!("no scenario {other}"),
    }
}

fn basics() {
    let bucket = store::open("default").unwrap();
    bucket.set("a", b"1").unwrap();
    assert_eq!(bucket.get("a").unwrap(), Some(b"1".to_vec()));
    batch::set_many(&bucket, &[("b".into(), b"2".to_vec())]).unwrap();
    let many = batch::get_many(&bucket, &["b".into(), "no".into()]).unwrap();
    assert_eq!(
        many,
        [("b".into(), Some(b"2".to_vec())), ("no".into(), None)]
    );
    assert_eq!(atomics::increment(&bucket, "n", -7).unwrap(), -7);
    assert_eq!(atomics::increment(&bucket, "n", 10).unwrap(), 3);

    // A swap whose entry was changed fails, brings a new handle, and then succeeds.
    let cas = atomics::Cas::new(&bucket, "a").unwrap();
    assert_eq!(cas.current().unwrap(), Some(b"1".to_vec()));
    bucket.set("a", b"2").unwrap();
    let Err(atomics::CasError::CasFailed(again)) = atomics::swap(cas, b"3") else {
        panic!("the swap went through")
    };
    assert_eq!(again.current().unwrap(), Some(b"2".to_vec()));
    atomics::swap(again, b"3").unwrap();
    assert_eq!(bucket.get("a").unwrap(), Some(b"3".to_vec()));
    batch::delete_many(&bucket, &["a".into(), "b".into(), "n".into()]).unwrap();
    println!("ok");
}

fn pages() {
    let bucket = store::open("default").unwrap();
    let pairs: Vec<_> = (0..1_500)
        .map(|i| (format!("k{i:04}"), vec![b'v']))
        .collect();
    batch::set_many(&bucket, &pairs).unwrap();
    let first = bucket.list_keys(None).unwrap();
    let second = bucket.list_keys(first.cursor.as_deref()).unwrap();
    assert_eq!(second.cursor, None);
    let keys: Vec<_> = first.keys.into_iter().chain(second.keys).collect();
    assert_eq!(
        keys,
        pairs.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    );
    println!("ok");
}

/// Counts by compare-and-swap.
fn count(times: u32) {
    let bucket = store::open("default").unwrap();
    for _ in 0..times {
        let mut cas = atomics::Cas::new(&bucket, "count").unwrap();
        loop {
            let now = cas.current().unwrap().map_or(0, |text| {
                String::from_utf8(text).unwrap().parse::<u64>().unwrap()
            });
            match atomics::swap(cas, (now + 1).to_string().as_bytes()) {
                Ok(()) => break,
                Err(atomics::CasError::CasFailed(again)) => cas = again,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    println!("ok");
}
