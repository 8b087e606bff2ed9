//! Which addresses were answered for which granted name. Only these can be connected to by a name's grant.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// How long an answer opens its addresses. Longer than any resolver's cache, because clients keep
/// an address for as long as they reconnect to it.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);
/// How long an answer is given again without a look-up: reconnecting clients ask for every connection.
const FRESH: Duration = Duration::from_secs(5);
/// Names remembered at once; above it the oldest is forgotten.
const MAX_NAMES: usize = 512;
/// Addresses kept of one answer.
pub(crate) const MAX_ADDRESSES: usize = 32;

struct Answer {
    addresses: Vec<IpAddr>,
    /// Addresses of earlier answers, still open: a name behind a balancer answers differently each time.
    earlier: Vec<(IpAddr, Instant)>,
    at: Instant,
}

/// Bounded by [`MAX_NAMES`] names of twice [`MAX_ADDRESSES`] addresses.
#[derive(Default)]
pub(crate) struct Answers {
    by_name: HashMap<Arc<str>, Answer>,
    /// Oldest first; a name stands once.
    order: VecDeque<Arc<str>>,
}

impl Answers {
    /// Remembers that `name` was answered with these.
    pub(crate) fn remember(&mut self, now: Instant, name: &str, addresses: &[IpAddr]) {
        let addresses: Vec<IpAddr> = addresses.iter().copied().take(MAX_ADDRESSES).collect();
        let mut earlier = Vec::new();
        if let Some(old) = self.by_name.remove(name) {
            self.order.retain(|other| &**other != name);
            earlier = old.earlier;
            earlier.extend(old.addresses.into_iter().map(|ip| (ip, old.at)));
            earlier.retain(|(ip, at)| {
                now.saturating_duration_since(*at) < REMEMBERED && !addresses.contains(ip)
            });
            let surplus = earlier.len().saturating_sub(MAX_ADDRESSES);
            earlier.drain(..surplus);
        }
        if self.order.len() >= MAX_NAMES
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_name.remove(&oldest);
        }
        let name: Arc<str> = name.into();
        self.order.push_back(name.clone());
        self.by_name.insert(
            name,
            Answer {
                addresses,
                earlier,
                at: now,
            },
        );
    }

    /// The answer to `name`, if it is fresh enough to be given again.
    pub(crate) fn fresh(&self, now: Instant, name: &str) -> Option<Vec<IpAddr>> {
        let answer = self.by_name.get(name)?;
        (now.saturating_duration_since(answer.at) < FRESH).then(|| answer.addresses.clone())
    }

    /// The names that were answered with `ip`.
    pub(crate) fn names_of(&self, now: Instant, ip: IpAddr) -> Vec<Arc<str>> {
        let alive = |at: Instant| now.saturating_duration_since(at) < REMEMBERED;
        self.by_name
            .iter()
            .filter(|(_, answer)| {
                (alive(answer.at) && answer.addresses.contains(&ip))
                    || answer
                        .earlier
                        .iter()
                        .any(|(other, at)| *other == ip && alive(*at))
            })
            .map(|(name, _)| name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn answers_expire_and_earlier_ones_stay_open() {
        let mut answers = Answers::default();
        let start = Instant::now();
        answers.remember(start, "a.example", &[ip("192.0.2.1")]);
        assert_eq!(
            answers.fresh(start, "a.example"),
            Some(vec![ip("192.0.2.1")])
        );
        assert_eq!(answers.fresh(start + FRESH, "a.example"), None);
        answers.remember(start + FRESH, "a.example", &[ip("192.0.2.2")]);
        let later = start + FRESH;
        assert_eq!(
            answers.names_of(later, ip("192.0.2.1")),
            vec!["a.example".into()]
        );
        assert_eq!(
            answers.names_of(later, ip("192.0.2.2")),
            vec!["a.example".into()]
        );
        assert!(
            answers
                .names_of(start + REMEMBERED, ip("192.0.2.1"))
                .is_empty()
        );
        assert!(
            answers
                .names_of(later + REMEMBERED, ip("192.0.2.2"))
                .is_empty()
        );
    }

    #[test]
    fn the_oldest_name_is_forgotten() {
        let mut answers = Answers::default();
        let now = Instant::now();
        for n in 0..=MAX_NAMES {
            answers.remember(now, &format!("{n}.example"), &[ip("192.0.2.1")]);
        }
        assert!(answers.fresh(now, "0.example").is_none());
        assert!(answers.fresh(now, "1.example").is_some());
        assert_eq!(answers.by_name.len(), MAX_NAMES);
        assert_eq!(answers.order.len(), MAX_NAMES);
    }
}
