//! Failures are told twice, for two readers: whoever drives the platform gets an event, the app's log gets lines. Who prints
//! both on one terminal leaves those lines out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::lock;

/// Lines that are remembered of an app; older ones are printed twice.
const MOST: usize = 1_000;

/// Lines of an app's log that say what an [`Event`](crate::Event) says as well.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<VecDeque<String>>>);

impl Told {
    /// These lines are about to be logged.
    pub(super) fn expect(&self, text: &str) {
        let mut lines = lock(&self.0);
        lines.extend(text.split('\n').map(str::to_owned));
        let over = lines.len().saturating_sub(MOST);
        lines.drain(..over);
    }

    /// Whether a line of the log is one of them; it is then forgotten.
    pub fn take(&self, line: &str) -> bool {
        let mut lines = lock(&self.0);
        let found = lines.iter().position(|one| one == line);
        found.and_then(|at| lines.remove(at)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_taken_once_and_they_are_bounded() {
        let told = Told::default();
        told.expect("a\nb");
        assert!(told.take("b") && told.take("a"));
        assert!(!told.take("a"));
        told.expect("first");
        told.expect(&"x\n".repeat(MOST));
        assert!(!told.take("first"));
        assert!(told.take("x"));
    }
}
