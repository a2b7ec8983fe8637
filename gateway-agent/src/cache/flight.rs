//! Concurrent misses of one key on one core: the first asks, the others wait for
//! its answer, for a while. Nobody waits for another core.
//!
//! Whoever waited in vain asks for itself, at once and together with the others: a
//! key whose answers cannot be kept must not become a queue, so that it is also
//! remembered for a while.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::cache::key::Key;

/// How long anyone waits for another's answer: longer than nearly all answers take,
/// shorter than a caller's patience.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a key is remembered whose answer could not be kept.
const REMEMBER: Duration = Duration::from_secs(10);

/// How many such keys. Two that fall on one place displace each other.
const PLACES: usize = 1 << 10;

/// One core's misses that wait, or need not.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    open: RefCell<HashMap<Key, Rc<Notify>>>,
    /// By hash: whose answers cannot be kept, until when. Empty until first used.
    passing: RefCell<Vec<Option<(u64, Instant)>>>,
    hasher: RandomState,
}

/// What a miss is to do.
#[derive(Debug)]
pub(crate) enum Role {
    /// Ask, and tell the others when it is done.
    Lead(Leading),
    /// Wait for the answer of another.
    Follow(Rc<Notify>),
    /// Ask.
    Alone,
}

impl Flights {
    /// The part of a request that misses `key`.
    pub(crate) fn join(self: &Rc<Self>, key: &Key) -> Role {
        if self.passes(key) {
            return Role::Alone;
        }
        if let Some(done) = self.open.borrow().get(key) {
            return Role::Follow(done.clone());
        }
        let done = Rc::new(Notify::new());
        self.open.borrow_mut().insert(key.clone(), done.clone());
        Role::Lead(Leading {
            flights: self.clone(),
            key: key.clone(),
            done,
        })
    }

    /// The answer of this key could not be kept.
    pub(crate) fn pass(&self, key: &Key) {
        let hash = self.hasher.hash_one(key);
        let mut passing = self.passing.borrow_mut();
        passing.resize(PLACES, None);
        passing[hash as usize % PLACES] = Some((hash, Instant::now() + REMEMBER));
    }

    fn passes(&self, key: &Key) -> bool {
        let passing = self.passing.borrow();
        if passing.is_empty() {
            return false;
        }
        let hash = self.hasher.hash_one(key);
        let place = passing[hash as usize % PLACES];
        place.is_some_and(|(of, until)| of == hash && Instant::now() < until)
    }
}

/// Waits until the one that leads is done, or for [`PATIENCE`].
pub(crate) async fn follow(done: Rc<Notify>) {
    // In either case the next step is to look.
    let _ = timeout(PATIENCE, done.notified()).await;
}

/// Others wait for this; dropped when the answer is kept or will not be.
#[derive(Debug)]
pub(crate) struct Leading {
    flights: Rc<Flights>,
    key: Key,
    done: Rc<Notify>,
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.flights.open.borrow_mut().remove(&self.key);
        self.done.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("s", "http", "a", "/", None)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_leads_and_the_others_wait_until_it_is_done() {
        let flights = Rc::new(Flights::default());
        let Role::Lead(leading) = flights.join(&key()) else {
            panic!("it is the first");
        };
        let Role::Follow(done) = flights.join(&key()) else {
            panic!("it is the second");
        };
        let started = Instant::now();
        let ends = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(leading);
        };
        tokio::join!(follow(done), ends);
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        assert!(matches!(flights.join(&key()), Role::Lead(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let flights = Rc::new(Flights::default());
        let _leading = flights.join(&key());
        let Role::Follow(done) = flights.join(&key()) else {
            panic!("it is the second");
        };
        let started = Instant::now();
        follow(done).await;
        assert_eq!(started.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_kept_is_not_waited_for() {
        let flights = Rc::new(Flights::default());
        flights.pass(&key());
        assert!(matches!(flights.join(&key()), Role::Alone));
        tokio::time::advance(REMEMBER).await;
        assert!(matches!(flights.join(&key()), Role::Lead(_)));
    }
}
