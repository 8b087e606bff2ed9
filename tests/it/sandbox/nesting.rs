//! Components that are nested in themselves as deep as their size allows: they are refused or compiled, on the stack
//! of a thread that compiles.

use oarlock_sandbox::LoadError;

use super::engine;

/// The stack of a blocking thread of tokio's.
const STACK: usize = 2 << 20;

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

/// Components in components: a section of number 4 holds one.
fn components(depth: usize) -> Vec<u8> {
    // From the inside; reversed, so that it only grows at its end.
    let mut reversed: Vec<u8> = COMPONENT.iter().rev().copied().collect();
    for _ in 0..depth {
        let mut head = COMPONENT.to_vec();
        head.push(4);
        head.extend(leb(reversed.len()));
        reversed.extend(head.iter().rev());
    }
    reversed.reverse();
    reversed
}

/// A type that is a list of lists of lists.
fn lists(depth: usize) -> Vec<u8> {
    let mut types = String::from("(type $t0 (list u8))");
    for level in 1..depth {
        types += &format!("(type $t{level} (list $t{}))", level - 1);
    }
    wat::parse_str(format!(
        "(component {types} (import \"f\" (func (param \"p\" $t{}))))",
        depth - 1
    ))
    .unwrap()
}

/// Blocks in blocks, in a function's body.
fn blocks(depth: usize) -> Vec<u8> {
    let body_length = 1 + 2 * depth + depth + 1;
    let mut code = vec![1];
    code.extend(leb(body_length));
    code.push(0);
    code.extend([0x02, 0x40].repeat(depth));
    code.extend(vec![0x0b; depth + 1]);
    let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a".to_vec();
    module.extend(leb(code.len()));
    module.extend(code);
    let mut component = COMPONENT.to_vec();
    component.push(1);
    component.extend(leb(module.len()));
    component.extend(module);
    component
}

fn load(wasm: Vec<u8>) -> Result<(), LoadError> {
    let engine = engine();
    std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || engine.load("nested.wasm", &wasm).map(drop))
        .unwrap()
        .join()
        .expect("it does not panic")
}

#[test]
fn nested_components_are_refused() {
    for depth in [101, 1_000, 20_000, 100_000] {
        let refused = load(components(depth)).unwrap_err();
        assert!(matches!(refused, LoadError::Invalid { .. }), "{refused}");
    }
    let shallow = load(components(100)).unwrap_err();
    assert!(matches!(shallow, LoadError::WrongWorld { .. }), "{shallow}");
}

#[test]
fn nested_types_are_refused() {
    let refused = load(lists(5_000)).unwrap_err();
    assert!(matches!(refused, LoadError::Invalid { .. }), "{refused}");
}

#[test]
fn nested_blocks_need_no_stack() {
    let wrong = load(blocks(100_000)).unwrap_err();
    // It is valid, and compiled; it only exports nothing.
    assert!(matches!(wrong, LoadError::WrongWorld { .. }), "{wrong}");
}
