//! Kept answers of all services and cores, within one bound of memory.
//!
//! One store for all cores, because one for each would miss as many times as there
//! are cores and hold everything as often. It is cut in shards, each behind a lock
//! that is held for a look-up or an insertion and never across an await; only
//! requests of services with a fallback come here.
//!
//! The bound counts whatever is alive, also what is being collected and what a slow
//! client still reads. Room is made by the CLOCK rule: a hand goes round and takes
//! what was not used since it came by last.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::HeaderMap;

use crate::cache::{key::Key, stored::Stored};

/// Locks; more than cores that are likely to want one at once.
const SHARDS: usize = 16;

/// Answers under one key that differ by `Vary`: more are the mark of a `Vary` that
/// does not save anything.
const VARIANTS: usize = 8;

/// What a key takes beside its text, which is there once.
const SLOT: usize = 192;

/// Counters of what was invalidated, 64 KiB of them. Keys share them, so that an
/// answer may be lost when others of its counter changed twice while it was asked for.
const GENERATIONS: usize = 1 << 13;

/// How far a hand goes under one lock.
const STEPS: usize = 64;

/// What is forgotten at most for one piece of memory: enough small answers for one
/// of the default's largest, and about a millisecond.
const EVICTIONS: usize = 1 << 10;

/// The kept answers of an agent.
#[derive(Debug)]
pub struct Store {
    shards: [Mutex<Shard>; SHARDS],
    /// Each counts in its lower 16 bits, and has of the last key the upper bits of
    /// its hash.
    generations: Box<[AtomicU64]>,
    hasher: RandomState,
    bytes: AtomicU64,
    entries: AtomicU64,
    limit: u64,
    /// The shard whose hand moves next.
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    slots: HashMap<Key, Slot>,
    /// Each key of `slots` once, in the order in which the hand comes by.
    hand: VecDeque<Key>,
}

#[derive(Debug)]
struct Slot {
    answers: Vec<Arc<Stored>>,
    used: bool,
    _charge: Charge,
}

/// A key's counter as it was when someone asked a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Generation {
    /// After one more invalidation, of the key with this hash.
    fn next(self, hash: u64) -> Self {
        Self((hash & !0xffff) | (self.0.wrapping_add(1) & 0xffff))
    }

    /// Whether the key with this hash may have been invalidated until `now`.
    fn is_over(self, now: Self, hash: u64) -> bool {
        let only_another = now.0 & !0xffff != hash & !0xffff && now.0 & 0xffff == self.next(0).0;
        now != self && !only_another
    }
}

