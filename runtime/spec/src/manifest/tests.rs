//! Golden files: `tests/manifests/*.toml`, `*.Procfile` and `*.policy` are all wrong, and the `.txt`
//! beside each says how. `OARLOCK_WRITE_GOLDEN=1` writes the missing and changed ones, and fails
//! all the same, so that nothing is accepted unseen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::limits::{Isolation, LimitKey, LimitSet, LimitValue, Limits};
use crate::mistakes::MAX_FILE_BYTES;
use crate::names::AddonName;
use crate::policy::{self, Proposal};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests")
}

fn good(name: &str) -> String {
    fs::read_to_string(folder().join("good").join(name)).unwrap()
}

/// The policy that golden manifests are checked against.
fn golden_policy() -> Policy {
    policy::parse(&good("small.policy")).unwrap()
}

/// What the parser says of a wrong file.
fn said_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let policy = golden_policy();
    let options = Options {
        policy: Some(&policy),
        providers: &["external", "kv", "postgres", "redis", "volume"],
    };
    let name = path.file_name().unwrap().to_str().unwrap();
    let errors = match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => parse(&text, &options).err(),
        Some("Procfile") => parse_procfile(&text, "folder".parse().unwrap(), &options).err(),
        _ => policy::parse(&text).err(),
    };
    match errors {
        Some(errors) => format!("{}\n", errors.in_file(name)),
        None => "no mistake\n".to_owned(),
    }
}

fn wrong_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e != "txt"))
        .collect();
    files.sort();
    files
}

#[test]
fn golden_files_say_what_is_wrong() {
    let write = std::env::var_os("OARLOCK_WRITE_GOLDEN").is_some();
    let mut differ = Vec::new();
    let files = wrong_files();
    for path in &files {
        let said = said_of(path);
        let golden = path.with_extension(format!(
            "{}.txt",
            path.extension().unwrap().to_str().unwrap()
        ));
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if said != expected {
            differ.push(format!(
                "{}\n--- expected\n{expected}--- said\n{said}",
                path.display()
            ));
            if write {
                fs::write(&golden, said).unwrap();
            }
        }
    }
    assert!(
        files.len() >= 40,
        "only {} wrong files were found",
        files.len()
    );
    assert!(
        differ.is_empty(),
        "{} of {} differ:\n{}",
        differ.len(),
        files.len(),
        differ.join("\n")
    );
}

