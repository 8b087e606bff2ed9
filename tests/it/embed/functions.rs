//! Host functions of the embedder's own.

use std::sync::{Arc, Mutex};

use oarlock_host::apply::ApplyError;
use oarlock_host::compile::LoadError;
use oarlock_host::wasmtime::component::{Accessor, HasSelf, Linker, Resource, bindgen};
use oarlock_host::wasmtime::{Result, StoreContextMut};
use oarlock_host::{AddError, App, Guest, HostFunctions};
use wasmtime_wasi::p2::DynPollable;

use super::{Embedded, ask, name, until, web};

bindgen!({
    inline: "
        package test:words@1.2.0;
        interface book {
            write: func(word: string);
        }
        world words-guest {
            import book;
        }
    ",
    world: "words-guest",
    wasmtime_crate: oarlock_host::wasmtime,
});

/// What guests wrote, and who they were.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Vec<String>>>);

impl test::words::book::Host for Guest {
    fn write(&mut self, word: String) {
        let line = format!("{} {}: {word}", self.app(), self.dyno());
        let book = self.data::<Book>().unwrap();
        book.0.lock().unwrap().push(line);
    }
}

fn link(linker: &mut Linker<Guest>) -> Result<()> {
    test::words::book::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
}

/// A command that writes one word by the host's function, and exits with 0.
fn writer(version: &str, word: &str) -> Vec<u8> {
    let length = word.len();
    wat::parse_str(format!(
        r#"(component
            (import "test:words/book@{version}" (instance $book
                (export "write" (func (param "word" string)))))
            (core module $memory (memory (export "memory") 1) (data (i32.const 0) "{word}"))
            (core instance $memory (instantiate $memory))
            (alias core export $memory "memory" (core memory $bytes))
            (core func $write (canon lower (func $book "write") (memory $bytes)))
            (core module $main
                (import "host" "write" (func $write (param i32 i32)))
                (func (export "run") (result i32)
                    (call $write (i32.const 0) (i32.const {length}))
                    (i32.const 0)))
            (core instance $main (instantiate $main
                (with "host" (instance (export "write" (func $write))))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $command (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $command)))"#
    ))
    .unwrap()
}

fn app(name: &str, component: Vec<u8>) -> App {
    App::from_manifest(format!(
        "app = \"{name}\"\n[processes]\nrelease = \"writer.wasm\"\nworker = \"writer.wasm\"\n[scale]\nworker = 0\n"
    ))
    .component("writer.wasm", component)
}

