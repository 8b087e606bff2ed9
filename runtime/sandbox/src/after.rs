//! Work that goes on after its answer: what holds its slot, and when it has gone on for too long.
//!
//! A call is over when its guest has returned, or its instance is gone; until then its [`Hold`] is kept. Beyond
//! `after_response` an instance that has no other call is ended. One that has others takes no more of them: wasmtime
//! cannot end one call of a store.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// What a caller leaves with its call, a slot for example: dropped when the guest has returned, or the instance is gone.
#[derive(Clone, Default)]
pub struct Hold {
    _held: Option<Arc<dyn Send + Sync>>,
}

impl Hold {
    /// Nothing.
    pub const NONE: Self = Self { _held: None };

    /// This; the caller may keep a share of it.
    pub fn new(what: Arc<impl Send + Sync + 'static>) -> Self {
        Self { _held: Some(what) }
    }
}

/// Written to the log when an instance is ended for its work.
pub(crate) fn ended(limit: Duration) -> String {
    remark("Ending the instance", limit)
}

/// Written to the log when an instance is to be replaced for it.
pub(crate) fn replaced(limit: Duration) -> String {
    remark("Replacing the process", limit)
}

fn remark(what: &str, limit: Duration) -> String {
    let limit = limit.as_secs_f64();
    format!(
        "{what}: it went on for more than {limit} seconds after its response; \
         raise `after_response` in `[limits]`, or move the work to a worker"
    )
}

/// Of an instance that has one call: how long it goes on when its caller has all it wanted.
pub(crate) struct AfterResponse {
    limit: Duration,
    asked: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl AfterResponse {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            asked: false,
            timer: None,
        }
    }

    /// Ready when it has gone on for too long. To be asked once the caller has all it wanted, after the guest's turn.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.asked, true) {
            // Most guests are done by their next turn, and cost no timer.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let limit = self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx)
    }
}

/// How long an instance that is to be replaced may take to become idle after all, before that begins.
const SETTLE: Duration = Duration::from_secs(1);

/// What a shared instance is doing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Its guest does nothing.
    pub(crate) idle: bool,
    /// Calls whose callers still want something.
    pub(crate) wanted: usize,
    /// When the first of those went away whose guest has not returned.
    pub(crate) abandoned: Option<Instant>,
}

/// What a shared instance is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Nothing,
    /// Ask again after the guest's next turn.
    Turn,
    /// Ask again then.
    At(Instant),
    /// It is to end.
    End,
}

/// Of a shared instance, where it is not known whose the work is: wasmtime says whether a store has any, not of which
/// calls. So work after answers shows when the instance has no call; that it is over, when it is idle.
pub(crate) struct SharedAfterResponse {
    limit: Duration,
    asked: bool,
    /// When work was first seen of which it is not known that it is over.
    since: Option<Instant>,
    /// Since when there has been work and no call.
    quiet: Option<Instant>,
    /// It takes no call for now: so it is found out whether the work is still that of `since`.
    pub(crate) paused: bool,
    /// It takes no more calls, and is to be replaced.
    pub(crate) closed: bool,
}

