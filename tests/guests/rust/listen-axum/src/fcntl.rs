//! wasi-libc refuses `F_SETFL` on sockets, which mio needs to accept; `FIONBIO` does the same.

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
/// As C's: on this target variadic arguments arrive as a pointer to them.
#[unsafe(no_mangle)]
unsafe extern "C" fn fcntl(descriptor: i32, command: i32, arguments: *const i32) -> i32 {
    match command {
        F_GETFD | F_SETFD => 0,
        F_GETFL => O_RDWR,
        F_SETFL => {
            let on = i32::from(unsafe { arguments.read() } & O_NONBLOCK != 0);
            let on: *const i32 = &raw const on;
            unsafe { ioctl(descriptor, FIONBIO, &raw const on) }
        }
        _ => -1,
    }
}
