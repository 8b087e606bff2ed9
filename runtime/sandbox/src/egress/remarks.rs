//! Remarks on denials and limits in a dyno's log, at a rate that a guest cannot use to flood it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::grant::DynoLog;

/// Remarks at once, and then per second.
const BURST: u32 = 20;
const PER_SECOND: u32 = 2;

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    burst: f64,
    per_second: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        Self {
            tokens: burst.into(),
            burst: burst.into(),
            per_second: per_second.into(),
            at: Instant::now(),
        }
    }

    /// Whether one more is within the rate.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + since * self.per_second).min(self.burst);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// The dyno's log, behind a bucket.
pub(crate) struct Remarks {
    log: Arc<dyn DynoLog>,
    state: Mutex<Remarked>,
}

struct Remarked {
    bucket: Bucket,
    left_out: u64,
}

impl Remarks {
    pub(crate) fn new(log: Arc<dyn DynoLog>) -> Self {
        Self {
            log,
            state: Mutex::new(Remarked {
                bucket: Bucket::new(BURST, PER_SECOND),
                left_out: 0,
            }),
        }
    }

    /// Writes a remark, or counts it as left out.
    pub(crate) fn write(&self, text: &str) {
        self.write_at(Instant::now(), text);
    }

    fn write_at(&self, now: Instant, text: &str) {
        let left_out = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.bucket.take(now) {
                state.left_out += 1;
                return;
            }
            std::mem::take(&mut state.left_out)
        };
        if left_out > 0 {
            self.log.remark(&format!(
                "{left_out} remarks were left out: more than {PER_SECOND} a second"
            ));
        }
        self.log.remark(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::OutputStream;
    use std::time::Duration;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl DynoLog for Lines {
        fn line(&self, _stream: OutputStream, _line: &str) {}
        fn remark(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }

    #[test]
    fn a_flood_is_counted_instead_of_written() {
        let lines = Arc::new(Lines::default());
        let remarks = Remarks::new(lines.clone());
        let start = Instant::now();
        for _ in 0..1000 {
            remarks.write_at(start, "denied");
        }
        assert_eq!(lines.0.lock().unwrap().len(), BURST as usize);
        remarks.write_at(start + Duration::from_secs(1), "denied");
        let lines = lines.0.lock().unwrap();
        let expected = "980 remarks were left out: more than 2 a second";
        assert_eq!(lines[BURST as usize], expected);
        assert_eq!(lines[BURST as usize + 1], "denied");
    }
}
