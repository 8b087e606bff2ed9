//! Socket options, with the values and the limits of the WIT.

use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::tcp::{Code, TcpSocket};

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

impl TcpSocket {
    pub(crate) fn keep_alive_enabled(&self) -> Result<bool, Code> {
        Ok(sockopt::socket_keepalive(self.descriptor()?)?)
    }

    pub(crate) fn set_keep_alive_enabled(&self, value: bool) -> Result<(), Code> {
        Ok(sockopt::set_socket_keepalive(self.descriptor()?, value)?)
    }

    pub(crate) fn keep_alive_idle_time(&self) -> Result<u64, Code> {
        Ok(nanos(sockopt::tcp_keepidle(self.descriptor()?)?))
    }

    pub(crate) fn set_keep_alive_idle_time(&self, value: u64) -> Result<(), Code> {
        Ok(sockopt::set_tcp_keepidle(
            self.descriptor()?,
            keep_alive(value)?,
        )?)
    }

    pub(crate) fn keep_alive_interval(&self) -> Result<u64, Code> {
        Ok(nanos(sockopt::tcp_keepintvl(self.descriptor()?)?))
    }

    pub(crate) fn set_keep_alive_interval(&self, value: u64) -> Result<(), Code> {
        Ok(sockopt::set_tcp_keepintvl(
            self.descriptor()?,
            keep_alive(value)?,
        )?)
    }

    pub(crate) fn keep_alive_count(&self) -> Result<u32, Code> {
        Ok(sockopt::tcp_keepcnt(self.descriptor()?)?)
    }

    pub(crate) fn set_keep_alive_count(&self, value: u32) -> Result<(), Code> {
        if value == 0 {
            return Err(Code::InvalidArgument);
        }
        Ok(sockopt::set_tcp_keepcnt(
            self.descriptor()?,
            value.min(MAX_KEEP_ALIVE_COUNT),
        )?)
    }

    pub(crate) fn hop_limit(&self) -> Result<u8, Code> {
        let descriptor = self.descriptor()?;
        if self.is_ipv6()? {
            Ok(sockopt::ipv6_unicast_hops(descriptor)?)
        } else {
            u8::try_from(sockopt::ip_ttl(descriptor)?).map_err(|_| Code::NotSupported)
        }
    }

    pub(crate) fn set_hop_limit(&self, value: u8) -> Result<(), Code> {
        if value == 0 {
            return Err(Code::InvalidArgument);
        }
        let descriptor = self.descriptor()?;
        if self.is_ipv6()? {
            Ok(sockopt::set_ipv6_unicast_hops(descriptor, Some(value))?)
        } else {
            Ok(sockopt::set_ip_ttl(descriptor, value.into())?)
        }
    }

    pub(crate) fn receive_buffer_size(&self) -> Result<u64, Code> {
        Ok(shown(sockopt::socket_recv_buffer_size(self.descriptor()?)?))
    }

    pub(crate) fn set_receive_buffer_size(&self, value: u64) -> Result<(), Code> {
        hint(sockopt::set_socket_recv_buffer_size(
            self.descriptor()?,
            buffer(value)?,
        ))
    }

    pub(crate) fn send_buffer_size(&self) -> Result<u64, Code> {
        Ok(shown(sockopt::socket_send_buffer_size(self.descriptor()?)?))
    }

    pub(crate) fn set_send_buffer_size(&self, value: u64) -> Result<(), Code> {
        hint(sockopt::set_socket_send_buffer_size(
            self.descriptor()?,
            buffer(value)?,
        ))
    }
}
