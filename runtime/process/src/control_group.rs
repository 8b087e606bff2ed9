//! A control group for a child, where the host was given a part of the kernel's tree: version 2 alone, with the
//! controllers for memory and processes.
//!
//! A group holds all of a child's processes together, which rlimits cannot, and counts what they have in `/tmp`. The host
//! makes groups below its own group, or below the one above it if systemd gave it that and put the host into a part of it
//! (`Delegate=`, `DelegateSubgroup=`). A group with processes of its own can hand no controller on, so that the host
//! moves into a group [`HOST`] first where it is not in such a part.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

/// What groups need.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// Where the host itself is, if it has to move.
const HOST: &str = "oarlock-host";
/// How the names of children's groups begin.
const CHILD: &str = "oarlock-child-";
/// systemd's mark on a group that it leaves to the service in it.
const DELEGATED: &str = "user.delegate";

/// How often a group that ends is looked at until it is empty (10 s altogether). What is left then, in a disk that
/// hangs, keeps its group; the next host removes it.
const LOOKS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// Where the host may make groups.
#[derive(Debug)]
pub struct ControlGroups {
    folder: PathBuf,
    next: AtomicU64,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum NoControlGroup {
    /// No version 2 on this machine, or in this container.
    #[error("cgroup v2 is not mounted")]
    NotMounted,
    /// The mounted part of the tree is another.
    #[error("the group of this process is not in the mounted part of cgroup v2")]
    Elsewhere,
    /// A machine that has them in version 1, or a service without `Delegate=`.
    #[error("{} has no controller {}", group.display(), missing.join(" and "))]
    Controllers {
        /// Which group.
        group: PathBuf,
        /// What is not there.
        missing: Vec<&'static str>,
    },
    /// The kernel lets no group have both processes and such groups below it.
    #[error(
        "other processes are in {}; start the host as a service of its own, with systemd's `Delegate=yes`",
        group.display()
    )]
    Shared {
        /// Which group.
        group: PathBuf,
    },
    /// It is another user's, or mounted read-only.
    #[error("{} cannot be used: {source}", path.display())]
    Refused {
        /// What was to be read or written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What all processes of a group may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Bytes of memory, `/tmp` and the like included; nothing is swapped. Beyond it: all of the group is killed.
    pub memory: u64,
    /// Processes and threads. Beyond it forks fail.
    pub processes: u64,
}

/// What a group was refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exceeded {
    /// It was killed for its memory.
    pub memory: bool,
    /// It could not fork.
    pub processes: bool,
}

/// A group, for one child. Dropped, all in it are killed and it is removed.
#[derive(Debug)]
pub struct ControlGroup {
    folder: PathBuf,
}

impl ControlGroups {
    /// Finds out where groups can be made, and moves this process out of the way if it must. `system`: `/`, or in tests a
    /// folder that looks like it. Blocks; call it once, before there are children.
    ///
    /// # Errors
    ///
    /// Why there can be none.
    pub fn find(system: &Path) -> Result<Self, NoControlGroup> {
        let own = own_group(system)?;
        let above = own.parent().filter(|above| {
            is_delegated(above) && read(&above.join("cgroup.procs")).is_ok_and(|ids| ids.is_empty())
        });
        let folder = above.unwrap_or(&own).to_owned();
        let controllers = read(&folder.join("cgroup.controllers"))?;
        let has = |name: &&str| controllers.split_whitespace().any(|word| word == *name);
        let missing: Vec<_> = CONTROLLERS.into_iter().filter(|name| !has(name)).collect();
        if !missing.is_empty() {
            let group = folder;
            return Err(NoControlGroup::Controllers { group, missing });
        }
        if above.is_none() {
            move_into(&folder, &folder.join(HOST))?;
        } else {
            hand_on(&folder)?;
        }
        remove_empty(&folder);
        let next = AtomicU64::new(0);
        Ok(Self { folder, next })
    }

    /// Below this group.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new one. `name`: for people, without a `/`. Blocks for no time.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn make(&self, name: &str, limits: GroupLimits) -> Result<ControlGroup, NoControlGroup> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{CHILD}{}-{number}-{name}", std::process::id());
        let folder = self.folder.join(name);
        fs::create_dir(&folder).map_err(refused(&folder))?;
        // It is removed if it cannot be limited.
        let group = ControlGroup { folder };
        group.set("memory.max", &limits.memory.to_string())?;
        group.set("pids.max", &limits.processes.to_string())?;
        // A kernel may be without these two.
        for (file, value) in [("memory.swap.max", "0"), ("memory.oom.group", "1")] {
            match group.set(file, value) {
                Err(_) if !group.folder.join(file).exists() => {}
                set => set?,
            }
        }
        Ok(group)
    }
}

