//! The test guests build, and are components.

fn is_component(path: &std::path::Path) -> bool {
    std::fs::read(path).unwrap().starts_with(b"\0asm\x0d\0\x01\0")
}

#[test]
fn rust_guests_are_components() {
    for name in ["hello-p2", "raw-wasip3", "waki-hello"] {
        assert!(is_component(&oarlock_tests::guest(name)), "{name}");
    }
}

#[test]
fn a_c_guest_is_a_component() {
    assert!(is_component(&oarlock_tests::c_guest("worker")));
}
