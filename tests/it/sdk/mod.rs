//! The guest crate, as guests that use all of it see it: every test on WASI 0.2 and on 0.3.

use oarlock_sandbox::Program;
use oarlock_tests::{Wasi, sdk_guest};

use crate::bench::program_at;

mod handlers;
mod sizes;
mod workers;

/// Makes two tests of each function: one for each version of WASI.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod p2 {
            $(#[tokio::test] async fn $test() { super::$test(oarlock_tests::Wasi::P2).await; })*
        }
        mod p3 {
            $(#[tokio::test] async fn $test() { super::$test(oarlock_tests::Wasi::P3).await; })*
        }
    };
}
use on_both;

fn program(wasi: Wasi, guest: &str) -> Program {
    program_at(&sdk_guest(wasi, guest))
}
