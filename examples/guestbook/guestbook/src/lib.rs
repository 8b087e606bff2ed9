//! What the processes of the guestbook share: the [`Entry`], and the [`Book`] that keeps them in the
//! app's kv add-on.

mod book;
mod digest;
mod entry;

pub use book::{Book, SCHEMA};
pub use digest::Digest;
pub use entry::{Entry, Invalid, Message, words};
