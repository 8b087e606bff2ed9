//! What is taken for a program, and what is refused, in words that say why.

use oarlock_sandbox::{LoadError, Origin, ProgramKind, Wasi};

use super::{engine, program};

fn refusal(wasm: &[u8]) -> LoadError {
    engine().load("web.wasm", wasm).err().expect("refused")
}

#[test]
fn all_four_kinds_are_told_apart() {
    assert_eq!(program("hello-p2").kind(), ProgramKind::Handler(Wasi::P2));
    assert_eq!(program("hello-p3").kind(), ProgramKind::Handler(Wasi::P3));
    assert_eq!(program("probe-p2").kind(), ProgramKind::Command(Wasi::P2));
    assert_eq!(program("probe-p3").kind(), ProgramKind::Command(Wasi::P3));
    assert_eq!(program("hello-p2").name(), "hello-p2.wasm");
}

#[test]
fn what_is_no_component_is_refused() {
    assert!(matches!(refusal(b"#!/bin/sh"), LoadError::NotWasm { .. }));
    assert!(matches!(refusal(b""), LoadError::NotWasm { .. }));
    assert!(matches!(
        refusal(&wat::parse_str("(module)").unwrap()),
        LoadError::CoreModule { .. }
    ));
    assert!(matches!(
        refusal(b"\0asm\x0d\0\x01\0rubbish"),
        LoadError::Invalid { .. }
    ));
}

#[test]
fn a_component_of_another_world_is_refused_with_its_exports() {
    let wasm = wat::parse_str(
        r#"(component (component $c) (instance $i (instantiate $c)) (export "some:other/thing@1.0.0" (instance $i)))"#,
    )
    .unwrap();
    let LoadError::WrongWorld { exports, .. } = refusal(&wasm) else {
        panic!()
    };
    assert_eq!(exports, ["some:other/thing@1.0.0"]);
}

#[test]
fn all_missing_imports_are_named_and_no_others() {
    let wasm = wat::parse_str(
        r#"(component
            (import "wasi:io/poll@0.2.3" (instance))
            (import "wasi:clocks/monotonic-clock@0.3.0" (instance))
            (import "wasi:nn/tensor@0.2.0-rc" (instance (export "load" (func))))
            (import "acme:queue/send@1.2.0" (instance (export "send" (func))))
            (component $c) (instance $i (instantiate $c)) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
    )
    .unwrap();
    let error = refusal(&wasm);
    let LoadError::MissingImports { imports, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        imports,
        &["wasi:nn/tensor@0.2.0-rc", "acme:queue/send@1.2.0"]
    );
}

#[test]
fn a_function_that_an_interface_lacks_is_named() {
    let wasm = wat::parse_str(
        r#"(component
            (import "wasi:cli/environment@0.2.0" (instance (export "get-moon-phase" (func))))
            (component $c) (instance $i (instantiate $c)) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
    )
    .unwrap();
    let text = refusal(&wasm).to_string();
    assert!(
        text.contains("wasi:cli/environment@0.2.0") && text.contains("get-moon-phase"),
        "{text}"
    );
}

#[test]
fn loads_of_one_component_at_once_compile_it_once() {
    let wasm = std::fs::read(oarlock_tests::guest("hello-p2")).unwrap();
    // An engine of its own: the others' has it already.
    let engine = super::engine_with(None);
    let programs: Vec<_> = std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| engine.load("web.wasm", &wasm).unwrap()))
            .collect();
        loads.into_iter().map(|load| load.join().unwrap()).collect()
    });
    let compiled = programs
        .iter()
        .filter(|p| matches!(p.origin(), Origin::Compiled(_)))
        .count();
    assert_eq!(compiled, 1);
}
