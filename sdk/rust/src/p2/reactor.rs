//! The pollables that are waited for, and the one place that waits for them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use wasip2::clocks::monotonic_clock;
use wasip2::io::poll::{self, Pollable};

struct Slot {
    pollable: Pollable,
    ready: bool,
    waker: Option<Waker>,
}

thread_local! {
    static SLOTS: RefCell<BTreeMap<u64, Slot>> = const { RefCell::new(BTreeMap::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// Waits for a pollable, and drops it when dropped itself. A pollable is a child of what it was made
/// from: this must be dropped first.
pub(crate) struct Wait(u64);

/// Waits until the pollable is ready.
pub(crate) fn wait(pollable: Pollable) -> Wait {
    let number = NEXT.get();
    NEXT.set(number + 1);
    let slot = Slot {
        pollable,
        ready: false,
        waker: None,
    };
    SLOTS.with_borrow_mut(|slots| slots.insert(number, slot));
    Wait(number)
}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        SLOTS.with_borrow_mut(|slots| match slots.get_mut(&self.0) {
            Some(slot) if !slot.ready => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let slot = SLOTS.with_borrow_mut(|slots| slots.remove(&self.0));
        drop(slot);
    }
}

/// Waits until a pollable is ready and wakes who waits for it. `false`: nothing is waited for.
pub(super) fn park() -> bool {
    turn(None)
}

/// Wakes who waits for a pollable that is ready by now.
pub(super) fn look() {
    turn(Some(monotonic_clock::subscribe_duration(0)));
}

fn turn(now: Option<Pollable>) -> bool {
    let ready: Vec<u64> = SLOTS.with_borrow(|slots| {
        let waiting = slots.iter().filter(|(_, slot)| slot.waker.is_some());
        let (numbers, mut pollables): (Vec<u64>, Vec<&Pollable>) = waiting
            .map(|(number, slot)| (*number, &slot.pollable))
            .unzip();
        if pollables.is_empty() {
            return Vec::new();
        }
        pollables.extend(&now);
        let ready = poll::poll(&pollables).into_iter();
        // The last one is `now`, which has no number.
        ready
            .filter_map(|index| numbers.get(index as usize).copied())
            .collect()
    });
    for number in &ready {
        let waker = SLOTS.with_borrow_mut(|slots| {
            let slot = slots.get_mut(number)?;
            slot.ready = true;
            slot.waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
    !ready.is_empty()
}