#[test]
fn the_contract_s_own_manifest_is_valid() {
    let manifest =
        parse(&good("contract.toml"), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(manifest.app.as_str(), "guestbook");
    let kinds: Vec<&str> = manifest
        .processes
        .keys()
        .map(|kind| kind.as_str())
        .collect();
    assert_eq!(kinds, ["nightly", "release", "scheduler", "web", "worker"]);
    let worker = &manifest.processes["worker"];
    assert_eq!((worker.component.as_str(), worker.line), ("worker.wasm", 5));
    assert_eq!(worker.args, ["--queue", "default"].map(Argument::from));
    assert!(manifest.processes["scheduler"].singleton);
    let schedule = manifest.processes["nightly"].schedule.as_ref().unwrap();
    assert_eq!(
        (schedule.cron.as_str(), schedule.timezone.as_str()),
        ("17 3 * * *", "UTC")
    );
    let scale: BTreeMap<String, u32> = manifest
        .initial_scale()
        .into_iter()
        .map(|(kind, n)| (kind.to_string(), n))
        .collect();
    assert_eq!(
        scale,
        BTreeMap::from([
            ("scheduler".into(), 1),
            ("web".into(), 2),
            ("worker".into(), 1)
        ])
    );

    let addon = |name: &str| &manifest.addons[name];
    assert_eq!(
        (addon("db").provider.as_str(), addon("db").plan.as_deref()),
        ("postgres", None)
    );
    assert_eq!(
        addon("cache").processes.as_ref().unwrap()[0].as_str(),
        "worker"
    );
    assert_eq!(addon("jobs").prefix.as_deref(), Some("JOBS_REDIS"));
    assert_eq!(
        (addon("files").mount.as_deref(), addon("files").size),
        (Some("/data"), Some(1 << 30))
    );
    assert_eq!(
        (
            addon("crm").provider.as_str(),
            addon("crm").url_from.as_deref()
        ),
        ("external", Some("CRM_URL"))
    );

    assert_eq!(manifest.config["GREETING"], "hello");
    let allow: Vec<(Option<&str>, u16)> = manifest
        .allow
        .iter()
        .map(|e| (e.scheme.as_deref(), e.port))
        .collect();
    assert_eq!(
        allow,
        [(Some("https"), 443), (None, 587), (None, 443), (None, 5432)]
    );
    let web = manifest.limits_of(&"web".parse().unwrap());
    assert_eq!(
        web,
        Limits {
            isolation: Some(Isolation::Request),
            ..Limits::default()
        }
    );
    assert_eq!(
        manifest.build.unwrap().command,
        "cargo build --release --target wasm32-wasip2"
    );
    assert_eq!(manifest.files, ["static/**"]);
}

#[test]
fn deep_keys_do_not_exhaust_the_stack() {
    let dots = MAX_FILE_BYTES / 2 - 8;
    for text in [
        format!("a{} = 1", ".a".repeat(dots)),
        format!("[a{}]", ".a".repeat(dots)),
        format!("[[a{}]]", ".a".repeat(dots)),
        format!("x = {{ a{} = 1 }}", ".a".repeat(dots - 8)),
        format!("x = {}", "[".repeat(MAX_FILE_BYTES - 8)),
        format!("x = {}", "{a=".repeat(MAX_FILE_BYTES / 3 - 8)),
    ] {
        assert!(parse(&text, &Options::default()).is_err());
    }
}

/// Every golden says where, shows a caret or has nothing to show, and stays within 80 columns.
#[test]
fn golden_output_fits_a_terminal_and_many_have_several_mistakes() {
    let mut several = 0;
    for path in wrong_files() {
        let said = said_of(&path);
        assert_ne!(said, "no mistake\n", "{}", path.display());
        let wide = said.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{}", path.display());
        several += usize::from(
            !said
                .trim_end()
                .lines()
                .last()
                .unwrap()
                .starts_with("1 mistake "),
        );
    }
    assert!(several >= 10, "{several}");
}

#[test]
fn a_policy_s_secrets_are_never_printed() {
    for path in wrong_files()
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "policy"))
    {
        assert!(!said_of(path).contains("secret@"), "{}", path.display());
    }
    assert!(!format!("{:?}", golden_policy()).contains("secret"));
}

#[test]
fn a_small_manifest_gets_every_default() {
    let manifest = parse(
        "app = \"a\"\n[processes]\nweb = \"./bin//web.wasm\"\n",
        &Options::default(),
    )
    .unwrap();
    let web = &manifest.processes["web"];
    assert_eq!(
        (
            web.component.as_str(),
            web.args.len(),
            web.line,
            web.singleton
        ),
        ("bin/web.wasm", 0, 3, false)
    );
    assert_eq!(
        manifest.limits_of(&"web".parse().unwrap()),
        Limits::default()
    );
    assert_eq!(manifest.initial_scale()["web"], 1);
    assert!(manifest.build.is_none() && manifest.files.is_empty() && manifest.allow.is_empty());
}

