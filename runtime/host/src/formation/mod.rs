//! Formation: the dynos of an app.
mod backoff;
mod clock;
mod cron;
mod dyno;
mod rollout;
mod table;
#[cfg(test)]
mod table_tests;
pub use clock::{Clock, SystemClock};
