//! The right to something that one process at a time may have, as the lock of an open file. The kernel gives it back when
//! the last descriptor of it is closed, however its process ends.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How often a lock that somebody has is tried again, and how long it is waited for in between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Takes the lock of an open file or folder; `false`: another has it. Blocks for up to 0.2 s, for whoever is just ending
/// may still have it: also a child that was forked a moment ago and has not closed its descriptors yet.
///
/// # Errors
///
/// Those of `flock(2)`.
pub fn lock(file: &impl AsFd) -> io::Result<bool> {
    for tried in 0..=TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if tried < TRIES => thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