#[test]
fn a_manifest_with_every_key_is_read_as_written() {
    let manifest = parse(&good("full.toml"), &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let web = manifest.limits_of(&"web".parse().unwrap());
    assert_eq!(
        web,
        Limits {
            memory: 256 << 20,
            cpu: 0.5,
            concurrency: Some(20),
            queue: 7,
            timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
            boot_timeout: Duration::from_millis(1500),
            stop_grace: Duration::ZERO,
            idle: None,
            isolation: Some(Isolation::Dyno),
            max_requests: Some(100_000),
            request_body: 1536 << 10,
            header: 32 << 10,
            sockets: 1,
            outgoing: 2,
            handles: 3,
            resources: 4,
            random: 64 << 10,
            log_rate: 50 << 10,
            tmp: 0,
            files: 0,
            after_response: Duration::from_secs(3),
        }
    );
    let worker = manifest.limits_of(&"worker".parse().unwrap());
    assert_eq!(
        (worker.queue, worker.memory, worker.idle),
        (9, 64 << 20, Some(Duration::from_secs(900)))
    );
    assert_eq!(manifest.scale["web"], 0);
    assert_eq!(
        manifest.processes["worker"].args,
        ["--name", "Anna & Bob", "a b", ""].map(Argument::from)
    );
    let nightly = manifest.processes["nightly"].schedule.as_ref().unwrap();
    assert_eq!(
        (nightly.cron.as_str(), nightly.timezone.as_str()),
        ("*/5 2 * JAN MON-FRI", "America/New_York")
    );
    assert_eq!(nightly.time_zone().iana_name(), Some("America/New_York"));
    let db = &manifest.addons["db"];
    assert_eq!(
        (db.provider.as_str(), db.plan.as_deref(), db.line),
        ("postgres", Some("standard"), 17)
    );
    let prefix = |name: &str| {
        let (name, addon) = manifest.addons.get_key_value(name).unwrap();
        addon.variable_prefix(name)
    };
    assert_eq!(prefix("db").as_deref(), Some("DATABASE"));
    assert_eq!(prefix("web-cache").as_deref(), Some("REDIS"));
    assert_eq!(prefix("worker-cache").as_deref(), Some("REDIS"));
    assert_eq!(prefix("crm").as_deref(), Some("PARTNER"));
    assert_eq!(prefix("data"), None);
    assert_eq!(manifest.addons["data"].mount.as_deref(), Some("/data/shop"));
    assert_eq!(manifest.config["EMPTY"], "");
    assert_eq!(
        manifest.allow[1].host,
        HostPattern::Net("fd00::/8".parse().unwrap())
    );
    assert_eq!((manifest.allow[1].line, manifest.allow[1].port), (30, 22));
    assert_eq!(manifest.files, ["static/**", "*.{html,css}"]);
}

#[test]
fn plain_procfiles_are_valid_manifests() {
    let text = "# a comment\n\nweb: web.wasm --flag 'a b'\r\n  worker :  bin/worker.wasm\nrelease: ./migrate.wasm";
    let manifest = parse_procfile(text, "shop".parse().unwrap(), &Options::default()).unwrap();
    assert_eq!(manifest.app.as_str(), "shop");
    assert_eq!(
        manifest.processes["web"].args,
        ["--flag", "a b"].map(Argument::from)
    );
    assert_eq!(
        (
            manifest.processes["worker"].component.as_str(),
            manifest.processes["worker"].line
        ),
        ("bin/worker.wasm", 4)
    );
    assert_eq!(manifest.processes["release"].component, "migrate.wasm");
    assert_eq!(manifest.limits.len(), 3);
    assert_eq!(manifest.initial_scale().len(), 2);
}

#[test]
fn limits_come_from_type_default_policy_and_build_in_that_order() {
    let policy = golden_policy();
    let text = good("full.toml")
        .replace("memory = \"256 MiB\"", "memory = \"512 MiB\"")
        .replace("max_requests = 100_000", "max_requests = 5");
    let options = Options {
        policy: Some(&policy),
        providers: &[],
    };
    let manifest = parse(&text, &options).unwrap_or_else(|e| panic!("{e}"));
    let nightly = manifest.limits_of(&"nightly".parse().unwrap());
    assert_eq!(nightly.memory, 64 << 20, "[limits.default]");
    assert_eq!(nightly.sockets, 32, "the policy's default");
    assert_eq!(nightly.header, Limits::default().header, "built in");
    assert_eq!(nightly.concurrency, Some(40), "held below the policy's cap");
    assert_eq!(
        nightly.max_requests,
        Some(100_000),
        "never is above any cap"
    );
    assert_eq!(
        manifest.limits_of(&"web".parse().unwrap()).memory,
        512 << 20,
        "[limits.web], at the cap"
    );

    let plain = parse_procfile("web: web.wasm", "a".parse().unwrap(), &options).unwrap();
    let web = plain.limits_of(&"web".parse().unwrap());
    assert_eq!(
        (web.idle, web.sockets),
        (Some(Duration::from_secs(900)), 32)
    );

    let low: LimitSet = [(LimitKey::Memory, LimitValue::Size(1 << 20))]
        .into_iter()
        .collect();
    let policy = Policy {
        caps: low,
        ..Policy::default()
    };
    let plain = parse_procfile(
        "web: web.wasm",
        "a".parse().unwrap(),
        &Options {
            policy: Some(&policy),
            providers: &[],
        },
    );
    assert_eq!(
        plain.unwrap().limits_of(&"web".parse().unwrap()).memory,
        1 << 20,
        "the built-in default is held below the cap"
    );
}

#[test]
fn policies_are_read() {
    let policy = golden_policy();
    assert_eq!(policy.app_memory, Some(2 << 30));
    let networks: Vec<String> = policy
        .private_networks
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(networks, ["10.1.2.0/24", "fd00::/8", "192.168.7.7/32"]);
    let proxies: Vec<String> = policy
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(proxies, ["10.0.0.0/8", "::1/128"]);
    let connections = policy::Connections {
        per_address: 50,
        half_heads_per_address: 100,
        head_timeout: Duration::from_secs(5),
    };
    assert_eq!(policy.connections, connections);
    assert_eq!(
        policy.caps.get(LimitKey::Memory),
        Some(LimitValue::Size(512 << 20))
    );
    assert_eq!(
        policy.defaults.get(LimitKey::Idle),
        Some(LimitValue::Time(Duration::from_secs(900)))
    );
    assert_eq!(
        policy.addons["postgres"].expose().password(),
        Some("secret")
    );
    assert_eq!(policy.weights["guestbook"], 2);
    assert!((policy.prices["cpu_hour"] - 0.02).abs() < 1e-9);
    assert_eq!(policy::parse("").unwrap(), Policy::default());
}

#[test]
fn files_over_the_size_bound_are_refused_by_name() {
    let text = format!(
        "app = \"a\"\n[processes]\nweb = \"w.wasm\"\n#{}",
        "x".repeat(MAX_FILE_BYTES)
    );
    let big = [
        parse(&text, &Options::default()).unwrap_err(),
        parse_procfile(&text, "a".parse().unwrap(), &Options::default()).unwrap_err(),
        policy::parse(&text).unwrap_err(),
    ];
    for error in big {
        assert!(matches!(&error, FileErrors::TooLarge { bytes, .. } if *bytes == text.len()));
        assert!(error.mistakes().is_empty());
        assert!(
            error
                .in_file("x/oarlock.toml")
                .to_string()
                .starts_with("x/oarlock.toml has ")
        );
    }
    let fits = &text[..MAX_FILE_BYTES];
    assert!(parse(fits, &Options::default()).is_ok());
}

#[test]
fn mistakes_are_data_too() {
    let errors = parse(
        "app = \"a\"\n[processes]\nweb = \"é /\"\nwörk = 1\n[scael]\n",
        &Options::default(),
    )
    .unwrap_err();
    let last = errors.mistakes().last().unwrap();
    assert_eq!(
        (last.line, last.column, last.text.as_str()),
        (5, 2, "scael")
    );
    assert_eq!(
        last.sentence(),
        "unknown key `scael`, did you mean `scale`?"
    );
    assert_eq!(
        serde_json::to_value(last).unwrap(),
        serde_json::json!({
            "line": 5, "column": 2, "text": "scael", "message": "unknown key `scael`", "suggestion": "did you mean `scale`?"
        })
    );
}

#[test]
fn only_so_many_mistakes_are_kept_and_the_rest_counted() {
    let vars: String = (0..130).map(|i| format!("{i}_VAR = \"x\"\n")).collect();
    let errors = parse(
        &format!("app = \"a\"\n[processes]\nweb = \"w.wasm\"\n[config]\n{vars}"),
        &Options::default(),
    )
    .unwrap_err();
    assert_eq!(errors.mistakes().len(), 100);
    assert!(
        errors
            .to_string()
            .ends_with("130 mistakes in oarlock.toml, of which the first 100 are shown")
    );
}

/// A small generator (xorshift), so that a failure repeats.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides.max(1)).unwrap()).unwrap()
    }
}

