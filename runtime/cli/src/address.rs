//! Where to listen, as people write it; and who listens there already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use crate::print::quote;

/// The port when none is given.
const PORT: u16 = 8080;

/// How many ports after a taken one are tried for another to name.
const TRIES: u16 = 20;

/// As in `8081`, `:8081`, `localhost:8081`, `127.0.0.1:8081`, `0.0.0.0`. A port alone is one of this machine: who wants to be
/// reached from elsewhere says so.
pub(crate) fn parse(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        // IPv6 without a port.
        Some(_) => (text, None),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => ("", Some(text)),
        None => (text, None),
    };
    let host: IpAddr = match host {
        "" | "localhost" if !text.is_empty() => Ipv4Addr::LOCALHOST.into(),
        "*" => Ipv4Addr::UNSPECIFIED.into(),
        host => host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .map_err(|_| "write it as in `8081`, `127.0.0.1:8081` or `0.0.0.0:8081`".to_owned())?,
    };
    let port = match port {
        None => PORT,
        Some(port) => port
            .parse()
            .map_err(|_| format!("`{port}` is no port; ports go from 0 to 65535"))?,
    };
    Ok(SocketAddr::new(host, port))
}

/// What is said of an address that is taken: who has it, and a line to paste that listens elsewhere. `typed`: the command
/// line, without the program.
pub(crate) fn taken(address: SocketAddr, typed: &[String]) -> String {
    let who = match listener(Path::new("/proc"), address) {
        Some(Listener::Process(pid, name)) => format!("process {pid} ({name})"),
        Some(Listener::Hidden) => "a process of another user".to_owned(),
        None => "another process".to_owned(),
    };
    let elsewhere = free_beside(address).map_or_else(
        || "--listen".to_owned(),
        |free| paste_line(typed, &format!("--listen {free}")),
    );
    format!("{address} is taken by {who}.\nStop it, or listen elsewhere:\n  {elsewhere}")
}

/// Who listens.
#[derive(Debug, PartialEq, Eq)]
enum Listener {
    Process(u32, String),
    /// Somebody whose open files we may not see.
    Hidden,
}

/// Who listens at an address or at all addresses of its port, as far as `proc` shows it.
fn listener(proc: &Path, address: SocketAddr) -> Option<Listener> {
    let inode = ["net/tcp", "net/tcp6"].iter().find_map(|table| {
        let table = std::fs::read_to_string(proc.join(table)).ok()?;
        table
            .lines()
            .skip(1)
            .find_map(|row| inode_of(row, address).map(str::to_owned))
    })?;
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir(proc).ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let mut files = std::fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        if files.any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str())
        }) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            // A process names itself.
            return Some(Listener::Process(pid, crate::print::visible(name.trim())));
        }
    }
    Some(Listener::Hidden)
}

/// The socket of a row of `/proc/net/tcp`, if it listens there.
fn inode_of(row: &str, address: SocketAddr) -> Option<&str> {
    const LISTENS: &str = "0A";
    let mut fields = row.split_whitespace().skip(1);
    let (host, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let host = host_of(host)?;
    let here = host == address.ip() || host.is_unspecified() || address.ip().is_unspecified();
    let port = u16::from_str_radix(port, 16).ok()?;
    // After the state: queues, timer, retransmits, user, timeout, inode.
    (state == LISTENS && here && port == address.port()).then(|| fields.nth(5))?
}

/// An address as the kernel prints it: words of 32 bits in hexadecimal, each in the machine's own order.
fn host_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Another address that is free now: one of the next ports, or any.
fn free_beside(address: SocketAddr) -> Option<SocketAddr> {
    let next = (1..=TRIES).filter_map(|more| address.port().checked_add(more));
    next.chain([0]).find_map(|port| {
        let listener = TcpListener::bind((address.ip(), port)).ok()?;
        listener.local_addr().ok()
    })
}

/// The command that was typed, with another address.
fn paste_line(typed: &[String], option: &str) -> String {
    const LISTEN: [&str; 3] = ["--listen", "--port", "-p"];
    let mut line = "oarlock".to_owned();
    let mut words = typed.iter();
    while let Some(word) = words.next() {
        if LISTEN.contains(&word.as_str()) {
            words.next();
        } else if !LISTEN
            .iter()
            .any(|name| word.starts_with(&format!("{name}=")))
        {
            line = format!("{line} {}", quote(word));
        }
    }
    format!("{line} {option}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, address) in [
            ("127.0.0.1:8081", "127.0.0.1:8081"),
            ("8081", "127.0.0.1:8081"),
            (":8081", "127.0.0.1:8081"),
            ("localhost:8081", "127.0.0.1:8081"),
            ("localhost", "127.0.0.1:8080"),
            ("0.0.0.0", "0.0.0.0:8080"),
            ("*:80", "0.0.0.0:80"),
            ("[::1]:8081", "[::1]:8081"),
            ("::1", "[::1]:8080"),
            ("[::]", "[::]:8080"),
        ] {
            assert_eq!(parse(text), Ok(address.parse().unwrap()), "{text}");
        }
        for (text, word) in [
            ("", "write it as in"),
            ("example.com:80", "write it as in"),
            ("65536", "65535"),
            ("localhost:http", "`http`"),
            (":", "no port"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn who_listens_is_found_by_the_kernels_tables() {
        for host in ["127.0.0.1", "0.0.0.0", "[::1]"] {
            let Ok(listening) = TcpListener::bind(format!("{host}:0")) else {
                println!("skipped: no {host} here");
                continue;
            };
            let address = listening.local_addr().unwrap();
            let found = listener(Path::new("/proc"), address);
            let Some(Listener::Process(pid, name)) = found else {
                panic!("{found:?}")
            };
            assert_eq!(pid, std::process::id());
            assert!(!name.is_empty());
            drop(listening);
            assert_eq!(listener(Path::new("/proc"), address), None);
        }
        assert_eq!(
            listener(Path::new("/nowhere"), "127.0.0.1:1".parse().unwrap()),
            None
        );
    }

    #[test]
    fn the_line_to_paste_is_what_was_typed_elsewhere() {
        let typed = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
        for (line, pasted) in [
            ("up", "oarlock up --listen X"),
            ("up --port 80 DIR", "oarlock up DIR --listen X"),
            ("up --listen=80 --watch", "oarlock up --watch --listen X"),
            ("up it's", r"oarlock up 'it'\''s' --listen X"),
        ] {
            assert_eq!(paste_line(&typed(line), "--listen X"), pasted, "{line}");
        }
        assert_eq!(quote(""), "''");
    }
}
