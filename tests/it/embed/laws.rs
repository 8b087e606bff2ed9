//! What the library never does to the process that it is in, read in its sources.

use std::path::Path;

/// The crates that an embedder links.
const LIBRARY: [&str; 3] = ["spec", "sandbox", "host"];

/// What none of them may say, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    (
        "process::exit",
        "the embedder decides when its process ends",
    ),
    (
        "process::abort",
        "the embedder decides when its process ends",
    ),
    (
        "env::var",
        "what the host does is decided by its configuration alone",
    ),
    ("env::set_var", "the environment is the embedder's"),
    (
        "env::current_exe",
        "the library never starts its embedder's program",
    ),
    ("env::set_current_dir", "the folder is the embedder's"),
    ("tokio::signal", "signals are the embedder's"),
    ("sigaction", "signals are the embedder's"),
    ("panic::set_hook", "the hook is the embedder's"),
    (
        "tracing_subscriber",
        "where diagnostics go is the embedder's",
    ),
    (
        "set_global_default",
        "where diagnostics go is the embedder's",
    ),
    ("global_allocator", "the allocator is the embedder's"),
    (
        "lazy_static",
        "there is no global state: two hosts have nothing in common",
    ),
    (
        "static mut",
        "there is no global state: two hosts have nothing in common",
    ),
];

/// The statics that there are, each with the reason why two hosts may share it.
const STATICS: &[(&str, &str)] = &[
    (
        "schedule.rs ZONES",
        "the table of time zones: it never changes",
    ),
    (
        "tmp.rs NEXT",
        "numbers for folders' names, which are to differ in a process",
    ),
    (
        "client.rs CONNECTING",
        "the key of a value that each task has for itself",
    ),
    (
        "meter.rs TURN",
        "the key of a value that a thread has while it polls a guest",
    ),
    (
        "meter.rs USED_UP",
        "of a thread, and each of a host's threads is that host's alone",
    ),
    (
        "listeners.rs DYNOS",
        "a port is the machine's: no guest of any host may reach another's dyno",
    ),
];

/// The code of a file: without its comments, and without what is for its own tests.
fn code(text: &str) -> Vec<(usize, &str)> {
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text.get(..tests)
        .unwrap()
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
        .collect()
}

fn is_test_file(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_string_lossy();
    name == "tests" || name.ends_with("_tests") || name == "fake"
}

fn sources() -> impl Iterator<Item = std::path::PathBuf> {
    LIBRARY.iter().flat_map(|krate| {
        let folder = oarlock_tests::repository()
            .join("runtime")
            .join(krate)
            .join("src");
        walkdir::WalkDir::new(folder)
            .into_iter()
            .map(|entry| entry.unwrap().into_path())
            .filter(|path| path.extension().is_some_and(|end| end == "rs") && !is_test_file(path))
    })
}

#[test]
fn the_library_leaves_its_process_alone() {
    let mut broken = Vec::new();
    let (mut read, mut statics) = (0, 0);
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        read += 1;
        for (number, line) in code(&text) {
            for (word, why) in FORBIDDEN {
                if line.contains(word) {
                    broken.push(format!("{}:{number}: `{word}`: {why}", path.display()));
                }
            }
            let item = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ");
            if let Some((name, _)) = item.strip_prefix("static ").and_then(|s| s.split_once(':')) {
                let file = path.file_name().unwrap().to_string_lossy();
                if STATICS
                    .iter()
                    .any(|(known, _)| *known == format!("{file} {name}"))
                {
                    statics += 1;
                } else {
                    broken.push(format!("{}:{number}: global state: {line}", path.display()));
                }
            }
        }
    }
    assert!(read > 100, "the sources are elsewhere");
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(
        statics,
        STATICS.len(),
        "an exception is not needed any more"
    );
}

#[test]
fn the_laws_are_seen_when_they_are_broken() {
    let text = "fn f() {\n    // std::process::exit(1)\n    std::process::exit(1)\n}\n#[cfg(test)]\nmod tests {\n    fn g() { std::process::exit(1) }\n}";
    let seen: Vec<usize> = code(text)
        .into_iter()
        .filter(|(_, line)| line.contains("process::exit"))
        .map(|(number, _)| number)
        .collect();
    assert_eq!(seen, [3]);
}
