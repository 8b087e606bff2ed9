//! Socket options, with the values and the limits of the WIT.

use std::os::fd::BorrowedFd;
use std::sync::PoisonError;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::code::Code;
use super::tcp::TcpSocket;

/// Linux's largest keep-alive time, in seconds.
const MAX_KEEP_ALIVE: u64 = i16::MAX as u64;
const MAX_KEEP_ALIVE_COUNT: u32 = i8::MAX as u32;
/// The kernel's memory is everybody's: no more than this for a buffer, whatever the guest asks for.
const MAX_BUFFER: usize = 1024 * 1024;

/// Nanoseconds as the guest gave them, never rounded down to nothing.
fn keep_alive(nanos: u64) -> Result<Duration, Code> {
    if nanos == 0 {
        return Err(Code::InvalidArgument);
    }
    Ok(Duration::from_nanos(nanos)
        .clamp(Duration::from_secs(1), Duration::from_secs(MAX_KEEP_ALIVE)))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn buffer(value: u64) -> Result<usize, Code> {
    if value == 0 {
        return Err(Code::InvalidArgument);
    }
    Ok(usize::try_from(value).unwrap_or(MAX_BUFFER).min(MAX_BUFFER))
}

/// Linux doubles what it is given, and shows the double.
fn shown(value: usize) -> u64 {
    let value = if cfg!(target_os = "linux") {
        value / 2
    } else {
        value
    };
    value as u64
}

/// A size is a hint: a system that cannot grant it is no error.
fn hint(outcome: rustix::io::Result<()>) -> Result<(), Code> {
    match outcome {
        Ok(()) | Err(Errno::NOBUFS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The options of a connection that never leaves the process: they have no effect there, and guests see what they set.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kept {
    keep_alive: bool,
    idle_time: u64,
    interval: u64,
    count: u32,
    hop_limit: u8,
    receive_buffer: u64,
    send_buffer: u64,
}

impl Kept {
    /// Those of a socket that still has a descriptor.
    pub(super) fn of(socket: &TcpSocket) -> Self {
        Self {
            keep_alive: socket.keep_alive_enabled().unwrap_or_default(),
            idle_time: socket.keep_alive_idle_time().unwrap_or_default(),
            interval: socket.keep_alive_interval().unwrap_or_default(),
            count: socket.keep_alive_count().unwrap_or_default(),
            hop_limit: socket.hop_limit().unwrap_or_default(),
            receive_buffer: socket.receive_buffer_size().unwrap_or_default(),
            send_buffer: socket.send_buffer_size().unwrap_or_default(),
        }
    }
}

impl TcpSocket {
    fn get<T>(
        &self,
        kept: impl FnOnce(&Kept) -> T,
        kernel: impl FnOnce(BorrowedFd<'_>) -> Result<T, Code>,
    ) -> Result<T, Code> {
        match &self.kept {
            Some(own) => Ok(kept(&own.lock().unwrap_or_else(PoisonError::into_inner))),
            None => kernel(self.descriptor()?),
        }
    }

    fn set(
        &self,
        kept: impl FnOnce(&mut Kept),
        kernel: impl FnOnce(BorrowedFd<'_>) -> Result<(), Code>,
    ) -> Result<(), Code> {
        match &self.kept {
            Some(own) => {
                kept(&mut own.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(())
            }
            None => kernel(self.descriptor()?),
        }
    }

    pub(crate) fn keep_alive_enabled(&self) -> Result<bool, Code> {
        self.get(
            |kept| kept.keep_alive,
            |socket| Ok(sockopt::socket_keepalive(socket)?),
        )
    }

    pub(crate) fn set_keep_alive_enabled(&self, value: bool) -> Result<(), Code> {
        self.set(
            |kept| kept.keep_alive = value,
            |socket| Ok(sockopt::set_socket_keepalive(socket, value)?),
        )
    }

    pub(crate) fn keep_alive_idle_time(&self) -> Result<u64, Code> {
        self.get(
            |kept| kept.idle_time,
            |socket| Ok(nanos(sockopt::tcp_keepidle(socket)?)),
        )
    }

    pub(crate) fn set_keep_alive_idle_time(&self, value: u64) -> Result<(), Code> {
        let value = keep_alive(value)?;
        self.set(
            |kept| kept.idle_time = nanos(value),
            |socket| Ok(sockopt::set_tcp_keepidle(socket, value)?),
        )
    }

    pub(crate) fn keep_alive_interval(&self) -> Result<u64, Code> {
        self.get(
            |kept| kept.interval,
            |socket| Ok(nanos(sockopt::tcp_keepintvl(socket)?)),
        )
    }

    pub(crate) fn set_keep_alive_interval(&self, value: u64) -> Result<(), Code> {
        let value = keep_alive(value)?;
        self.set(
            |kept| kept.interval = nanos(value),
            |socket| Ok(sockopt::set_tcp_keepintvl(socket, value)?),
        )
    }

    pub(crate) fn keep_alive_count(&self) -> Result<u32, Code> {
        self.get(
            |kept| kept.count,
            |socket| Ok(sockopt::tcp_keepcnt(socket)?),
        )
    }

    pub(crate) fn set_keep_alive_count(&self, value: u32) -> Result<(), Code> {
        if value == 0 {
            return Err(Code::InvalidArgument);
        }
        let value = value.min(MAX_KEEP_ALIVE_COUNT);
        self.set(
            |kept| kept.count = value,
            |socket| Ok(sockopt::set_tcp_keepcnt(socket, value)?),
        )
    }

    pub(crate) fn hop_limit(&self) -> Result<u8, Code> {
        let ipv6 = self.is_ipv6();
        self.get(
            |kept| kept.hop_limit,
            |socket| {
                if ipv6 {
                    Ok(sockopt::ipv6_unicast_hops(socket)?)
                } else {
                    u8::try_from(sockopt::ip_ttl(socket)?).map_err(|_| Code::NotSupported)
                }
            },
        )
    }

    pub(crate) fn set_hop_limit(&self, value: u8) -> Result<(), Code> {
        if value == 0 {
            return Err(Code::InvalidArgument);
        }
        let ipv6 = self.is_ipv6();
        self.set(
            |kept| kept.hop_limit = value,
            |socket| {
                if ipv6 {
                    Ok(sockopt::set_ipv6_unicast_hops(socket, Some(value))?)
                } else {
                    Ok(sockopt::set_ip_ttl(socket, value.into())?)
                }
            },
        )
    }

    pub(crate) fn receive_buffer_size(&self) -> Result<u64, Code> {
        self.get(
            |kept| kept.receive_buffer,
            |socket| Ok(shown(sockopt::socket_recv_buffer_size(socket)?)),
        )
    }

    pub(crate) fn set_receive_buffer_size(&self, value: u64) -> Result<(), Code> {
        let value = buffer(value)?;
        self.set(
            |kept| kept.receive_buffer = value as u64,
            |socket| hint(sockopt::set_socket_recv_buffer_size(socket, value)),
        )
    }

    pub(crate) fn send_buffer_size(&self) -> Result<u64, Code> {
        self.get(
            |kept| kept.send_buffer,
            |socket| Ok(shown(sockopt::socket_send_buffer_size(socket)?)),
        )
    }

    pub(crate) fn set_send_buffer_size(&self, value: u64) -> Result<(), Code> {
        let value = buffer(value)?;
        self.set(
            |kept| kept.send_buffer = value as u64,
            |socket| hint(sockopt::set_socket_send_buffer_size(socket, value)),
        )
    }
}