/// One change: a character dropped, doubled or replaced, a line moved, a piece of another file put in, the end cut off.
fn mutate(text: &str, others: &[String], dice: &mut Dice) -> String {
    const ODD: [&str; 18] = [
        "\"", "'", "[", "]", "{", "}", "=", ".", "\n", "\\", "\0", "é", "\u{202e}", "#", ",", ":",
        "9", "\"\"\"",
    ];
    let mut chars: Vec<char> = text.chars().collect();
    let at = dice.roll(chars.len() + 1);
    match dice.roll(6) {
        0 if at < chars.len() => drop(chars.remove(at)),
        1 if at < chars.len() => chars.insert(at, chars[at]),
        2 => chars.truncate(at),
        3 => {
            let mut lines: Vec<&str> = text.lines().collect();
            let moved = dice.roll(lines.len());
            let line = if lines.is_empty() {
                ""
            } else {
                lines.remove(moved)
            };
            lines.insert(dice.roll(lines.len() + 1), line);
            return lines.join("\n");
        }
        4 => {
            let other: Vec<char> = others[dice.roll(others.len())].chars().collect();
            let from = dice.roll(other.len() + 1);
            let to = (from + dice.roll(40)).min(other.len());
            chars.splice(at..at, other[from..to].iter().copied());
        }
        _ => {
            chars.splice(at..at, ODD[dice.roll(ODD.len())].chars());
        }
    }
    chars.into_iter().collect()
}