/// The imports that an app was refused for.
fn missing(error: AddError) -> Vec<String> {
    match error {
        AddError::Apply(ApplyError::Load(LoadError::MissingImports { imports, .. })) => imports,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn guests_call_them_and_they_know_who_calls() {
    let book = Book::default();
    let embedded = Embedded::with(|config| {
        config.functions = HostFunctions::new().with_data(book.clone()).link(link);
    });
    // An older patch version of the interface fits, as with WASI's.
    embedded.add(app("ada", writer("1.2.0", "hello"))).await;
    embedded.add(app("ben", writer("1.1.0", "moin"))).await;
    embedded
        .add(app("ada", writer("1.2.0", "again")).scale("worker", 1))
        .await;
    until("four words", || book.0.lock().unwrap().len() >= 4).await;
    let words = book.0.lock().unwrap().clone();
    let wrote = |start: &str, word: &str| {
        let wrote = |line: &&String| line.starts_with(start) && line.ends_with(word);
        words.iter().any(|line| wrote(&line))
    };
    assert!(wrote("ada release.", ": hello"), "{words:#?}");
    assert!(wrote("ben release.", ": moin"), "{words:#?}");
    assert!(wrote("ada release.", ": again"), "{words:#?}");
    assert!(wrote("ada worker.1", ": again"), "{words:#?}");
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn without_them_their_import_is_refused_by_name() {
    let embedded = Embedded::new();
    let error = embedded.host.add(app("ada", writer("1.2.0", "x"))).await;
    assert_eq!(missing(error.unwrap_err()), ["test:words/book@1.2.0"]);
}

#[tokio::test]
async fn another_major_version_is_another_interface() {
    let embedded = Embedded::with(|config| {
        config.functions = HostFunctions::new().with_data(Book::default()).link(link);
    });
    let error = embedded.host.add(app("ada", writer("2.0.0", "x"))).await;
    assert_eq!(missing(error.unwrap_err()), ["test:words/book@2.0.0"]);
}

#[tokio::test]
async fn those_of_one_app_do_not_exist_for_another() {
    let book = Book::default();
    let embedded = Embedded::with(|config| {
        config.functions = HostFunctions::new()
            .with_data(book.clone())
            .link_for([name("ada")], link);
    });
    embedded.add(app("ada", writer("1.2.0", "mine"))).await;
    let error = embedded
        .host
        .add(app("ben", writer("1.2.0", "theirs")))
        .await;
    assert_eq!(missing(error.unwrap_err()), ["test:words/book@1.2.0"]);
    assert_eq!(book.0.lock().unwrap().len(), 1);
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn those_that_run_beside_their_guests_stand_beside_those_that_do_not() {
    let book = Book::default();
    let embedded = Embedded::with(|config| {
        config.functions = HostFunctions::new().with_data(book.clone()).link(|linker| {
            link(linker)?;
            linker
                .instance("test:words/later@1.2.0")?
                .func_wrap_concurrent("write", |_, (_word,): (String,)| Box::pin(async { Ok(()) }))
        });
    });
    // It does not use the other, and is of WASI 0.2, as is a handler beside it.
    embedded.add(app("ada", writer("1.2.0", "hello"))).await;
    let served = embedded.add(web("shop", "handler-p2", "")).await;
    let answer = ask(&embedded.host.service(&served.app), "/").await;
    assert_eq!(answer.text(), "hello");
    assert_eq!(book.0.lock().unwrap().len(), 1);
    embedded.host.shutdown().await;
}

#[test]
fn what_cannot_be_linked_is_said_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    let config = oarlock_host::HostConfig {
        functions: HostFunctions::new().link(|linker| {
            link(linker)?;
            link(linker)
        }),
        ..oarlock_host::HostConfig::new(data.path())
    };
    let error = oarlock_host::Host::start(config).err().unwrap().to_string();
    assert!(error.contains("host functions cannot be linked"), "{error}");
}

/// Sleeping panics.
fn panicking() -> HostFunctions {
    HostFunctions::new().link(|linker| {
        linker.allow_shadowing(true);
        linker
            .instance("wasi:clocks/monotonic-clock@0.2.12")?
            .func_wrap(
                "subscribe-duration",
                |_: StoreContextMut<'_, Guest>, (_,): (u64,)| -> Result<(Resource<DynPollable>,)> {
                    panic!("in a function of 0.2")
                },
            )?;
        // Only one of the two engines has this.
        let concurrent = linker
            .instance("wasi:clocks/monotonic-clock@0.3.0")?
            .func_wrap_concurrent("wait-for", |_: &Accessor<Guest>, (_,): (u64,)| {
                Box::pin(async { panic!("in a function of 0.3") as Result<()> })
            });
        drop(concurrent);
        linker.allow_shadowing(false);
        Ok(())
    })
}

#[tokio::test]
async fn one_that_panics_costs_its_instance_and_no_thread() {
    let embedded = Embedded::with(|config| config.functions = panicking());
    let handlers = [
        ("fresh-two", "handler-p2", "isolation = \"request\""),
        ("reused-two", "handler-p2", "isolation = \"dyno\""),
        ("fresh-three", "handler-p3", "isolation = \"request\""),
        ("reused-three", "handler-p3", "isolation = \"dyno\""),
    ];
    let mut services = Vec::new();
    for (app, guest, limits) in handlers {
        services.push((app, embedded.serving(web(app, guest, limits)).await));
    }
    for (app, service) in &services {
        ask(service, "/sleep/1").await.assert_refused("H13");
        // The next request is served, of this app and of the others.
        for (neighbour, service) in &services {
            let answer = ask(service, "/").await;
            assert_eq!(answer.text(), "hello", "{neighbour} after {app}");
        }
    }
    for (app, _) in &services {
        embedded.logged(app, "web.1", "the host failed").await;
    }
    let worker =
        App::from_manifest("app = \"worker\"\n[processes]\nworker = \"worker.wasm sleep 1\"\n")
            .component("worker.wasm", super::guest("probe-p2"));
    // It crashes before it has settled, again and again.
    drop(embedded.host.add(worker).await);
    embedded
        .logged("worker", "worker.1", "the host failed")
        .await;
    for (app, service) in &services {
        assert_eq!(ask(service, "/").await.text(), "hello", "{app}");
    }
    embedded.host.shutdown().await;
}
