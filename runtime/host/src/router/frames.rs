//! What an HTTP/2 client sends besides requests, seen from the bytes that it sends: whether a head is under way, and
//! whether the connection is flooded with frames that say nothing.
//!
//! A ping, a setting, a window update, a reset or an empty data frame costs its client nine bytes and the host more. h2
//! holds nothing of them, but works for each. So a connection has a budget of such frames, which time refills, and
//! what it needs them for: requests and the bytes of answers. Nobody who uses HTTP/2 comes near its end.

use std::time::Duration;

use tokio::time::Instant;

/// Frames that say nothing, at once. Reached: the connection is closed.
const BUDGET: u64 = 10_000;

/// One more of them each so often.
const REFILL: Duration = Duration::from_millis(1);

/// One more for each so many bytes of answers: clients open their windows twice (stream and connection) for as little as 4
/// KiB.
const BYTES_PER_FRAME: u64 = 1 << 10;

/// A request comes with a priority and a window update at most.
const PER_HEAD: u64 = 2;

/// A reset pays for what its request was given.
const RESET_COST: u64 = PER_HEAD + 1;

/// Length, type, flags, stream (RFC 9113 4.1).
const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// A padded data frame up to so long may be nothing but padding.
const MOST_PADDING: usize = 256;

/// More of the frames that say nothing came than the budget has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {BUDGET} HTTP/2 frames that carry nothing")]
pub(super) struct Flood;

/// Follows the frames of one connection.
pub(super) struct FrameMeter {
    /// Of a frame's head that is not whole yet.
    head: [u8; FRAME_HEAD],
    have: usize,
    /// Bytes of the frame's payload, or of the preface, that are still to come.
    payload: usize,
    block: Block,
    budget: u64,
    refilled: Instant,
    /// Bytes written that have not bought a frame yet.
    written: u64,
}

/// A block of headers (RFC 9113 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// None is under way.
    Ended,
    /// More frames of it are to come.
    Open,
    /// It ends with the frame that is under way.
    Last,
}

impl FrameMeter {
    /// Of a connection whose preface has so many bytes.
    pub(super) fn new(preface: usize) -> Self {
        Self {
            head: [0; FRAME_HEAD],
            have: 0,
            payload: preface,
            block: Block::Ended,
            budget: BUDGET,
            refilled: Instant::now(),
            written: 0,
        }
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        self.block != Block::Ended
    }

    /// The client sent these bytes.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let taken = self.payload.min(bytes.len());
                self.payload -= taken;
                bytes = bytes.get(taken..).unwrap_or_default();
            } else {
                let wanted = FRAME_HEAD - self.have;
                let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
                if let Some(place) = self.head.get_mut(self.have..self.have + taken.len()) {
                    place.copy_from_slice(taken);
                }
                self.have += taken.len();
                bytes = rest;
                if self.have < FRAME_HEAD {
                    return Ok(());
                }
                self.have = 0;
                self.begin()?;
            }
            if self.payload == 0 && self.block == Block::Last {
                self.block = Block::Ended;
            }
        }
        Ok(())
    }

    /// A frame's head is whole.
    fn begin(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        let block = if flags & END_HEADERS != 0 {
            Block::Last
        } else {
            Block::Open
        };
        match kind {
            HEADERS => {
                self.block = block;
                self.budget = (self.budget + PER_HEAD).min(BUDGET);
                Ok(())
            }
            CONTINUATION => {
                self.block = block;
                self.spend(1)
            }
            DATA if flags & END_STREAM != 0 => Ok(()),
            DATA if self.payload == 0 => self.spend(1),
            DATA if flags & PADDED != 0 && self.payload <= MOST_PADDING => self.spend(1),
            DATA => Ok(()),
            RST_STREAM => self.spend(RESET_COST),
            // Settings, pings, window updates, priorities, farewells, and what nobody knows.
            _ => self.spend(1),
        }
    }

    fn spend(&mut self, cost: u64) -> Result<(), Flood> {
        if self.budget < cost {
            let now = Instant::now();
            let passed = now.saturating_duration_since(self.refilled);
            let earned = passed.as_millis() / REFILL.as_millis();
            self.refilled = now;
            let earned = u64::try_from(earned).unwrap_or(u64::MAX);
            self.budget = self.budget.saturating_add(earned).min(BUDGET);
        }
        self.budget = self.budget.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }

    /// The client took so many bytes.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        self.budget = (self.budget + self.written / BYTES_PER_FRAME).min(BUDGET);
        self.written %= BYTES_PER_FRAME;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn frames_until_flood(meter: &mut FrameMeter, frame: &[u8]) -> u64 {
        let mut count = 0;
        while meter.read(frame).is_ok() {
            count += 1;
            assert!(count < 100 * BUDGET, "no end");
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_under_way_from_its_first_frame_to_its_last_byte() {
        let mut meter = FrameMeter::new(24);
        meter.read(&[0; 24]).unwrap();
        assert!(!meter.is_in_head());
        let mut bytes = frame(4, 0, &[]);
        bytes.extend(frame(HEADERS, 0, b"abc"));
        meter.read(&bytes).unwrap();
        assert!(meter.is_in_head(), "its end was not said");
        let last = frame(CONTINUATION, END_HEADERS, b"defg");
        for (at, byte) in last.iter().enumerate() {
            assert!(meter.is_in_head(), "before byte {at}");
            meter.read(&[*byte]).unwrap();
        }
        assert!(!meter.is_in_head());
        meter.read(&frame(HEADERS, END_HEADERS, &[])).unwrap();
        assert!(!meter.is_in_head(), "an empty one ends with its head");
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_say_nothing_are_counted_and_the_others_are_not() {
        let nothing = [
            frame(4, 0, &[0; 6]),
            frame(6, 0, &[0; 8]),
            frame(8, 0, &[0, 0, 0, 1]),
            frame(2, 0, &[0; 5]),
            frame(DATA, 0, &[]),
            frame(DATA, PADDED, &[2, 0, 0]),
            frame(CONTINUATION, 0, &[]),
            frame(0xee, 0, b"?"),
        ];
        for frame in nothing {
            let mut meter = FrameMeter::new(0);
            assert_eq!(frames_until_flood(&mut meter, &frame), BUDGET);
        }
        let mut meter = FrameMeter::new(0);
        let request = [
            frame(HEADERS, 5, b"x"),
            frame(8, 0, &[0; 4]),
            frame(DATA, 0, b"y"),
        ]
        .concat();
        for _ in 0..10 * BUDGET {
            meter.read(&request).unwrap();
        }
        let reset = [frame(HEADERS, 5, b"x"), frame(RST_STREAM, 0, &[0; 4])].concat();
        assert!(frames_until_flood(&mut meter, &reset) <= BUDGET);
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_bytes_of_answers_refill_the_budget() {
        let mut meter = FrameMeter::new(0);
        // Without a payload, so that the one that was too much leaves nothing behind.
        let settings = frame(4, 0, &[]);
        frames_until_flood(&mut meter, &settings);
        tokio::time::advance(REFILL * 500).await;
        assert_eq!(frames_until_flood(&mut meter, &settings), 500);
        for _ in 0..1_000 {
            meter.wrote(BYTES_PER_FRAME as usize / 2);
        }
        assert_eq!(frames_until_flood(&mut meter, &settings), 500);
        tokio::time::advance(REFILL * 1_000_000).await;
        assert_eq!(frames_until_flood(&mut meter, &settings), BUDGET);
    }
}
