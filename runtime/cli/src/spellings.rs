//! What people type who come from Heroku or Spin: all of it is in the two tables here. A spelling means a command of ours, or
//! gets one line that says how the same is done. Neither help nor completions show any of it.

use std::ffi::OsString;

use clap::Command;

/// What is done about a spelling.
enum Meaning {
    /// It is this command.
    Do(&'static [&'static str]),
    /// There is no such command; this line says what to do instead.
    Say(&'static str),
}
use Meaning::{Do, Say};

const ADDONS: Meaning = Say("add-ons are lines of the manifest: `db = \"kv\"` below `[addons]`");
const APPS: Meaning = Say("`oarlock ps` shows an app; with `--app NAME`, one of several");
const DEPLOY: Meaning = Say("`oarlock up` releases this folder; with `--watch`, at each change");
const ONE_OFF: Meaning = Say("a dyno has no shell; `oarlock run PROCESS ARGS` starts another");
const STOP: Meaning = Say("Ctrl-C ends `oarlock up`; `oarlock scale web=0` stops all web dynos");
const ACCOUNTS: Meaning = Say("there are no accounts; whoever owns the host's folder may do all");
const LOCAL: Meaning = Say("`oarlock up` builds and runs the app here, as its `[scale]` says");

/// Commands.
const COMMANDS: &[(&str, Meaning)] = &[
    ("ps:scale", Do(&["scale"])),
    ("dyno:scale", Do(&["scale"])),
    ("ps:restart", Do(&["restart"])),
    ("dyno:restart", Do(&["restart"])),
    ("config:set", Do(&["config", "set"])),
    ("config:add", Do(&["config", "set"])),
    ("config:get", Do(&["config", "get"])),
    ("config:unset", Do(&["config", "unset"])),
    ("config:remove", Do(&["config", "unset"])),
    ("releases:rollback", Do(&["rollback"])),
    ("tail", Do(&["logs", "--follow"])),
    ("watch", Do(&["up", "--watch"])),
    ("version", Do(&["--version"])),
    ("doctor", Do(&["check"])),
    ("addons", ADDONS),
    ("addons:add", ADDONS),
    ("addons:create", ADDONS),
    ("addons:attach", ADDONS),
    ("addons:remove", ADDONS),
    ("addons:destroy", ADDONS),
    (
        "create",
        Say("`oarlock new NAME` makes an app; `oarlock up` runs the one of a folder"),
    ),
    (
        "apps:create",
        Say("`oarlock new NAME` makes an app; `oarlock up` runs the one of a folder"),
    ),
    ("apps", APPS),
    ("apps:info", APPS),
    ("info", APPS),
    ("list", APPS),
    ("status", APPS),
    (
        "open",
        Say("open http://127.0.0.1:8080 in a browser, or what `oarlock up` printed"),
    ),
    (
        "apps:open",
        Say("open http://127.0.0.1:8080 in a browser, or what `oarlock up` printed"),
    ),
    ("deploy", DEPLOY),
    ("push", DEPLOY),
    ("registry", DEPLOY),
    ("git:remote", DEPLOY),
    (
        "releases:info",
        Say("`oarlock releases` lists each release: state, description and time"),
    ),
    (
        "releases:output",
        Say("`oarlock logs --dyno release` has what the release phases printed"),
    ),
    (
        "config:edit",
        Say("`oarlock config set A=1 B=2` changes vars, all in one release"),
    ),
    ("ps:stop", STOP),
    ("ps:kill", STOP),
    ("dyno:stop", STOP),
    ("dyno:kill", STOP),
    ("stop", STOP),
    ("ps:exec", ONE_OFF),
    ("run:inside", ONE_OFF),
    (
        "run:detached",
        Say("`oarlock run PROCESS ARGS &`; the dyno ends with the command"),
    ),
    ("local", LOCAL),
    ("local:start", LOCAL),
    ("start", LOCAL),
    ("login", ACCOUNTS),
    ("auth:login", ACCOUNTS),
    (
        "domains",
        Say("`oarlock serve --domain D` answers at `<app>.D`; `up` at every name"),
    ),
    (
        "domains:add",
        Say("`oarlock serve --domain D` answers at `<app>.D`; `up` at every name"),
    ),
    (
        "maintenance:on",
        Say("`oarlock scale web=0` stops the web dynos; requests then get H14"),
    ),
];

/// Options: of which command, which argument, and how else it is written.
const OPTIONS: &[(&str, &str, &[&str], &[char])] = &[
    ("logs", "follow", &["tail"], &['t']),
    ("logs", "lines", &["num"], &[]),
    (
        "logs",
        "dyno",
        &["ps", "dyno-name", "process-type"],
        &['d', 'p'],
    ),
    ("logs", "source", &[], &['s']),
    ("up", "listen", &["port"], &['p']),
    ("serve", "listen", &["port"], &['p']),
    ("config", "shell", &[], &['s']),
];

