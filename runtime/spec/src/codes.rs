//! Promised constants: router, dyno and exit codes. Scripts and people rely on them; they do not change.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$vdoc:meta])* $variant:ident $(= $word:literal)? => $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* $(#[serde(rename = $word)])? $variant,)* }
        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// What the code means, as the log prints it.
            pub fn description(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// The code itself, as in `H12`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => codes!(@word $variant $($word)?),)* }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
    (@word $variant:ident) => { stringify!($variant) };
    (@word $variant:ident $word:literal) => { $word };
}

codes! {
    /// Why the router could not answer with what the app said; in the log (`code=`) and in the
    /// response header `oarlock-error`. The meanings are Heroku's; what Heroku has no code for is a word.
    RouterCode {
        /// All web dynos are in crash back-off (503).
        H10 => "App crashed",
        /// The queue of waiting requests is full, or a wait in it took too long (503).
        H11 => "Backlog too deep",
        /// No first byte within `timeout` (503).
        H12 => "Request timeout",
        /// The dyno ended or trapped before it sent the response's head (503).
        H13 => "Connection closed without response",
        /// The formation has no web dynos (503).
        H14 => "No web dynos running",
        /// No byte within `idle_timeout`: the connection is aborted.
        H15 => "Idle connection",
        /// The dyno ended after the response's head: the connection is aborted (503 in the log).
        H18 => "Server request interrupted",
        /// A web dyno did not become ready in time for this request (503).
        H20 => "App boot timeout",
        /// The client went away before the answer was complete (499 in the log).
        H27 => "Client request interrupted",
        /// The app is in maintenance (503).
        H80 => "Maintenance mode",
        /// The host knows the app and is still building, compiling or starting its first release (503).
        AppStarting = "app-starting" => "App is starting",
    }
}

codes! {
    /// What befell a dyno, or its log; shown in the log as `Error R14 (Memory limit reached)`.
    DynoCode {
        /// The dyno did not become ready within `boot_timeout`.
        R10 => "Boot timeout",
        /// The dyno did not end within `stop_grace` and was ended.
        R12 => "Exit timeout",
        /// A memory limit was reached.
        R14 => "Memory limit reached",
        /// Log lines were dropped.
        L10 => "Lines dropped",
    }
}

/// The header of a response that the router made because the app did not.
pub const ERROR_HEADER: &str = "oarlock-error";

/// The words of [`ErrorBody::error`](crate::api::ErrorBody::error).
pub mod api {
    /// No such endpoint (404).
    pub const NOT_FOUND: &str = "not_found";
    /// The endpoint does not know this method (405).
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// A body, query or path that is not what the endpoint takes (400).
    pub const BAD_REQUEST: &str = "bad_request";
    /// The body is larger than the API takes (413).
    pub const BODY_TOO_LARGE: &str = "body_too_large";
    /// No such app on this host (404).
    pub const UNKNOWN_APP: &str = "unknown_app";
    /// The app has no release that runs yet (409).
    pub const NOT_RUNNING: &str = "not_running";
    /// The formation cannot be what was asked (422).
    pub const INVALID_FORMATION: &str = "invalid_formation";
    /// No dyno or process type of that name (422).
    pub const UNKNOWN_TARGET: &str = "unknown_target";
    /// A config var's name or value is refused (422).
    pub const INVALID_CONFIG: &str = "invalid_config";
    /// No such release (404).
    pub const UNKNOWN_RELEASE: &str = "unknown_release";
    /// Nothing to go back to, or that release's slug is gone (409).
    pub const CANNOT_ROLL_BACK: &str = "cannot_roll_back";
    /// The new release failed; the old one goes on (422).
    pub const RELEASE_FAILED: &str = "release_failed";
    /// A new dyno did not become ready (422); the old one goes on.
    pub const BOOT_FAILED: &str = "boot_failed";
    /// Neither a process type nor a component (422).
    pub const UNKNOWN_COMMAND: &str = "unknown_command";
    /// The component is a handler (422).
    pub const NOT_A_COMMAND: &str = "not_a_command";
    /// The component was refused (422).
    pub const INVALID_COMPONENT: &str = "invalid_component";
    /// `POST …/runs` without `Connection: upgrade` (426).
    pub const UPGRADE_REQUIRED: &str = "upgrade_required";
    /// Too many changes wait for this app (503).
    pub const BUSY: &str = "busy";
    /// The host is going down (503).
    pub const SHUTTING_DOWN: &str = "shutting_down";
    /// The host's fault; its log says more (500).
    pub const INTERNAL: &str = "internal";