impl ControlGroup {
    /// Whoever writes its id to this file is in the group.
    pub(crate) fn door(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// What it was refused so far.
    pub fn exceeded(&self) -> Exceeded {
        let counted = |file: &str, event: &str| {
            let text = read(&self.folder.join(file)).unwrap_or_default();
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.any(|(name, count)| name == event && count.trim() != "0")
        };
        Exceeded {
            memory: counted("memory.events", "oom_kill"),
            processes: counted("pids.events", "max"),
        }
    }

    /// One without limits, at this place; `None`: it cannot be made.
    #[cfg(test)]
    pub(crate) fn bare(folder: PathBuf) -> Option<Self> {
        fs::create_dir(&folder).ok()?;
        Some(Self { folder })
    }

    fn set(&self, file: &str, value: &str) -> Result<(), NoControlGroup> {
        write(&self.folder.join(file), value)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // Before Linux 5.14 there is no such file: then the child's own end has to do.
        let _ = self.set("cgroup.kill", "1");
        if fs::remove_dir(&self.folder).is_ok() {
            return;
        }
        // Killed processes take their time, and who drops may be a task.
        let folder = self.folder.clone();
        let _ = thread::Builder::new()
            .name("group-end".to_owned())
            .spawn(move || {
                for _ in 0..LOOKS {
                    match fs::remove_dir(&folder) {
                        Err(error) if is_busy(&error) => thread::sleep(PAUSE),
                        _ => return,
                    }
                }
            });
    }
}

/// The folder of this process's group.
fn own_group(system: &Path) -> Result<PathBuf, NoControlGroup> {
    let mounts = read(&system.join("proc/self/mountinfo"))?;
    let groups = read(&system.join("proc/self/cgroup"))?;
    let (top, place) = mounts
        .lines()
        .find_map(cgroup2)
        .ok_or(NoControlGroup::NotMounted)?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or(NoControlGroup::NotMounted)?;
    let below = Path::new(own)
        .strip_prefix(&top)
        .map_err(|_| NoControlGroup::Elsewhere)?;
    // A group above the namespace's is shown by this.
    if below.components().any(|part| part.as_os_str() == "..") {
        return Err(NoControlGroup::Elsewhere);
    }
    let place = place.strip_prefix("/").unwrap_or(&place);
    let place = system.join(place);
    Ok(if below.as_os_str().is_empty() {
        place
    } else {
        place.join(below)
    })
}

/// What of the tree is mounted, and where, if this line of `mountinfo` is of version 2 (proc_pid_mountinfo(5)).
fn cgroup2(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, kind) = line.split_once(" - ")?;
    if kind.split(' ').next()? != "cgroup2" {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    Some((unescaped(fields.next()?), unescaped(fields.next()?)))
}

/// `mountinfo` has blanks and the like as `\040`.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .and_then(|three| std::str::from_utf8(three).ok());
        let byte = digits.and_then(|three| u8::from_str_radix(three, 8).ok());
        match (first, byte) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// root may write to groups that systemd keeps for itself, so that being able to is no sign for the group above.
fn is_delegated(group: &Path) -> bool {
    let mut value = [0_u8; 8];
    let length = rustix::fs::getxattr(group, DELEGATED, &mut value).unwrap_or_default();
    value.get(..length) == Some(b"1")
}

/// This process goes into `leaf`, and the group hands its controllers on; or nothing has changed.
fn move_into(group: &Path, leaf: &Path) -> Result<(), NoControlGroup> {
    match fs::create_dir(leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(refused(leaf)(error));
        }
        _ => {}
    }
    let id = std::process::id().to_string();
    let moved = write(&leaf.join("cgroup.procs"), &id).and_then(|()| hand_on(group));
    if moved.is_err() {
        // Best effort: the host runs as well in the leaf.
        let _ = write(&group.join("cgroup.procs"), &id);
        let _ = fs::remove_dir(leaf);
    }
    moved
}

fn hand_on(group: &Path) -> Result<(), NoControlGroup> {
    let controllers = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
    match write(&group.join("cgroup.subtree_control"), &controllers) {
        Err(NoControlGroup::Refused { source, .. }) if is_busy(&source) => {
            let group = group.to_owned();
            Err(NoControlGroup::Shared { group })
        }
        handed => handed,
    }
}

/// What an earlier host left. A group with processes stays.
fn remove_empty(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(CHILD) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
}

fn read(path: &Path) -> Result<String, NoControlGroup> {
    fs::read_to_string(path).map_err(refused(path))
}

/// In one call, as the kernel's files want it.
fn write(path: &Path, text: &str) -> Result<(), NoControlGroup> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(refused(path))
}

