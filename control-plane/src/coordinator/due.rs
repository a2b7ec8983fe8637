//! Which backend, or service, is due when.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::SPACING;

/// What is due this soon comes along, in the same call to the store.
const NEARLY: Duration = Duration::from_millis(2);

/// Names by the time at which they are due.
#[derive(Debug)]
pub(super) struct Due<Name> {
    entries: BTreeMap<Name, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due: Option<Instant>,
    looked: Option<Instant>,
}

impl<Name> Default for Due<Name> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl<Name: Ord + Clone> Due<Name> {
    /// Due now, but not sooner than [`SPACING`] after the last look.
    pub(super) fn urge(&mut self, name: Name, now: Instant) {
        self.at(name, now);
    }

    /// Due at `at`, or before if it already is.
    pub(super) fn at(&mut self, name: Name, at: Instant) {
        let entry = self.entries.entry(name).or_insert(Entry {
            due: None,
            looked: None,
        });
        let spaced = entry.looked.map_or(at, |looked| at.max(looked + SPACING));
        entry.due = Some(entry.due.map_or(spaced, |due| due.min(spaced)));
    }

    /// When the first is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.values().filter_map(|e| e.due).min()
    }

    /// Takes at most `limit` that are due, or nearly, the longest due first.
    pub(super) fn take(&mut self, now: Instant, limit: usize) -> Vec<Name> {
        let due = self
            .entries
            .iter()
            .filter_map(|(name, e)| Some((e.due?, name)));
        let mut due: Vec<_> = due.filter(|(at, _)| *at <= now + NEARLY).collect();
        due.sort();
        let taken: Vec<_> = due
            .into_iter()
            .take(limit)
            .map(|(_, name)| name.clone())
            .collect();
        for name in &taken {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.due = None;
                entry.looked = Some(now);
            }
        }
        taken
    }

    /// Takes one that is not due yet along with others, unless it was looked at less
    /// than `spacing` ago, or is unknown.
    pub(super) fn take_along(&mut self, name: &Name, spacing: Duration, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        if entry.looked.is_some_and(|looked| now < looked + spacing) {
            return false;
        }
        entry.due = None;
        entry.looked = Some(now);
        true
    }

    /// Keeps only these: an agent may name any backend in a trial's result.
    pub(super) fn retain(&mut self, keep: impl Fn(&Name) -> bool) {
        self.entries.retain(|name, _| keep(name));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use breaker_core::BackendName;

    use super::*;

    fn name(name: &str) -> BackendName {
        BackendName::parse(name).expect("a valid name")
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_backends_are_spaced_and_never_delayed_by_later_dates() {
        let mut due = Due::default();
        let start = Instant::now();
        due.urge(name("a/x"), start);
        assert_eq!(due.take(start, 10), [name("a/x")]);
        due.at(name("a/x"), start + Duration::from_secs(1));
        due.urge(name("a/x"), start + Duration::from_millis(1));
        assert_eq!(due.next(), Some(start + SPACING));
        due.at(name("a/x"), start + Duration::from_secs(1));
        assert_eq!(due.next(), Some(start + SPACING));
        assert_eq!(due.take(start + SPACING, 10), [name("a/x")]);
        assert_eq!(due.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_are_no_backends_leave_nothing_behind() {
        let mut due = Due::default();
        let start = Instant::now();
        for n in 0..1000 {
            due.urge(name(&format!("made-up/r{n}")), start);
        }
        due.urge(name("a/x"), start);
        due.retain(|n| n.service() == "a");
        assert_eq!(due.entries.len(), 1);
        assert_eq!(due.take(start, 10), [name("a/x")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_along_is_not_looked_at_too_often_nor_again_when_it_was_due() {
        let mut due = Due::default();
        let (start, spacing) = (Instant::now(), Duration::from_millis(50));
        due.at(name("a/x"), start + Duration::from_secs(1));
        assert!(due.take_along(&name("a/x"), spacing, start));
        assert_eq!(due.next(), None);
        let soon = start + Duration::from_millis(49);
        assert!(!due.take_along(&name("a/x"), spacing, soon));
        assert!(due.take_along(&name("a/x"), spacing, start + spacing));
        assert!(!due.take_along(&name("unknown/x"), spacing, start));
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_takes_the_longest_due_first() {
        let mut due = Due::default();
        let start = Instant::now();
        due.at(name("a/x"), start + Duration::from_millis(2));
        due.at(name("b/x"), start + Duration::from_millis(1));
        due.at(name("c/x"), start + Duration::from_millis(9));
        due.at(name("d/x"), start + Duration::from_millis(7));
        let now = start + Duration::from_millis(5);
        assert_eq!(due.take(now, 1), [name("b/x")]);
        assert_eq!(
            due.take(now, 9),
            [name("a/x"), name("d/x")],
            "and what is nearly due"
        );
    }
}