#[test]
fn no_input_panics_and_every_mistake_has_a_place() {
    let mut corpus: Vec<String> = wrong_files()
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    corpus.retain(|text| text.len() < 3_000);
    corpus.extend([
        good("contract.toml"),
        good("full.toml"),
        good("small.policy"),
    ]);
    let mut dice = Dice(0x0a71_0c4b_5eed_0001);
    for round in 0..3_000 {
        let mut text = corpus[round % corpus.len()].clone();
        for _ in 0..=dice.roll(6) {
            text = mutate(&text, &corpus, &mut dice);
        }
        let errors = [
            parse(&text, &Options::default()).err(),
            parse_procfile(&text, "a".parse().unwrap(), &Options::default()).err(),
            policy::parse(&text).err(),
        ];
        for errors in errors.iter().flatten() {
            assert!(!errors.mistakes().is_empty(), "{text}");
            for mistake in errors.mistakes() {
                assert!(
                    mistake.line >= 1 && mistake.column >= 1 && !mistake.message.is_empty(),
                    "{text}"
                );
                assert!(
                    usize::try_from(mistake.line).unwrap() <= text.lines().count() + 1,
                    "{text}"
                );
            }
            let _ = errors.to_string();
        }
    }
}

/// A tenant's file must not keep the host busy: the largest of each kind is read within seconds.
#[test]
fn the_largest_files_are_read_in_bounded_time() {
    let fill = |head: &str, line: &dyn Fn(usize) -> String| {
        let mut text = head.to_owned();
        for index in 0.. {
            let line = line(index);
            if text.len() + line.len() > MAX_FILE_BYTES - 2 {
                break;
            }
            text.push_str(&line);
        }
        text
    };
    let head = "app = \"a\"\n[processes]\nweb = \"w.wasm\"\n";
    let started = std::time::Instant::now();
    for text in [
        fill("app = \"a\"\n[processes]\n", &|i| {
            format!("p{i} = \"w.wasm\"\n")
        }),
        fill(&format!("{head}[scale]\n"), &|i| format!("p{i} = 1\n")),
        fill(&format!("{head}[addons]\n"), &|i| {
            format!("a{i} = \"redis\"\n")
        }),
        fill(&format!("{head}[network]\nallow = ["), &|i| {
            format!("\"h{i}:1\",")
        }) + "]",
        fill("app = \"a\"\n[processes]\n", &|i| {
            format!("p{i} = {{ run = \"w\", schedule = \"0 0 30 2 *\", timezone = \"X\" }}\n")
        }),
        fill(head, &|i| format!("p{i}\n")),
        fill("", &|_| "\n".to_owned()),
        fill("", &|i| format!("p{i}: \"w.wasm\n")),
    ] {
        let _ = parse(&text, &Options::default());
        let _ = parse_procfile(&text, "a".parse().unwrap(), &Options::default());
        let _ = policy::parse(&text);
    }
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
}

fn capped() -> Policy {
    policy::parse(&good("caps.policy")).unwrap_or_else(|e| panic!("{e}"))
}

fn said(text: &str, policy: &Policy) -> String {
    let options = Options {
        policy: Some(policy),
        providers: &[],
    };
    match parse(text, &options) {
        Ok(_) => "no mistake".to_owned(),
        Err(mistakes) => mistakes.to_string(),
    }
}

#[test]
fn a_policy_caps_what_an_app_has_altogether() {
    let policy = capped();
    assert_eq!(policy.app_caps.dynos, Some(5));
    assert_eq!(policy.app_caps.kv_size, Some(64 << 20));
    assert_eq!(policy.app_caps.release_phase, Some(Duration::from_secs(90)));
    assert_eq!(
        policy.wasm,
        [Proposal::Gc, Proposal::FunctionReferences].into()
    );
    let app = "app = \"a\"\n[processes]\nweb = \"a.wasm\"\nworker = \"b.wasm\"\n";
    assert_eq!(
        said(&format!("{app}[scale]\nweb = 4\n"), &policy),
        "no mistake"
    );
    let over = said(&format!("{app}[scale]\nweb = 5\n"), &policy);
    assert!(
        over.starts_with("oarlock.toml:6:7: 6 dynos over all process types")
            && over.contains("at most 5")
            && over.contains("`dynos` in [caps]"),
        "{over}"
    );
    let fits = "[addons]\nkv = { plan = \"kv\", size = \"64 MiB\" }\n";
    assert_eq!(said(&format!("{app}{fits}"), &policy), "no mistake");
    let over = said(
        &format!("{app}{}", fits.replace("64 MiB", "65 MiB")),
        &policy,
    );
    assert!(
        over.contains("64 MiB") && over.contains("`kv_size` in [caps]"),
        "{over}"
    );
    // A Procfile has one of each.
    let lines: String = (0..6).map(|n| format!("w{n}: w.wasm\n")).collect();
    let options = Options {
        policy: Some(&policy),
        providers: &[],
    };
    let over = parse_procfile(&lines, "a".parse().unwrap(), &options).unwrap_err();
    assert!(over.to_string().contains("`dynos` in [caps]"), "{over}");
}

