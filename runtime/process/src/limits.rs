//! What a child's processes may use: rlimits, set by a shell that the program takes the place of.
//!
//! A shell needs no `unsafe`, and forks nothing of the host's memory. It is there only for children with limits or a fence.

use std::ffi::OsString;
use std::path::Path;

/// What each process of a child may use; `None`: what the host may. A limit that is lower already stays. Core dumps are off
/// as soon as one is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest file it writes (RLIMIT_FSIZE; whole blocks of 512). Beyond it: SIGXFSZ.
    pub file: Option<u64>,
    /// Bytes of its own memory (RLIMIT_DATA; whole KiB). Beyond it allocations fail.
    pub data: Option<u64>,
    /// Bytes of its address space (RLIMIT_AS; whole KiB). Beyond it allocations fail.
    pub address_space: Option<u64>,
    /// Seconds of processor time (RLIMIT_CPU). Beyond it: SIGXCPU or SIGKILL.
    pub cpu: Option<u64>,
    /// Processes and threads of its user, on the whole machine (RLIMIT_NPROC). Beyond it forks fail; root has none.
    pub processes: Option<u64>,
}

/// The group first, so that all else is in it; the five limits, then the program. Debian's shell counts processes with
/// `-p`, others with `-u`.
const LIMIT: &str = r#"[ "$7" = - ] || echo $$ > "$7" || exit 126
limit() { [ "$2" = - ] || ulimit "$1" "$2"; } 2>/dev/null
limit -f "$1"; limit -d "$2"; limit -v "$3"; limit -t "$4"; limit -u "$5" || limit -p "$5"
[ "$1$2$3$4$5" = ----- ] || ulimit -c 0
[ "$6" = keep ] || unset PWD
shift 7
"#;

impl Limits {
    pub(crate) fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// A shell's arguments; the program and its own follow. `stays`: the shell stays its parent, and ends with it. `door`:
    /// the file by which a control group is entered.
    pub(crate) fn shell(&self, stays: Stays, keep_pwd: bool, door: Option<&Path>) -> Vec<OsString> {
        let run = match stays {
            // A handler is not inherited, as ignoring the signal would be.
            Stays::Yes => "trap : TERM\n\"$@\"\nexit $?",
            Stays::No => "exec \"$@\"",
        };
        let text = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let mut args = vec!["-c".into(), format!("{LIMIT}{run}").into(), "sh".into()];
        let values = [
            text(self.file.map(|bytes| bytes / 512)),
            text(self.data.map(|bytes| bytes / 1024)),
            text(self.address_space.map(|bytes| bytes / 1024)),
            text(self.cpu),
            text(self.processes),
            if keep_pwd { "keep" } else { "-" }.to_owned(),
        ];
        args.extend(values.map(OsString::from));
        args.push(door.map_or_else(|| "-".into(), OsString::from));
        args
    }
}

/// Whether the shell goes on while the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stays {
    Yes,
    No,
}
