//! Private servers for tests: each test starts its own, on a free port and in a temporary folder, and
//! it ends with the value. A server's Debian package that is missing is installed, if the tests run as root.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::packages;

/// How long a server may take to answer; a loaded machine needs some of it.
const START: Duration = Duration::from_secs(60);

/// A server's process and folder.
struct Server {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Server {
    /// Starts what `command` makes of a free port and a new folder, until `ready` says so. The port may
    /// be taken between its choice and the server's bind: then the server ends, and is tried again.
    fn start(
        name: &str,
        command: impl Fn(u16, &Path) -> Command,
        ready: impl Fn(u16) -> bool,
    ) -> Self {
        let deadline = Instant::now() + START;
        for _ in 0..5 {
            let port = free_port();
            let folder = tempfile::tempdir().unwrap();
            let mut command = command(port, folder.path());
            let log = std::fs::File::create(folder.path().join("log")).unwrap();
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log);
            let child = command
                .spawn()
                .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
            let mut server = Self {
                child,
                port,
                folder,
            };
            while server.child.try_wait().unwrap().is_none() {
                if ready(port) {
                    return server;
                }
                assert!(
                    Instant::now() < deadline,
                    "{name} did not answer in {START:?}: {}",
                    server.log()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            eprintln!("{name} ended at once: {}", server.log());
        }
        panic!("{name} could not be started five times");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL's children end when the first process is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// What an [`Nginx`] passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// Requests: it says in headers whose they are.
    Requests,
    /// Bytes: it says by the PROXY protocol whose they are.
    Bytes,
}

/// An nginx in front of an address.
pub struct Nginx(Server);

impl Nginx {
    /// Starts it.
    pub fn start(passes: Passes, to: SocketAddr) -> Self {
        packages::need("nginx-light", || packages::is_program("nginx"));
        let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
        packages::need("libnginx-mod-stream", || module.is_file());
        let command = |port: u16, folder: &Path| {
            let server = match passes {
                Passes::Requests => format!(
                    "http {{ access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; \
                     uwsgi_temp_path u; scgi_temp_path s; server {{ listen 127.0.0.1:{port}; location / {{ \
                     proxy_pass http://{to}; proxy_http_version 1.1; proxy_set_header Host $host; \
                     proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
                     proxy_set_header X-Forwarded-Proto https; proxy_set_header X-Forwarded-Port 443; }} }} }}"
                ),
                Passes::Bytes => format!(
                    "stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {to}; proxy_protocol on; }} }}"
                ),
            };
            let file = folder.join("nginx.conf");
            let text = format!(
                "load_module {};\ndaemon off; master_process off; pid nginx.pid; error_log stderr;\nevents {{}}\n{server}\n",
                module.display()
            );
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-p").arg(folder).arg("-c").arg(file);
            command
        };
        let ready = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        Self(Server::start("nginx", command, ready))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0.port).into()
    }
}

/// A redis-server with a password.
pub struct Redis(Server);