fn refused(path: &Path) -> impl FnOnce(io::Error) -> NoControlGroup {
    let path = path.to_owned();
    move |source| NoControlGroup::Refused { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GroupLimits = GroupLimits {
        memory: 64 << 20,
        processes: 100,
    };

    /// A folder that looks like a system with this process in `own`.
    fn system(mountinfo: &str, own: &str) -> tempfile::TempDir {
        let system = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = system.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("proc/self/mountinfo", mountinfo);
        put(
            "proc/self/cgroup",
            &format!("1:name=systemd:/x\n0::{own}\n"),
        );
        system
    }

    fn group(system: &Path, path: &str, controllers: &str, processes: &str) -> PathBuf {
        let folder = system.join(path);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup.controllers"), controllers).unwrap();
        fs::write(folder.join("cgroup.procs"), processes).unwrap();
        folder
    }

    const USUAL: &str = "24 30 0:22 / /proc rw - proc proc rw\n\
                         35 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn text(path: PathBuf) -> String {
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn the_host_moves_into_a_leaf_and_a_group_has_its_limits_and_is_killed() {
        let system = system(USUAL, "/system.slice/oarlock.service");
        let id = std::process::id().to_string();
        let place = "sys/fs/cgroup/system.slice/oarlock.service";
        let own = group(system.path(), place, "cpu memory pids\n", &id);
        fs::create_dir(own.join(format!("{CHILD}1-0-old"))).unwrap();
        let groups = ControlGroups::find(system.path()).unwrap();
        assert_eq!(groups.folder(), own);
        assert_eq!(text(own.join(HOST).join("cgroup.procs")), id);
        assert_eq!(text(own.join("cgroup.subtree_control")), "+memory +pids");
        assert!(!own.join(format!("{CHILD}1-0-old")).exists());

        let ada = groups.make("ada", LIMITS).unwrap();
        let folder = ada.folder.clone();
        assert_eq!(folder.parent(), Some(&*own));
        for (file, value) in [
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("pids.max", "100"),
        ] {
            assert_eq!(text(folder.join(file)), value, "{file}");
        }
        assert_ne!(groups.make("ada", LIMITS).unwrap().folder, folder);
        assert_eq!(ada.exceeded(), Exceeded::default());
        fs::write(folder.join("memory.events"), "low 0\noom 1\noom_kill 3\n").unwrap();
        fs::write(folder.join("pids.events"), "max 0\n").unwrap();
        let (memory, processes) = (true, false);
        assert_eq!(ada.exceeded(), Exceeded { memory, processes });
        drop(ada);
        assert_eq!(text(folder.join("cgroup.kill")), "1");
    }

    #[test]
    fn a_part_that_systemd_made_for_the_host_needs_no_leaf() {
        let system = system(USUAL, "/system.slice/oarlock.service/main");
        let place = "sys/fs/cgroup/system.slice/oarlock.service";
        let above = group(system.path(), place, "memory pids\n", "");
        let id = std::process::id().to_string();
        let own = group(
            system.path(),
            &format!("{place}/main"),
            "memory pids\n",
            &id,
        );
        // Without its mark the group above is not the host's, whoever may write to it.
        let groups = ControlGroups::find(system.path()).unwrap();
        assert_eq!(groups.folder(), own);
        fs::remove_dir_all(own.join(HOST)).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        if let Err(error) = rustix::fs::setxattr(&above, DELEGATED, b"1", flags) {
            println!("NOT TESTED: this file system has no such attributes: {error}");
            return;
        }
        let groups = ControlGroups::find(system.path()).unwrap();
        assert_eq!(groups.folder(), above);
        assert_eq!(text(above.join("cgroup.subtree_control")), "+memory +pids");
        assert!(!own.join(HOST).exists() && !above.join(HOST).exists());
    }

    #[test]
    fn a_part_of_the_tree_is_mounted_at_an_odd_place() {
        let line = "35 25 0:30 /docker/a /odd\\040place rw - cgroup2 cgroup2 rw\n";
        let inside = system(line, "/docker/a/b");
        let own = group(inside.path(), "odd place/b", "memory pids", "");
        assert_eq!(ControlGroups::find(inside.path()).unwrap().folder(), own);
        for own in ["/docker/other", "/docker/a/../b"] {
            let outside = system(line, own);
            let error = ControlGroups::find(outside.path()).unwrap_err();
            assert!(matches!(error, NoControlGroup::Elsewhere), "{own}: {error}");
        }
    }

    #[test]
    fn why_there_is_none_is_said() {
        let none = system(
            "31 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            "/",
        );
        let error = ControlGroups::find(none.path()).unwrap_err();
        assert_eq!(error.to_string(), "cgroup v2 is not mounted");

        let few = system(USUAL, "/");
        group(few.path(), "sys/fs/cgroup", "cpu pids\n", "");
        let error = ControlGroups::find(few.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("sys/fs/cgroup has no controller memory"),
            "{error}"
        );

        // As the kernel does for a group with processes, the write fails, and the host goes back.
        let refused = system(USUAL, "/x");
        let own = group(refused.path(), "sys/fs/cgroup/x", "memory pids\n", "");
        fs::create_dir(own.join("cgroup.subtree_control")).unwrap();
        let error = ControlGroups::find(refused.path()).unwrap_err().to_string();
        assert!(
            error.contains("cgroup.subtree_control cannot be used"),
            "{error}"
        );
        let id = std::process::id().to_string();
        assert_eq!(text(own.join("cgroup.procs")), id);
    }
}
