use oarlock_spec::manifest::Process;

use super::*;

fn addon(provider: &str, line: u32) -> Addon {
    Addon {
        provider: provider.to_owned(),
        plan: None,
        processes: None,
        prefix: None,
        mount: None,
        size: None,
        url_from: None,
        line,
    }
}

fn only(addon: Addon, process: &str) -> Addon {
    Addon {
        processes: Some(vec![process.parse().unwrap()]),
        ..addon
    }
}

fn manifest(addons: &[(&str, Addon)]) -> Manifest {
    let process = Process {
        component: "x.wasm".to_owned(),
        args: Vec::new(),
        singleton: false,
        schedule: None,
        line: 3,
    };
    Manifest {
        app: "shop".parse().unwrap(),
        processes: ["web", "worker"]
            .map(|name| (name.parse().unwrap(), process.clone()))
            .into(),
        scale: BTreeMap::new(),
        addons: addons
            .iter()
            .map(|(name, addon)| (name.parse().unwrap(), addon.clone()))
            .collect(),
        config: BTreeMap::new(),
        allow: Vec::new(),
        limits: BTreeMap::new(),
        build: None,
        files: Vec::new(),
    }
}

fn config(vars: &[(&str, &str)]) -> BTreeMap<String, String> {
    vars.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

async fn bind(
    addons: &[(&str, Addon)],
    vars: &[(&str, &str)],
) -> Result<BTreeMap<String, Binding>, String> {
    let data = tempfile::tempdir().unwrap();
    let bound = AppAddons::new(data.path())
        .bind(&manifest(addons), &config(vars))
        .await;
    bound
        .map(|bindings| {
            bindings
                .into_iter()
                .map(|(process, binding)| (process.to_string(), binding))
                .collect()
        })
        .map_err(|error| error.to_string())
}

async fn refused(addons: &[(&str, Addon)], vars: &[(&str, &str)]) -> String {
    match bind(addons, vars).await {
        Ok(_) => panic!("bound"),
        Err(error) => error,
    }
}

const URL: &str = "postgres://ada:hunter2@db.example.com/crm";

#[tokio::test]
async fn kv_gives_a_bucket_and_no_variable() {
    let addons = [
        ("store", addon("kv", 8)),
        ("private", only(addon("kv", 9), "worker")),
    ];
    let bound = bind(&addons, &[("A", "1")]).await.unwrap();
    assert_eq!(bound["web"].kv.keys().collect::<Vec<_>>(), ["store"]);
    assert_eq!(
        bound["worker"].kv.keys().collect::<Vec<_>>(),
        ["private", "store"]
    );
    assert!(bound["web"].env.is_empty() && bound["web"].endpoints.is_empty());
    assert_eq!(
        bound["web"].environment(&config(&[("A", "1")])),
        config(&[("A", "1")])
    );
}

#[tokio::test]
async fn processes_and_releases_share_one_database() {
    let data = tempfile::tempdir().unwrap();
    let addons = AppAddons::new(data.path());
    let manifest = manifest(&[("store", addon("kv", 8))]);
    let first = addons.bind(&manifest, &BTreeMap::new()).await.unwrap();
    let second = addons.bind(&manifest, &BTreeMap::new()).await.unwrap();
    first["web"].kv["store"]
        .set(vec![("k".to_owned(), b"v".to_vec())])
        .await
        .unwrap();
    let seen = second["worker"].kv["store"]
        .get(vec!["k".to_owned()])
        .await
        .unwrap();
    assert_eq!(seen, [Some(b"v".to_vec())]);
    addons.close().await;
    // The file is free again.
    let again = AppAddons::new(data.path())
        .bind(&manifest, &BTreeMap::new())
        .await
        .unwrap();
    assert_eq!(
        again["web"].kv["store"]
            .get(vec!["k".to_owned()])
            .await
            .unwrap(),
        seen
    );
}

#[tokio::test]
async fn external_gives_a_url_and_one_socket_to_its_processes_only() {
    let crm = Addon {
        url_from: Some("CRM_SECRET".to_owned()),
        ..only(addon("external", 8), "worker")
    };
    let vars = [("CRM_SECRET", URL), ("OTHER", "1")];
    let bound = bind(&[("crm-db", crm)], &vars).await.unwrap();
    assert_eq!(
        bound["worker"].environment(&config(&vars)),
        config(&[("CRM_DB_URL", URL), ("OTHER", "1")])
    );
    let endpoint = Endpoint {
        addon: "crm-db".to_owned(),
        host: "db.example.com".to_owned(),
        port: 5432,
        chosen_by: oarlock_sandbox::ChosenBy::App,
    };
    assert_eq!(bound["worker"].endpoints, [endpoint]);
    assert_eq!(
        bound["web"].environment(&config(&vars)),
        config(&[("OTHER", "1")]),
        "the password is not for the web"
    );
    assert!(bound["web"].endpoints.is_empty());

    let prefixed = Addon {
        prefix: Some("JOBS".to_owned()),
        ..addon("external", 8)
    };
    let bound = bind(&[("crm", prefixed)], &[("JOBS_URL", URL)])
        .await
        .unwrap();
    assert_eq!(
        bound["web"].environment(&config(&[("JOBS_URL", URL)])),
        config(&[("JOBS_URL", URL)])
    );
}

#[tokio::test]
async fn errors_name_the_line_and_what_to_do_and_no_password() {
    let missing = refused(&[("crm", addon("external", 8))], &[]).await;
    assert!(
        missing.starts_with(
            "add-on `crm` (line 8 of the manifest): the config var `CRM_URL` is not set"
        ),
        "{missing}"
    );
    let no_port = refused(
        &[("crm", addon("external", 8))],
        &[("CRM_URL", "x://a:hunter2@h/")],
    )
    .await;
    assert!(
        no_port.contains("CRM_URL") && no_port.contains("PORT") && !no_port.contains("hunter2"),
        "{no_port}"
    );
    let unknown = refused(&[("a", addon("postgress", 4))], &[]).await;
    assert!(
        unknown.contains("unknown provider `postgress`; known are `external`"),
        "{unknown}"
    );
    let near = refused(&[("a", addon("externl", 4))], &[]).await;
    assert!(near.contains("did you mean `external`?"), "{near}");
}

#[tokio::test]
async fn clashes_name_both() {
    let as_jobs = |line| Addon {
        prefix: Some("JOBS".to_owned()),
        url_from: Some("SECRET".to_owned()),
        ..addon("external", line)
    };
    let vars = [("SECRET", URL)];
    let clash = refused(&[("a", as_jobs(8)), ("b", as_jobs(9))], &vars).await;
    assert!(
        clash.contains("add-on `b` (line 9")
            && clash.contains("`JOBS_URL`")
            && clash.contains("`a` (line 8)"),
        "{clash}"
    );
    let apart = [
        ("a", only(as_jobs(8), "web")),
        ("b", only(as_jobs(9), "worker")),
    ];
    assert!(bind(&apart, &vars).await.is_ok(), "no process has both");
    let clash = refused(&[("a", as_jobs(8))], &[("SECRET", URL), ("JOBS_URL", "x")]).await;
    assert!(
        clash.contains("`JOBS_URL`") && clash.contains("so does the config"),
        "{clash}"
    );
}

#[test]
fn check_reports_every_mistake_with_its_line() {
    let wrong = [
        (
            "a",
            Addon {
                mount: Some("/data".to_owned()),
                plan: Some("big".to_owned()),
                ..addon("kv", 11)
            },
        ),
        (
            "b",
            Addon {
                url_from: Some("X".to_owned()),
                ..addon("kv", 12)
            },
        ),
        (
            "c",
            Addon {
                size: Some(1),
                ..addon("external", 13)
            },
        ),
        ("d", addon("redis", 14)),
        (
            "e",
            Addon {
                prefix: Some("OARLOCK".to_owned()),
                ..addon("external", 15)
            },
        ),
        (
            "f",
            Addon {
                prefix: Some("X Y".to_owned()),
                ..addon("external", 16)
            },
        ),
        ("g", addon("external", 17)),
        (
            "h",
            Addon {
                prefix: Some("G".to_owned()),
                ..addon("external", 18)
            },
        ),
    ];
    let messages = check(&manifest(&wrong));
    let lines: Vec<u32> = messages.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [11, 11, 12, 13, 14, 15, 16, 18], "{messages:#?}");
    let said = |line: u32, text: &str| {
        assert!(
            messages
                .iter()
                .any(|(at, message)| *at == line && message.contains(text)),
            "{text}: {messages:#?}"
        );
    };
    said(11, "does not take the key `mount`");
    said(11, "has no plans, but `big` is asked for");
    said(12, "does not take the key `url_from`; only `external` does");
    said(13, "does not take the key `size`; only `kv` does");
    said(14, "unknown provider `redis`; known are");
    said(15, "the platform's own");
    said(16, "no variable can be called");
    said(18, "so does the add-on `g` (line 17)");
    assert_eq!(check(&manifest(&[("store", addon("kv", 8))])), []);
}