impl Redis {
    /// Starts it.
    pub fn start() -> Self {
        packages::need("redis-server", || packages::is_program("redis-server"));
        let command = |port: u16, folder: &Path| {
            let mut command = Command::new("redis-server");
            command
                .current_dir(folder)
                .args(["--bind", "127.0.0.1", "--port"])
                .arg(port.to_string());
            command.args([
                "--save",
                "",
                "--appendonly",
                "no",
                "--requirepass",
                "opensesame",
            ]);
            command
        };
        Self(Server::start("redis-server", command, |port| {
            // Ready, but a password is wanted.
            redis_command(port, &["PING"]).is_ok_and(|answer| answer.contains("NOAUTH"))
        }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0.port).into()
    }

    /// Its URL, with the password.
    pub fn url(&self) -> String {
        format!("redis://:opensesame@127.0.0.1:{}/0", self.0.port)
    }

    /// Sends one command; the first line of the answer.
    pub fn command(&self, words: &[&str]) -> String {
        let mut socket = TcpStream::connect(self.address()).unwrap();
        let _ = exchange(&mut socket, &["AUTH", "opensesame"]).unwrap();
        exchange(&mut socket, words).unwrap()
    }

    /// Connections of others.
    pub fn clients(&self) -> usize {
        let mut socket = TcpStream::connect(self.address()).unwrap();
        let _ = exchange(&mut socket, &["AUTH", "opensesame"]).unwrap();
        socket
            .write_all(b"*2\r\n$4\r\nINFO\r\n$7\r\nclients\r\n")
            .unwrap();
        let mut lines = BufReader::new(socket).lines().map(Result::unwrap);
        let count = lines.find_map(|line| {
            let count = line.strip_prefix("connected_clients:")?;
            count.parse::<usize>().ok()
        });
        // Without this one.
        count.unwrap() - 1
    }
}

fn redis_command(port: u16, words: &[&str]) -> std::io::Result<String> {
    exchange(&mut TcpStream::connect((Ipv4Addr::LOCALHOST, port))?, words)
}

fn exchange(socket: &mut TcpStream, words: &[&str]) -> std::io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text += &format!("${}\r\n{word}\r\n", word.len());
    }
    socket.write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// A PostgreSQL with the user `ada`, password `opensesame` (SCRAM), database `postgres`.
pub struct Postgres(Server);

impl Postgres {
    /// Makes a cluster and starts it. It refuses to run as root: then it runs as `postgres` or `nobody`.
    pub fn start() -> Self {
        packages::need("postgresql", || postgres_bin().is_some());
        let bin = postgres_bin().unwrap();
        let user = unprivileged();
        let command = |port: u16, folder: &Path| {
            let data = folder.join("data");
            let password = folder.join("password");
            std::fs::write(&password, "opensesame").unwrap();
            std::fs::create_dir(&data).unwrap();
            if let Some((uid, gid)) = user {
                use std::os::unix::fs::{PermissionsExt, chown};
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
                chown(&data, Some(uid), Some(gid)).unwrap();
            }
            let as_user = |program: &str| {
                let mut command = Command::new(bin.join(program));
                if let Some((uid, gid)) = user {
                    command.uid(uid).gid(gid);
                }
                command
                    .env_clear()
                    .env("LC_ALL", "C")
                    .env("TZ", "UTC")
                    .current_dir(&data);
                command
            };
            let made = as_user("initdb")
                .args([
                    "--username=ada",
                    "--auth=scram-sha-256",
                    "--no-sync",
                    "--encoding=UTF8",
                ])
                .arg(format!("--pwfile={}", password.display()))
                .arg("--pgdata")
                .arg(&data)
                .output()
                .unwrap();
            assert!(
                made.status.success(),
                "initdb: {}",
                String::from_utf8_lossy(&made.stderr)
            );
            let mut command = as_user("postgres");
            command
                .arg("-D")
                .arg(&data)
                .args(["-h", "127.0.0.1", "-k", "", "-F", "-p"])
                .arg(port.to_string());
            command
        };
        Self(Server::start("postgres", command, |port| {
            // A request for TLS is answered with one letter once connections are taken.
            let ask = || -> std::io::Result<u8> {
                let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
                socket.set_read_timeout(Some(Duration::from_secs(5)))?;
                socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
                let mut letter = [0];
                socket.read_exact(&mut letter)?;
                Ok(letter[0])
            };
            ask().is_ok_and(|letter| letter == b'N')
        }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0.port).into()
    }

    /// Its URL, with the password.
    pub fn url(&self) -> String {
        format!(
            "postgres://ada:opensesame@127.0.0.1:{}/postgres",
            self.0.port
        )
    }
}

fn postgres_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    versions
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .max()
}

/// Whom to run as if this is root.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = users
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_start_answer_and_end() {
        let redis = Redis::start();
        assert_eq!(redis.command(&["SET", "k", "v"]), "+OK");
        let postgres = Postgres::start();
        assert!(TcpStream::connect(postgres.address()).is_ok());
        let (redis_at, postgres_at) = (redis.address(), postgres.address());
        drop((redis, postgres));
        assert!(TcpStream::connect(redis_at).is_err());
        assert!(TcpStream::connect(postgres_at).is_err());
    }
}