    /// All of them.
    pub const ALL: &[&str] = &[
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        BAD_REQUEST,
        BODY_TOO_LARGE,
        UNKNOWN_APP,
        NOT_RUNNING,
        INVALID_FORMATION,
        UNKNOWN_TARGET,
        INVALID_CONFIG,
        UNKNOWN_RELEASE,
        CANNOT_ROLL_BACK,
        RELEASE_FAILED,
        BOOT_FAILED,
        UNKNOWN_COMMAND,
        NOT_A_COMMAND,
        INVALID_COMPONENT,
        UPGRADE_REQUIRED,
        BUSY,
        SHUTTING_DOWN,
        INTERNAL,
    ];
}

/// Exit codes of the `oarlock` command. `oarlock run` exits with the guest's own code below 120.
pub mod exit {
    /// All went well.
    pub const OK: u8 = 0;
    /// The command failed; the message on stderr says why.
    pub const FAILURE: u8 = 1;
    /// The command line was not understood (clap's code).
    pub const USAGE: u8 = 2;
    /// The manifest has mistakes.
    pub const MANIFEST: u8 = 120;
    /// The build command failed or a component could not be loaded.
    pub const BUILD: u8 = 121;
    /// The release phase failed and did not say with which code (a trap, a timeout).
    pub const RELEASE_PHASE: u8 = 122;
    /// No host is running for this app, or it did not answer.
    pub const NO_HOST: u8 = 123;
    /// Another host already runs in this folder.
    pub const ALREADY_RUNNING: u8 = 124;
    /// The address to listen on is taken.
    pub const ADDRESS_IN_USE: u8 = 125;
    /// A dyno was ended by the host: stopped, timed out or over a limit.
    pub const DYNO_ENDED: u8 = 126;
    /// Ctrl-C, SIGTERM or SIGHUP ended a build or a start; or a second one ended the command at once.
    pub const INTERRUPTED: u8 = 130;
    /// The guest trapped.
    pub const TRAP: u8 = 134;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_api_are_distinct() {
        let all: std::collections::BTreeSet<_> = api::ALL.iter().collect();
        assert_eq!(all.len(), api::ALL.len());
        let is_word = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(api::ALL.iter().all(is_word));
    }

    /// Promised: a change here breaks scripts.
    #[test]
    fn codes_and_their_meanings_stay() {
        let router: Vec<String> = RouterCode::ALL
            .iter()
            .map(|code| format!("{code} {}", code.description()))
            .collect();
        assert_eq!(
            router,
            [
                "H10 App crashed",
                "H11 Backlog too deep",
                "H12 Request timeout",
                "H13 Connection closed without response",
                "H14 No web dynos running",
                "H15 Idle connection",
                "H18 Server request interrupted",
                "H20 App boot timeout",
                "H27 Client request interrupted",
                "H80 Maintenance mode",
                "app-starting App is starting",
            ]
        );
        let dyno: Vec<String> = DynoCode::ALL
            .iter()
            .map(|code| format!("{code} {}", code.description()))
            .collect();
        assert_eq!(
            dyno,
            [
                "R10 Boot timeout",
                "R12 Exit timeout",
                "R14 Memory limit reached",
                "L10 Lines dropped"
            ]
        );
        assert_eq!(ERROR_HEADER, "oarlock-error");
        for code in RouterCode::ALL {
            let json = serde_json::to_value(code).unwrap();
            assert_eq!(
                json,
                code.as_str(),
                "JSON has the code as the log prints it"
            );
        }
    }

    #[test]
    fn exit_codes_stay_and_differ() {
        let all = [
            exit::OK,
            exit::FAILURE,
            exit::USAGE,
            exit::MANIFEST,
            exit::BUILD,
            exit::RELEASE_PHASE,
            exit::NO_HOST,
            exit::ALREADY_RUNNING,
            exit::ADDRESS_IN_USE,
            exit::DYNO_ENDED,
            exit::INTERRUPTED,
            exit::TRAP,
        ];
        assert_eq!(all, [0, 1, 2, 120, 121, 122, 123, 124, 125, 126, 130, 134]);
    }
}
