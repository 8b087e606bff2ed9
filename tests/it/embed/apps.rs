//! Apps from manifests, memory and folders.

use oarlock_host::apply::ApplyError;
use oarlock_host::spec::names::ReleaseId;
use oarlock_host::{AddError, App};

use super::{Embedded, ask, guest, name, until, web};

#[tokio::test]
async fn an_app_from_memory_runs_and_a_second_add_is_a_release() {
    let embedded = Embedded::new();
    let added = embedded.add(web("shop", "handler-p2", "")).await;
    assert_eq!((added.release, added.compiled), (ReleaseId(1), 1));
    let service = embedded.host.service(&added.app);
    assert_eq!(ask(&service, "/").await.text(), "hello");
    let shop = name("shop");
    let two = [("web".parse().unwrap(), 2)].into();
    embedded.host.scale(&shop, two).await.unwrap();
    let again = embedded
        .add(web("shop", "handler-p2", "").config("GREETING", "moin"))
        .await;
    assert_eq!((again.release, again.cached), (ReleaseId(2), 1));
    let env = ask(&service, "/env").await;
    assert!(env.text().contains("GREETING=moin\n"), "{env:?}");
    assert!(env.text().contains("OARLOCK_RELEASE=v2\n"), "{env:?}");
    // What was scaled stays so, unless the app says otherwise.
    let scale = async || embedded.host.formation(&shop).await.unwrap()["web"];
    assert_eq!(scale().await, 2);
    embedded
        .add(web("shop", "handler-p2", "").scale("web", 1))
        .await;
    assert_eq!(scale().await, 1);
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn an_app_from_a_folder_runs_with_its_config() {
    let folder = tempfile::tempdir().unwrap();
    let manifest =
        "app = \"folder\"\n[processes]\nweb = \"out/web.wasm\"\n[config]\nA = \"1\"\nB = \"1\"\n";
    std::fs::write(folder.path().join("oarlock.toml"), manifest).unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    std::fs::write(folder.path().join("out/web.wasm"), guest("handler-p3")).unwrap();
    let embedded = Embedded::new();
    let app = App::from_dir(folder.path()).unwrap().config("B", "2");
    let service = embedded.serving(app).await;
    let env = ask(&service, "/env").await;
    assert!(env.text().contains("A=1\nB=2\n"), "{env:?}");
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn a_procfile_names_its_processes_and_its_folder_the_app() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("plain");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("Procfile"), "web: web.wasm\n").unwrap();
    let missing = App::from_dir(&folder).err().unwrap();
    assert!(
        matches!(&missing, AddError::Read { path, .. } if path.ends_with("plain/web.wasm")),
        "{missing}"
    );
    std::fs::write(folder.join("web.wasm"), guest("handler-p2")).unwrap();
    let embedded = Embedded::new();
    let service = embedded.serving(App::from_dir(&folder).unwrap()).await;
    let env = ask(&service, "/env").await;
    assert!(env.text().contains("OARLOCK_APP=plain\n"), "{env:?}");
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn all_mistakes_of_a_manifest_are_said_at_once() {
    let embedded = Embedded::new();
    let app = App::from_manifest("app = \"Shop\"\n[proceses]\nweb = \"web.wasm\"\n");
    let error = embedded.host.add(app).await.unwrap_err();
    let AddError::Manifest(mistakes) = &error else {
        panic!("{error}")
    };
    assert!(mistakes.mistakes().len() >= 2, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("`Shop`") && text.contains("did you mean `processes`?"),
        "{text}"
    );
}

#[tokio::test]
async fn all_other_mistakes_are_said_at_once_too() {
    let embedded = Embedded::new();
    let manifest = "app = \"shop\"\n[processes]\nweb = \"web.wasm\"\nnightly = { run = \"n.wasm\", schedule = \"17 3 * * *\" }\n\
        [files]\ninclude = [\"static/**\"]\n";
    let app = App::from_manifest(manifest)
        .component("n.wasm", guest("formation-worker"))
        .component("page.html", "<p>")
        .config("PORT", "80")
        .config("NUL", "\0")
        .scale("nightly", 1)
        .scale("worker", 1)
        .scale("web", 100_000);
    let error = embedded.host.add(app).await.unwrap_err();
    let AddError::Mistakes(mistakes) = &error else {
        panic!("{error}")
    };
    let said = |text: &str| mistakes.iter().any(|mistake| mistake.contains(text));
    for text in [
        "`web` is `web.wasm`, and there is no such component",
        "no process is `page.html`",
        "`PORT` is set by Oarlock itself",
        "`NUL` holds a zero byte",
        "`nightly` has no scale",
        "no such process type",
        "`web` can have up to",
        "`App::files`",
    ] {
        assert!(said(text), "{text}: {mistakes:#?}");
    }
    assert!(embedded.host.dynos(&name("shop")).await.is_none());
}

#[tokio::test]
async fn a_release_that_fails_leaves_the_one_before() {
    let embedded = Embedded::new();
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    let broken = App::from_manifest("app = \"shop\"\n[processes]\nweb = \"web.wasm\"\n")
        .component("web.wasm", wat::parse_str("(component)").unwrap());
    let error = embedded.host.add(broken).await.unwrap_err();
    assert!(
        matches!(error, AddError::Apply(ApplyError::Load(_))),
        "{error}"
    );
    assert_eq!(ask(&service, "/").await.text(), "hello");
    let next = embedded.add(web("shop", "handler-p2", "")).await;
    assert_eq!(next.release, ReleaseId(3), "a number is never used twice");
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn the_embedders_policy_caps_and_defaults() {
    let policy = "[caps]\nmemory = \"64 MiB\"\n[defaults]\nmemory = \"32 MiB\"\n";
    let policy = oarlock_host::spec::policy::parse(policy).unwrap();
    let embedded = Embedded::with(|config| config.policy = policy);
    let greedy = web("shop", "handler-p2", "memory = \"65 MiB\"");
    let error = embedded.host.add(greedy).await.unwrap_err();
    assert!(matches!(error, AddError::Manifest(_)), "{error}");
    let service = embedded.serving(web("shop", "handler-p2", "")).await;
    assert_eq!(ask(&service, "/alloc/8").await.status, 200);
    ask(&service, "/alloc/48").await.assert_refused("H13");
    embedded.host.shutdown().await;
}

#[tokio::test]
async fn what_was_removed_answers_no_more_until_it_is_added_again() {
    let embedded = Embedded::new();
    let shop = name("shop");
    // It may be mounted before there is anything to serve.
    let service = embedded.host.service(&shop);
    ask(&service, "/").await.assert_refused("H14");
    embedded.add(web("shop", "handler-p2", "")).await;
    assert_eq!(ask(&service, "/").await.text(), "hello");
    embedded.host.remove(&shop).await;
    ask(&service, "/").await.assert_refused("H14");
    let again = embedded.add(web("shop", "handler-p2", "")).await;
    assert_eq!(again.release, ReleaseId(1));
    assert_eq!(ask(&service, "/").await.text(), "hello");
    embedded.host.shutdown().await;
}

/// A handler of WASI 0.2 that returns without a response.
const SILENT: &str = r#"(component
    (import "wasi:http/types@0.2.0" (instance $types
        (export "incoming-request" (type (sub resource)))
        (export "response-outparam" (type (sub resource)))))
    (alias export $types "incoming-request" (type $request))
    (alias export $types "response-outparam" (type $out))
    (core module $main (func (export "handle") (param i32 i32)))
    (core instance $main (instantiate $main))
    (func $handle (param "request" (own $request)) (param "response-out" (own $out))
        (canon lift (core func $main "handle")))
    (instance $handler (export "handle" (func $handle)))
    (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#;

#[tokio::test]
async fn an_instance_that_gives_no_response_is_replaced() {
    let embedded = Embedded::new();
    let manifest =
        "app = \"silent\"\n[processes]\nweb = \"web.wasm\"\n[limits.web]\nisolation = \"dyno\"\n";
    let app = App::from_manifest(manifest).component("web.wasm", wat::parse_str(SILENT).unwrap());
    let service = embedded.serving(app).await;
    for replaced in 1..=2 {
        assert_eq!(ask(&service, "/").await.error, "H13");
        let text = "Replacing the process: it ended a request without a response";
        until("it is replaced", || {
            let log = embedded.log("silent", "web.1");
            let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
            count(text) == replaced && count("State changed from starting to up") == replaced + 1
        })
        .await;
    }
    embedded.host.shutdown().await;
}
