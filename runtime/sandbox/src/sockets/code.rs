//! What can go wrong with a socket, in the words that both versions of the WIT share.
//!
//! A code is also a promise to wasi-libc: it aborts the guest on `invalid-state` and `not-in-progress`, which it takes
//! for its own fault. So "invalid state" is said only of a call that wasi-libc never makes in that state, and no error of
//! the kernel's becomes it.

use std::io;

use rustix::io::Errno;

/// What can go wrong, in the words both versions of the WIT share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    AccessDenied,
    NotSupported,
    InvalidArgument,
    OutOfMemory,
    Timeout,
    InvalidState,
    TooManySockets,
    AddressNotBindable,
    AddressInUse,
    RemoteUnreachable,
    ConnectionRefused,
    ConnectionBroken,
    ConnectionReset,
    ConnectionAborted,
    Unknown,
}

impl From<io::Error> for Code {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match Errno::from_io_error(&error) {
            Some(Errno::NOBUFS) => return Self::OutOfMemory,
            Some(Errno::MFILE | Errno::NFILE) => return Self::TooManySockets,
            Some(
                Errno::NOPROTOOPT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT,
            ) => {
                return Self::NotSupported;
            }
            _ => {}
        }
        match error.kind() {
            Kind::PermissionDenied => Self::AccessDenied,
            Kind::AddrInUse => Self::AddressInUse,
            Kind::AddrNotAvailable => Self::AddressNotBindable,
            Kind::TimedOut => Self::Timeout,
            Kind::BrokenPipe => Self::ConnectionBroken,
            Kind::ConnectionRefused => Self::ConnectionRefused,
            Kind::ConnectionReset => Self::ConnectionReset,
            Kind::ConnectionAborted => Self::ConnectionAborted,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
                Self::RemoteUnreachable
            }
            Kind::InvalidInput => Self::InvalidArgument,
            Kind::OutOfMemory => Self::OutOfMemory,
            Kind::Unsupported => Self::NotSupported,
            _ => Self::Unknown,
        }
    }
}

impl From<Errno> for Code {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_of_the_kernels_is_one_that_wasi_libc_aborts_on() {
        // All numbers of Linux, and more.
        for number in 1..=200 {
            let error = io::Error::from_raw_os_error(number);
            assert_ne!(Code::from(error), Code::InvalidState, "errno {number}");
        }
        for kind in [io::ErrorKind::NotConnected, io::ErrorKind::Other] {
            assert_eq!(Code::from(io::Error::from(kind)), Code::Unknown);
        }
    }
}