impl SharedAfterResponse {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            asked: false,
            since: None,
            quiet: None,
            paused: false,
            closed: false,
        }
    }

    /// Whether it has work after its answers, and not only for a turn.
    pub(crate) fn has_work(&self) -> bool {
        self.since.is_some()
    }

    /// To be asked at each turn; `now` costs a system call, or nearly.
    pub(crate) fn step(&mut self, load: Load, now: impl FnOnce() -> Instant) -> Step {
        if load.idle {
            let closed = self.closed;
            *self = Self::new(self.limit);
            self.closed = closed;
            return Step::Nothing;
        }
        if load.wanted > 0 {
            self.asked = false;
            self.quiet = None;
            if self.since.is_none() && load.abandoned.is_none() {
                return Step::Nothing;
            }
        } else if self.quiet.is_none() && !std::mem::replace(&mut self.asked, true) {
            return Step::Turn;
        }
        let now = now();
        if load.wanted == 0 {
            self.quiet.get_or_insert(now);
            self.since.get_or_insert(now);
        }
        let due = |since: Option<Instant>| since.map(|since| since + self.limit);
        let (after, abandoned) = (due(self.since), due(load.abandoned));
        let first = [after, abandoned].into_iter().flatten().min();
        let Some(first) = first else {
            return Step::Nothing;
        };
        if now < first {
            return Step::At(first);
        }
        self.paused = true;
        // Calls that came after `since` may work for as long after their own answers.
        let end = due(self.quiet);
        if end.is_some_and(|end| end <= now) {
            return Step::End;
        }
        // A call that nobody wants any more is known to be still there.
        let is_certain = abandoned.is_some_and(|due| due <= now);
        let close = first + SETTLE;
        self.closed |= is_certain || close <= now;
        let next = [end, (!self.closed).then_some(close)];
        match next.into_iter().flatten().min() {
            Some(next) => Step::At(next),
            None => Step::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);
    const IDLE: Load = Load {
        idle: true,
        wanted: 0,
        abandoned: None,
    };
    const QUIET: Load = Load {
        idle: false,
        ..IDLE
    };

    fn busy(wanted: usize) -> Load {
        Load { wanted, ..QUIET }
    }

    /// One whose work after an answer was first seen at the returned time.
    fn working() -> (SharedAfterResponse, Instant) {
        let mut after = SharedAfterResponse::new(LIMIT);
        let start = Instant::now();
        assert_eq!(after.step(QUIET, || start), Step::Turn);
        assert!(!after.has_work());
        assert_eq!(after.step(QUIET, || start), Step::At(start + LIMIT));
        assert!(after.has_work());
        (after, start)
    }

    #[test]
    fn a_guest_that_is_idle_by_its_next_turn_costs_no_clock() {
        let never = || panic!("the clock was read");
        let mut after = SharedAfterResponse::new(LIMIT);
        for load in [IDLE, busy(1), QUIET, IDLE, busy(3), busy(2), QUIET, busy(1)] {
            let step = after.step(load, never);
            let turn = load.wanted == 0 && !load.idle;
            assert_eq!(step, if turn { Step::Turn } else { Step::Nothing });
            assert!(!after.has_work() && !after.paused && !after.closed);
        }
    }

    #[test]
    fn work_alone_in_its_instance_ends_it() {
        let (mut after, start) = working();
        let early = start + LIMIT / 2;
        assert_eq!(after.step(QUIET, || early), Step::At(start + LIMIT));
        assert!(!after.paused);
        assert_eq!(after.step(QUIET, || start + LIMIT), Step::End);
        // One that becomes idle in time has all of it again.
        let (mut after, start) = working();
        assert_eq!(after.step(IDLE, || start), Step::Nothing);
        assert_eq!(after.step(QUIET, || start), Step::Turn);
        let later = start + LIMIT;
        assert_eq!(after.step(QUIET, || later), Step::At(later + LIMIT));
    }

    #[test]
    fn calls_beside_the_work_are_finished_and_no_more_are_taken() {
        let (mut after, start) = working();
        let due = start + LIMIT;
        assert_eq!(after.step(busy(1), || start), Step::At(due));
        assert_eq!(after.step(busy(1), || due), Step::At(due + SETTLE));
        assert!(after.paused && !after.closed);
        assert_eq!(after.step(busy(1), || due + SETTLE), Step::Nothing);
        assert!(after.closed);
        // The last call may work after its answer, too.
        let last = due + SETTLE * 2;
        assert_eq!(after.step(QUIET, || last), Step::Turn);
        assert_eq!(after.step(QUIET, || last), Step::At(last + LIMIT));
        assert_eq!(after.step(QUIET, || last + LIMIT), Step::End);
    }

    #[test]
    fn an_instance_that_turns_out_to_be_idle_goes_on() {
        let (mut after, start) = working();
        let due = start + LIMIT;
        assert_eq!(after.step(busy(2), || due), Step::At(due + SETTLE));
        assert!(after.paused);
        assert_eq!(after.step(IDLE, || due), Step::Nothing);
        assert!(!after.paused && !after.closed && !after.has_work());
    }

    #[test]
    fn a_call_that_nobody_waits_for_closes_its_instance_in_time() {
        let mut after = SharedAfterResponse::new(LIMIT);
        let start = Instant::now();
        let load = Load {
            abandoned: Some(start),
            ..busy(2)
        };
        assert_eq!(after.step(load, || start), Step::At(start + LIMIT));
        assert_eq!(after.step(load, || start + LIMIT), Step::Nothing);
        assert!(after.closed);
        // It came to its end in time.
        let mut after = SharedAfterResponse::new(LIMIT);
        assert_eq!(after.step(load, || start), Step::At(start + LIMIT));
        assert_eq!(after.step(busy(1), || start + LIMIT * 2), Step::Nothing);
        assert!(!after.paused && !after.closed);
    }
}
