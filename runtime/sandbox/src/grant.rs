//! All that a dyno may touch. What is not in its grant does not exist for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cap_std::fs::Dir;

use crate::egress::{Egress, HttpClient};
use crate::kv::KvBucket;
use crate::sockets::Port;

/// A folder handed to a guest.
#[derive(Clone)]
pub struct Folder {
    /// Where the guest sees it, as in `/app`.
    pub guest_path: String,
    /// The folder, opened once.
    pub dir: Arc<Dir>,
    /// Whether the guest may change it.
    pub writable: bool,
}

/// Which of a guest's outputs a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// `wasi:cli/stdout`
    Stdout,
    /// `wasi:cli/stderr`
    Stderr,
}

/// Where a dyno's lines go, and what the sandbox has to say of it. Must not block.
pub trait DynoLog: Send + Sync + 'static {
    /// A line the guest wrote, without its end; longer than 64 KiB it comes in pieces.
    fn line(&self, stream: OutputStream, line: &str);
    /// A remark of the platform about this dyno (a denial, a trap, a limit): `oarlock[web.1]`.
    fn remark(&self, text: &str);
}

/// All that a dyno may touch.
#[derive(Clone)]
pub struct Grant {
    /// Environment variables, complete: config, add-ons, `DYNO`, `OARLOCK_*`, `PORT`.
    pub env: Vec<(String, String)>,
    /// The command line; the first is the program's name.
    pub args: Vec<String>,
    /// Folders other than `/tmp`.
    pub folders: Vec<Folder>,
    /// Where `/tmp`s are made (a folder of the host's own, per app); `None`: no `/tmp`.
    pub tmp_root: Option<Arc<Dir>>,
    /// The decision point for sockets, DNS and outgoing HTTP, shared by the dynos of a process type.
    pub egress: Arc<Egress>,
    /// Sends what `wasi:http` asks for; one pool of connections per app.
    pub http: HttpClient,
    /// The one port it may listen on (`$PORT`), for listening web dynos.
    pub listen: Option<Port>,
    /// kv add-ons by name; `open("default")` is the only one if there is exactly one.
    pub kv: BTreeMap<String, Arc<dyn KvBucket>>,
    /// Its log.
    pub log: Arc<dyn DynoLog>,
}
