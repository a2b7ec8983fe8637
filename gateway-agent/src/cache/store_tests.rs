use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fleet_config::Fallback;
use http::StatusCode;
use tokio::time::Instant;

use super::*;
use crate::cache::{
    kept::Kept,
    stored::{Charged, Head, Times},
};

struct Kitchen {
    store: Arc<Store>,
    kept: Arc<Kept>,
}

impl Kitchen {
    fn of(limit: u64) -> Self {
        let store = Store::new(limit);
        let kept = Kept::new(Fallback::default(), &store, None);
        Self { store, kept }
    }

    /// An answer of so many bytes; `None`: there is no room for it.
    fn answer(&self, request: &HeaderMap, length: usize) -> Option<Arc<Stored>> {
        let mut response = HeaderMap::new();
        response.insert("vary", "a".parse().expect("a value"));
        let now = Instant::now();
        let times = Times {
            asked: now,
            came: now,
            date: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        let answer = (StatusCode::OK, &response);
        let head = Head::of(&self.kept, request, answer, times).expect("it is kept");
        let charge = Charge::of(&self.store, head.weight())?;
        let bytes = vec![0; length];
        let body = Charged {
            charge: Charge::of(&self.store, length)?,
            bytes,
        };
        Some(Arc::new(Stored {
            head,
            body: Bytes::from_owner(body),
            kept: self.kept.clone(),
            _charge: charge,
        }))
    }

    fn keep(&self, key: &Key, request: &HeaderMap, length: usize) -> bool {
        let asked = self.store.generation(key);
        let answer = self.answer(request, length);
        answer.is_some_and(|answer| self.store.insert(key.clone(), answer, asked))
    }
}

fn key(n: usize) -> Key {
    Key::new("s", "http", "a", &format!("/{n}"), None)
}

#[test]
fn a_flood_of_keys_stays_within_the_bound_and_what_is_used_survives_it() {
    const LIMIT: u64 = 256 << 10;
    let kitchen = Kitchen::of(LIMIT);
    let none = HeaderMap::new();
    assert!(kitchen.keep(&key(0), &none, 1000));
    for n in 1..5000 {
        assert!(kitchen.keep(&key(n), &none, 1000), "{n}");
        assert!(kitchen.store.bytes() <= LIMIT);
        assert!(kitchen.store.find(&key(0), &none).is_some(), "after {n}");
    }
    let entries = kitchen.store.entries();
    assert!((50..256).contains(&entries), "{entries}");
    let evictions = kitchen.kept.counts.read()[4];
    assert_eq!(evictions + entries, 5000);
}

#[test]
fn what_a_slow_client_still_reads_counts_and_keeps_others_out() {
    let kitchen = Kitchen::of(64 << 10);
    let none = HeaderMap::new();
    assert!(kitchen.keep(&key(0), &none, 60_000));
    let reading = kitchen.store.find(&key(0), &none).expect("it is kept");
    let body = reading.body.clone();
    drop(reading);
    assert!(
        !kitchen.keep(&key(1), &none, 60_000),
        "it is still being read"
    );
    drop(body);
    assert!(kitchen.keep(&key(1), &none, 60_000));
}

#[test]
fn variants_of_a_key_are_few_and_each_is_there_once() {
    let kitchen = Kitchen::of(1 << 20);
    let request = |n: usize| {
        let mut request = HeaderMap::new();
        request.insert("a", n.into());
        request
    };
    for n in 0..3 * VARIANTS {
        for _ in 0..2 {
            assert!(kitchen.keep(&key(0), &request(n), 10));
        }
    }
    assert_eq!(kitchen.store.entries(), VARIANTS as u64);
    let found = |n| kitchen.store.find(&key(0), &request(n)).is_some();
    assert!(found(3 * VARIANTS - 1) && !found(0));
}

#[test]
fn what_is_invalidated_is_gone_and_what_was_asked_for_before_is_not_kept() {
    let kitchen = Kitchen::of(1 << 20);
    let none = HeaderMap::new();
    for _ in 0..1000 {
        assert!(kitchen.keep(&key(0), &none, 10));
        let asked = kitchen.store.generation(&key(0));
        kitchen.store.invalidate(&key(0));
        assert!(kitchen.store.find(&key(0), &none).is_none());
        let late = kitchen.answer(&none, 10).expect("there is room");
        assert!(!kitchen.store.insert(key(0), late, asked));
    }
    assert_eq!(kitchen.store.entries(), 0);
    // The slot itself stays, once.
    assert!(
        kitchen.store.bytes() < 2 * SLOT as u64,
        "{}",
        kitchen.store.bytes()
    );
}

#[test]
fn without_memory_nothing_is_kept() {
    let kitchen = Kitchen::of(0);
    assert!(!kitchen.keep(&key(0), &HeaderMap::new(), 10));
    assert_eq!(kitchen.store.bytes(), 0);
}

#[test]
fn a_change_of_one_other_key_does_not_cost_an_answer() {
    const MINE: u64 = 0xaaaa_aaaa_0000_0007;
    const OTHER: u64 = 0xbbbb_bbbb_0000_0007;
    for start in [Generation(0), Generation(0xffff), Generation(OTHER)] {
        assert!(!start.is_over(start, MINE));
        assert!(!start.is_over(start.next(OTHER), MINE));
        assert!(start.is_over(start.next(MINE), MINE));
        assert!(start.is_over(start.next(MINE).next(OTHER), MINE));
    }
}
