//! Connections that the host opens for somebody by an egress's rules, and hands over as they are.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Egress;

/// How long one address may take to answer.
const PER_ADDRESS: Duration = Duration::from_secs(10);

impl Egress {
    /// Connects to a host by name, as a guest's connection would be: the name is judged, then each of its addresses.
    ///
    /// # Errors
    /// What was denied and why, or why no address answers; for the log.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let answered = self
            .look_up(host)
            .await
            .map_err(|error| error.to_string())?;
        let addresses = self
            .judge_answers(host, &answered, port)
            .map_err(|denial| denial.reason)?;
        let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
        for (addr, _granted) in addresses {
            match tokio::time::timeout(PER_ADDRESS, TcpStream::connect(addr)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(format!("{host}:{port} cannot be reached: {last}"))
    }
}
