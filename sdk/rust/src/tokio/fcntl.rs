//! Replaces the C library's `fcntl`, which refuses sockets: mio sets `O_NONBLOCK` on each that it
//! accepts. `ioctl(FIONBIO)` does the same and works. Guests have no other use for `fcntl`: there are
//! no duplicated descriptors, no `exec` and no locks.
//!
//! No module of the crate: `build.rs` makes an object of its own of it, and says why.
#![no_std]

const F_GETFD: i32 = 1;
const F_SETFD: i32 = 2;
const F_GETFL: i32 = 3;
const F_SETFL: i32 = 4;
const O_NONBLOCK: i32 = 4;
const O_RDWR: i32 = 0x1400_0000;
const FIONBIO: i32 = 2;

unsafe extern "C" {
    fn ioctl(descriptor: i32, request: i32, arguments: *const *const i32) -> i32;
}

/// # Safety
/// As C's `fcntl`: on this target a variadic argument arrives as a pointer to its place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(descriptor: i32, command: i32, arguments: *const i32) -> i32 {
    match command {
        F_GETFD | F_SETFD => 0,
        F_GETFL => O_RDWR,
        F_SETFL => {
            // SAFETY: `F_SETFL` has one int argument, which the caller passes.
            let flags = unsafe { arguments.read() };
            let on = i32::from(flags & O_NONBLOCK != 0);
            let on: *const i32 = &raw const on;
            // SAFETY: `FIONBIO` has one argument, a pointer to an int, which outlives the call.
            unsafe { ioctl(descriptor, FIONBIO, &raw const on) }
        }
        _ => -1,
    }
}
