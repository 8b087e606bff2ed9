//! The room: who is in it, and what was said last.
//!
//! It has bounds for everything: its seats, the length of names and messages, how many messages it
//! remembers for who comes later, and how far behind a slow listener may be before it misses some.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// The most that may listen at once.
pub(crate) const SEATS: usize = 200;
/// The longest message, in characters.
pub(crate) const TEXT: usize = 500;
/// The longest name, in characters.
pub(crate) const NAME: usize = 32;
/// How many messages are remembered.
pub(crate) const REMEMBERED: usize = 50;
/// How many messages a listener may be behind.
const BEHIND: usize = 64;

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Message {
    /// Counts up from 1.
    pub(crate) number: u64,
    pub(crate) author: String,
    pub(crate) text: String,
}

/// What a listener hears.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Message(Arc<Message>),
    /// It was so slow that it missed this many.
    Missed(u64),
}

/// Why the room did not do something. The text is for the visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    NoName,
    NameTooLong,
    NoText,
    TextTooLong,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Full => write!(f, "All {SEATS} seats are taken; please come back later."),
            Refused::NoName => write!(f, "Please say what your name is."),
            Refused::NameTooLong => write!(f, "A name has {NAME} characters at most."),
            Refused::NoText => write!(f, "Please write something."),
            Refused::TextTooLong => write!(f, "A message has {TEXT} characters at most."),
        }
    }
}

pub(crate) struct Room {
    said: Mutex<Said>,
    out: broadcast::Sender<Arc<Message>>,
    taken: AtomicUsize,
}

#[derive(Default)]
struct Said {
    count: u64,
    last: VecDeque<Arc<Message>>,
}

/// A place in the room; free again when dropped.
pub(crate) struct Seat {
    room: Arc<Room>,
    new: broadcast::Receiver<Arc<Message>>,
}

impl Room {
    pub(crate) fn new() -> Room {
        Room {
            said: Mutex::default(),
            out: broadcast::Sender::new(BEHIND),
            taken: AtomicUsize::new(0),
        }
    }

    /// Takes a seat, and tells what is remembered of the messages after number `after`. A number that was
    /// not reached yet is from before a restart, and counts as 0.
    pub(crate) fn join(self: &Arc<Room>, after: u64) -> Result<(Seat, Vec<Arc<Message>>), Refused> {
        let take = |taken| (taken < SEATS).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map_err(|_| Refused::Full)?;
        // Both under one lock: nothing is heard twice, and nothing is missed in between.
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let seat = Seat {
            room: Arc::clone(self),
            new: self.out.subscribe(),
        };
        let after = if after > said.count { 0 } else { after };
        let newer = said.last.iter().filter(|message| message.number > after);
        Ok((seat, newer.cloned().collect()))
    }

    /// Tells everybody.
    pub(crate) fn say(&self, author: &str, text: &str) -> Result<(), Refused> {
        let text = clean(text, TEXT, Refused::NoText, Refused::TextTooLong)?;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.count += 1;
        let message = Arc::new(Message {
            number: said.count,
            author: author.to_owned(),
            text,
        });
        if said.last.len() == REMEMBERED {
            said.last.pop_front();
        }
        said.last.push_back(Arc::clone(&message));
        // Fails if nobody listens, which is fine.
        let _listeners = self.out.send(message);
        Ok(())
    }
}

/// The name as others see it.
pub(crate) fn name(name: &str) -> Result<String, Refused> {
    clean(name, NAME, Refused::NoName, Refused::NameTooLong)
}

/// Control characters would disturb the others' screens; a newline is as good as a space here.
fn clean(text: &str, most: usize, none: Refused, long: Refused) -> Result<String, Refused> {
    let spaced = |c: char| if c.is_control() { ' ' } else { c };
    let clean: String = text.trim().chars().take(most + 1).map(spaced).collect();
    match clean.chars().count() {
        0 => Err(none),
        length if length > most => Err(long),
        _ => Ok(clean),
    }
}

impl Seat {
    /// The next message.
    pub(crate) async fn hear(&mut self) -> Heard {
        match self.new.recv().await {
            Ok(message) => Heard::Message(message),
            Err(RecvError::Lagged(count)) => Heard::Missed(count),
            // The room is the sender, and this seat keeps it.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(messages: &[Arc<Message>]) -> Vec<&str> {
        messages.iter().map(|message| &*message.text).collect()
    }

    #[tokio::test]
    async fn everybody_hears_it_and_who_comes_later_gets_what_was_said_last() {
        let room = Arc::new(Room::new());
        let (mut first, before) = room.join(0).unwrap();
        assert!(before.is_empty());
        room.say("Ada", " Hello\n there ").unwrap();
        let Heard::Message(message) = first.hear().await else {
            panic!("a message");
        };
        assert_eq!((&*message.author, &*message.text), ("Ada", "Hello  there"));

        let (_late, before) = room.join(0).unwrap();
        assert_eq!(texts(&before), ["Hello  there"]);
        let (_back, before) = room.join(1).unwrap();
        assert!(before.is_empty(), "one who has heard it already");
        let (_other, before) = room.join(30).unwrap();
        assert_eq!(
            texts(&before),
            ["Hello  there"],
            "of a room before this one"
        );
    }

    #[tokio::test]
    async fn the_room_remembers_so_many_and_a_slow_listener_misses_some() {
        let room = Arc::new(Room::new());
        let (mut slow, _) = room.join(0).unwrap();
        let count = BEHIND + 10;
        for n in 1..=count {
            room.say("Ada", &n.to_string()).unwrap();
        }
        let (_late, before) = room.join(0).unwrap();
        assert_eq!(before.len(), REMEMBERED);
        assert_eq!(before.last().unwrap().number, count as u64);
        assert_eq!(slow.hear().await, Heard::Missed(10));
        assert!(matches!(slow.hear().await, Heard::Message(message) if message.number == 11));
    }

    #[test]
    fn a_seat_is_free_again_when_it_is_left() {
        let room = Arc::new(Room::new());
        let mut seats: Vec<_> = (0..SEATS).map(|_| room.join(0).unwrap()).collect();
        assert_eq!(room.join(0).err(), Some(Refused::Full));
        seats.pop();
        assert!(room.join(0).is_ok());
    }

    #[test]
    fn names_and_messages_have_a_length() {
        assert_eq!(name("  "), Err(Refused::NoName));
        assert_eq!(name(&"é".repeat(NAME)).unwrap().chars().count(), NAME);
        assert_eq!(name(&"é".repeat(NAME + 1)), Err(Refused::NameTooLong));
        let room = Room::new();
        assert_eq!(room.say("Ada", "\n"), Err(Refused::NoText));
        assert_eq!(
            room.say("Ada", &"x".repeat(TEXT + 1)),
            Err(Refused::TextTooLong)
        );
    }
}
