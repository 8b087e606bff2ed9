//! Load, by `wrk`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::plan::Load;

/// Prints what `wrk` counted, for us to read.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"micros":%d,"p50_us":%d,"p99_us":%d,"failed":%d,"bad_status":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.timeout, e.status))
end
"#;

/// What one window of load counted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Requests that were answered.
    pub(crate) requests: u64,
    /// How long it took, in microseconds.
    pub(crate) micros: u64,
    /// Half of the requests were answered within so many microseconds.
    pub(crate) p50_us: u64,
    /// 99 of 100 were.
    pub(crate) p99_us: u64,
    /// Connections that failed, and requests without a whole answer in time.
    pub(crate) failed: u64,
    /// Answers above 399.
    pub(crate) bad_status: u64,
}

/// Where `wrk`'s script lies.
pub(crate) struct Wrk {
    script: tempfile::NamedTempFile,
}

impl Wrk {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut script = tempfile::Builder::new().suffix(".lua").tempfile()?;
        script.write_all(SCRIPT.as_bytes())?;
        Ok(Self { script })
    }

    /// Asks a server for this long.
    pub(crate) fn run(
        &self,
        addr: SocketAddr,
        load: Load,
        window: Duration,
    ) -> anyhow::Result<Counted> {
        // It takes whole seconds only; a shorter window is one that is ended.
        let seconds = window.as_secs_f64().ceil().max(1.0);
        let mut wrk = Command::new("wrk");
        wrk.args(["-t2", &format!("-c{}", load.connections())])
            .arg(format!("-d{seconds}s"))
            .arg("--latency")
            .arg("-s")
            .arg(self.script.path());
        if !load.kept() {
            wrk.args(["-H", "Connection: close"]);
        }
        let output = wrk
            .arg(format!("http://{addr}{}", load.path()))
            .stderr(Stdio::piped())
            .output()
            .context("wrk cannot be started")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
        let Some(result) = result else {
            bail!(
                "wrk printed no result: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        Ok(serde_json::from_str(result)?)
    }
}

/// Asks once, on a connection of its own; the status and the length of the body.
pub(crate) fn ask(addr: SocketAddr, path: &str) -> anyhow::Result<(u16, u64)> {
    ask_of(addr, &addr.to_string(), path)
}

/// The same of a host.
pub(crate) fn ask_of(addr: SocketAddr, host: &str, path: &str) -> anyhow::Result<(u16, u64)> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = answer.split_at(head.context("no head came")? + 4);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status came")?.parse()?;
    let body = if head.contains("transfer-encoding: chunked") {
        chunks(body)?
    } else {
        body.len() as u64
    };
    Ok((status, body))
}

/// The length of a chunked body.
fn chunks(mut body: &[u8]) -> anyhow::Result<u64> {
    let mut length = 0;
    loop {
        let line = body.iter().position(|byte| *byte == b'\n');
        let (size, rest) = body.split_at(line.context("a chunk is cut")? + 1);
        let size = usize::from_str_radix(std::str::from_utf8(size)?.trim(), 16)?;
        if size == 0 {
            return Ok(length);
        }
        length += size as u64;
        body = rest.get(size + 2..).context("a chunk is cut")?;
    }
}

/// That a server answers this load as it should.
pub(crate) fn check(addr: SocketAddr, load: Load) -> anyhow::Result<()> {
    let (status, bytes) = ask(addr, load.path())?;
    ensure!(
        status == 200 && bytes == load.bytes(),
        "{} is answered {status} with {bytes} bytes",
        load.path()
    );
    Ok(())
}