/// Options of commands that may stand before the command, too.
const BEFORE: &[&str] = &["-a", "--app", "--data"];

/// The command line in our own words. An error is the line that says what to do instead.
pub(crate) fn translate(
    args: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, &'static str> {
    let mut args = args.into_iter();
    let mut words: Vec<OsString> = args.next().into_iter().collect();
    let mut moved = Vec::new();
    let mut helps = false;
    while let Some(word) = args.next() {
        let text = word.to_string_lossy();
        if BEFORE.contains(&text.as_ref()) {
            moved.push(word);
            moved.extend(args.next());
        } else if is_joined(&text) {
            moved.push(word);
        } else if text == "--verbose" || is_verbose(&text) {
            words.push(word);
        } else if text == "help" && !helps {
            helps = true;
            words.push(word);
        } else {
            match COMMANDS.iter().find(|(spelling, _)| *spelling == text) {
                Some((_, Say(line))) => return Err(line),
                Some((_, Do(ours))) => words.extend(ours.iter().map(OsString::from)),
                None => words.push(word),
            }
            break;
        }
    }
    words.append(&mut moved);
    words.extend(args);
    Ok(words)
}

/// As in `--app=NAME` and `-aNAME`.
fn is_joined(text: &str) -> bool {
    let long = |name: &str| text.starts_with(&format!("{name}="));
    long("--app") || long("--data") || (text.starts_with("-a") && text.len() > 2)
}

/// As in `-vv`.
fn is_verbose(text: &str) -> bool {
    text.strip_prefix('-')
        .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c == 'v'))
}

/// The command with what else its options are called. Only what is parsed with: help and completions are made without.
pub(crate) fn with_options(command: Command) -> Command {
    OPTIONS
        .iter()
        .fold(command, |command, (name, option, longs, shorts)| {
            command.mut_subcommand(name, |found| {
                found.mut_arg(option, |arg| {
                    arg.aliases(longs.iter().copied())
                        .short_aliases(shorts.iter().copied())
                })
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn said(line: &str) -> Result<String, &'static str> {
        let words = line.split(' ').map(OsString::from);
        let done = translate(std::iter::once("oarlock".into()).chain(words))?;
        let done: Vec<String> = done
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        Ok(done[1..].join(" "))
    }

    #[test]
    fn spellings_become_ours_and_the_rest_stays() {
        for (typed, ours) in [
            ("ps:scale web=3", "scale web=3"),
            ("config:set A=1 -a x", "config set A=1 -a x"),
            ("-a x config:unset A", "config unset -a x A"),
            (
                "--app=x -vv --data d logs -f",
                "-vv logs --app=x --data d -f",
            ),
            ("-ax ps", "ps -ax"),
            ("run web ps:scale", "run web ps:scale"),
            ("help config:set", "help config set"),
            ("version", "--version"),
            ("watch DIR", "up --watch DIR"),
            ("-a", "-a"),
            ("--help", "--help"),
        ] {
            assert_eq!(said(typed).as_deref(), Ok(ours), "{typed}");
        }
        assert!(said("-a x addons:add kv").unwrap_err().contains("[addons]"));
    }

    #[test]
    fn answers_fit_a_line_and_name_commands_that_are_there() {
        let command = crate::args::Args::command();
        let known = |name: &str| command.find_subcommand(name).is_some();
        for (spelling, meaning) in COMMANDS {
            assert!(!known(spelling), "{spelling} is a command of ours");
            match meaning {
                Do(ours) => assert!(known(ours[0]) || ours[0].starts_with("--"), "{spelling}"),
                Say(line) => {
                    assert!("error: ".len() + line.chars().count() <= 80, "{line}");
                    for (index, _) in line.match_indices("`oarlock ") {
                        let rest = &line[index + "`oarlock ".len()..];
                        let name = rest.split([' ', '`']).next().unwrap();
                        assert!(known(name), "{spelling}: {name}");
                    }
                }
            }
        }
    }

    #[test]
    fn other_names_of_options_are_hidden() {
        for (name, option, longs, shorts) in OPTIONS {
            let parsed = with_options(crate::args::Args::command());
            let found = parsed.find_subcommand(name).unwrap();
            let arg = found
                .get_arguments()
                .find(|arg| arg.get_id() == *option)
                .unwrap();
            assert_eq!(arg.get_visible_aliases().unwrap_or_default(), [""; 0]);
            assert!(
                arg.get_visible_short_aliases()
                    .unwrap_or_default()
                    .is_empty()
            );
            assert_eq!(arg.get_all_aliases().unwrap_or_default(), **longs);
            assert_eq!(
                arg.get_all_short_aliases().unwrap_or_default(),
                shorts.to_vec()
            );
        }
        with_options(crate::args::Args::command()).debug_assert();
    }
}