impl Store {
    /// An empty one for so many bytes. 0 keeps nothing.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            shards: Default::default(),
            generations: (0..GENERATIONS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            limit,
            next: AtomicU64::new(0),
        })
    }

    /// Bytes that are alive, with headers and overhead.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Answers kept.
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// The bound on [`bytes`](Self::bytes).
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The newest answer to a request with these fields.
    pub(crate) fn find(&self, key: &Key, request: &HeaderMap) -> Option<Arc<Stored>> {
        let mut shard = self.shard(key);
        let slot = shard.slots.get_mut(key)?;
        let mut newest_first = slot.answers.iter().rev();
        let found = newest_first.find(|answer| answer.head.variant.fits(request))?;
        slot.used = true;
        Some(found.clone())
    }

    /// To be taken before a backend is asked, for [`insert`](Self::insert).
    pub(crate) fn generation(&self, key: &Key) -> Generation {
        Generation(self.counter(self.hash(key)).load(Relaxed))
    }

    /// Keeps an answer in place of the one for the same requests, unless its key
    /// was invalidated since `asked`. Says whether it did.
    pub(crate) fn insert(
        self: &Arc<Self>,
        key: Key,
        answer: Arc<Stored>,
        asked: Generation,
    ) -> bool {
        let Some(room) = Charge::of(self, SLOT + key.len()) else {
            return false;
        };
        let mut shard = self.shard(&key);
        if asked.is_over(self.generation(&key), self.hash(&key)) {
            return false;
        }
        let Shard { slots, hand } = &mut *shard;
        let slot = slots.entry(key).or_insert_with_key(|key| {
            hand.push_back(key.clone());
            Slot {
                answers: Vec::new(),
                used: false,
                _charge: room,
            }
        });
        let before = slot.answers.len();
        slot.answers
            .retain(|other| other.head.variant != answer.head.variant);
        if slot.answers.len() == VARIANTS {
            slot.answers.remove(0);
        }
        slot.answers.push(answer);
        let change = (slot.answers.len() as u64).wrapping_sub(before as u64);
        self.entries.fetch_add(change, Relaxed);
        true
    }

    /// Forgets a key, and whatever is on its way into it.
    pub(crate) fn invalidate(&self, key: &Key) {
        let mut shard = self.shard(key);
        let hash = self.hash(key);
        self.counter(hash)
            .update(Relaxed, Relaxed, |last| Generation(last).next(hash).0);
        if let Some(slot) = shard.slots.get_mut(key) {
            // The slot stays, so that the hand has each key once.
            self.entries.fetch_sub(slot.answers.len() as u64, Relaxed);
            slot.answers.clear();
        }
    }

    /// Forgets something; false if the hand found nothing to forget.
    fn evict(&self) -> bool {
        let first = self.next.fetch_add(1, Relaxed) as usize;
        // Twice round: the first time may do no more than unmark what was used.
        (0..2 * SHARDS).any(|step| {
            let mut shard = lock(&self.shards[(first + step) % SHARDS]);
            let Some(slot) = shard.turn() else {
                return false;
            };
            self.entries.fetch_sub(slot.answers.len() as u64, Relaxed);
            for answer in &slot.answers {
                answer.kept.counts.evicted();
            }
            true
        })
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hash(key) as usize % SHARDS])
    }

    /// Its lower 16 bits tell shard and counter, the others the key.
    fn hash(&self, key: &Key) -> u64 {
        self.hasher.hash_one(key)
    }

    fn counter(&self, hash: u64) -> &AtomicU64 {
        &self.generations[hash as usize % GENERATIONS]
    }
}

/// Nothing is half done in a shard when a thread panics: its maps are in order.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// Moves the hand on to what was not used since it came by, and takes it;
    /// `None` if that is nothing.
    fn turn(&mut self) -> Option<Slot> {
        for _ in 0..self.hand.len().min(STEPS) {
            let key = self.hand.pop_front()?;
            let Some(slot) = self.slots.get_mut(&key) else {
                continue;
            };
            if std::mem::take(&mut slot.used) {
                self.hand.push_back(key);
            } else {
                return self.slots.remove(&key);
            }
        }
        None
    }
}

/// A part of the store's bound, given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    store: Arc<Store>,
    bytes: u64,
}

impl Charge {
    /// Of so many bytes; `None` if there is no room even after making some.
    pub(crate) fn of(store: &Arc<Store>, bytes: usize) -> Option<Self> {
        let mut charge = Self {
            store: store.clone(),
            bytes: 0,
        };
        charge.grow(bytes).then_some(charge)
    }

    /// Takes more; false, and as before, if there is no room.
    pub(crate) fn grow(&mut self, by: usize) -> bool {
        let Self { store, bytes } = self;
        let by = by as u64;
        *bytes += by;
        store.bytes.fetch_add(by, Relaxed);
        let over = || store.bytes() > store.limit;
        // What is evicted may be in use, so that nothing comes of it.
        for _ in 0..EVICTIONS {
            if !over() || !store.evict() {
                break;
            }
        }
        if over() {
            *bytes -= by;
            store.bytes.fetch_sub(by, Relaxed);
            return false;
        }
        true
    }

    /// Gives so many bytes back.
    pub(crate) fn shrink(&mut self, by: usize) {
        let by = (by as u64).min(self.bytes);
        self.bytes -= by;
        self.store.bytes.fetch_sub(by, Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.store.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