#[test]
fn serve_caps_every_key_unless_the_policy_has_a_cap_of_its_own() {
    let built_in = Policy::default().for_serve();
    let app = "app = \"a\"\n[processes]\nweb = \"a.wasm\"\n";
    let limits = [
        ("memory", "\"1 GiB\"", "\"1025 MiB\""),
        ("cpu", "2", "2.1"),
        ("handles", "10_000", "10_001"),
        ("resources", "100_000", "100_001"),
        ("timeout", "\"5m\"", "\"301s\""),
        ("idle_timeout", "\"5m\"", "\"301s\""),
        ("boot_timeout", "\"2m\"", "\"121s\""),
        ("stop_grace", "\"60s\"", "\"61s\""),
        ("request_body", "\"1 GiB\"", "\"1025 MiB\""),
        ("concurrency", "1_000", "1_001"),
        ("queue", "1_000", "1_001"),
        ("header", "\"256 KiB\"", "\"257 KiB\""),
        ("sockets", "1_024", "1_025"),
        ("outgoing", "512", "513"),
        ("random", "\"16 MiB\"", "\"17 MiB\""),
        ("log_rate", "\"1 MiB\"", "\"2 MiB\""),
        ("tmp", "\"1 GiB\"", "\"2 GiB\""),
        ("files", "100_000", "100_001"),
    ];
    for (key, most, over) in limits {
        let of = |value| format!("{app}[limits.web]\n{key} = {value}\n");
        assert_eq!(said(&of(most), &built_in), "no mistake", "{key}");
        let refused = said(&of(over), &built_in);
        assert!(refused.contains(&format!("`{key}` is above")), "{refused}");
        assert!(refused.contains("[caps]"), "{refused}");
        // The library and `up` have none of these.
        assert_eq!(said(&of(over), &Policy::default()), "no mistake", "{key}");
    }
    for (key, value) in [("idle", "\"never\""), ("max_requests", "\"never\"")] {
        let text = format!("{app}[limits.web]\n{key} = {value}\n");
        assert_eq!(said(&text, &built_in), "no mistake", "{key}");
    }
    let scaled = |count| format!("{app}[scale]\nweb = {count}\n");
    assert_eq!(said(&scaled(100), &built_in), "no mistake");
    assert!(said(&scaled(101), &built_in).contains("`dynos` in [caps]"));
    let kv = |size| format!("{app}[addons]\nkv = {{ plan = \"kv\", size = \"{size}\" }}\n");
    assert_eq!(said(&kv("4 GiB"), &built_in), "no mistake");
    assert!(said(&kv("5 GiB"), &built_in).contains("`kv_size` in [caps]"));
    assert_eq!(
        built_in.app_caps.release_phase,
        Some(Duration::from_secs(15 * 60))
    );

    let own = capped().for_serve();
    let of = |value| format!("{app}[limits.web]\nmemory = {value}\n");
    assert_eq!(said(&of("\"2 GiB\""), &own), "no mistake", "it is raised");
    assert_eq!(own.app_caps.dynos, Some(5), "it is lowered");
}

#[test]
fn a_manifest_of_an_earlier_policy_is_held_below_today_s_caps() {
    let text = "app = \"a\"\n[processes]\nweb = \"a.wasm\"\n[limits.web]\nmemory = \"8 GiB\"\n\
                [addons]\nkv = \"kv\"\nmore = { plan = \"kv\", size = \"1 MiB\" }\n";
    let mut manifest = parse(text, &Options::default()).unwrap();
    capped().hold_below(&mut manifest);
    assert_eq!(manifest.limits_of(&"web".parse().unwrap()).memory, 2 << 30);
    let size = |name: &str| manifest.addons[&name.parse::<AddonName>().unwrap()].size;
    assert_eq!((size("kv"), size("more")), (Some(64 << 20), Some(1 << 20)));
}
