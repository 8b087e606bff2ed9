//! The test guests build, and are components.

#[test]
fn hello_p2_is_a_component() {
    let bytes = std::fs::read(oarlock_tests::guest("hello-p2")).unwrap();
    assert_eq!(&bytes[..8], b"\0asm\x0d\0\x01\0");
}
