//! How large a hello is: the table in `runtime/docs/src/guests.md`, printed with `--nocapture`.

use oarlock_tests::{Wasi, sdk_guest};

/// More than that page's figures by what a patch release of Rust or of a dependency may add.
const MOST: [(Wasi, &str, u64); 4] = [
    (Wasi::P2, "raw", 100),
    (Wasi::P2, "hello", 240),
    (Wasi::P3, "raw", 115),
    (Wasi::P3, "hello", 260),
];

#[test]
fn a_hello_stays_small() {
    println!("| WASI | guest | KB |\n|---|---|---:|");
    for (wasi, guest, most) in MOST {
        let size = std::fs::metadata(sdk_guest(wasi, guest)).unwrap().len();
        let kilobytes = size.div_ceil(1000);
        println!("| {wasi:?} | {guest} | {kilobytes} |");
        assert!(
            kilobytes <= most,
            "the guest {guest} on {wasi:?} has {kilobytes} KB, more than {most}"
        );
    }
}
