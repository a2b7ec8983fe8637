//! Who is connected to this replica, and who was a moment ago.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use breaker_core::{AgentId, BackendName, PopId, Timestamp};
use rampmeter_api::{convert::duration, v1};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use crate::{probes::Assignment, quota, store::AgentPresence, stream::asking};

/// An agent that says nothing for this long is gone: five heartbeats.
pub const SILENCE: Duration = Duration::from_secs(5);

/// For how long an agent that left without a word counts as known.
pub const KNOWN_FOR: Duration = Duration::from_secs(60);

/// Grants waiting for one stream; a lease that finds no room runs out and is
/// granted elsewhere. More than backends become HALF_OPEN within a moment.
pub const GRANTS_WAITING: usize = 64;

/// All agents of this replica.
#[derive(Debug, Default)]
pub struct Agents {
    inner: Mutex<BTreeMap<AgentId, Arc<Session>>>,
    next: AtomicU64,
    /// An agent joined, or its stream ended.
    pub moved: Notify,
}

/// One agent's stream.
#[derive(Debug)]
pub struct Session {
    /// Unique in this process.
    pub number: u64,
    /// Who it is.
    pub who: Identity,
    /// Since when, by the store's clock.
    pub connected: Timestamp,
    /// When it was last heard of, in milliseconds of the store's clock.
    heard: AtomicU64,
    gone: AtomicBool,
    /// Its stream ended because it fell silent.
    lost: AtomicBool,
    told: Mutex<Told>,
    /// The heartbeat that it has not answered yet, and when it was sent.
    pinged: Mutex<Option<(u64, Instant)>>,
    /// Trials on their way to it.
    pub grants: mpsc::Sender<Grant>,
    /// What it probes; `None` before it was ever said.
    pub probes: watch::Sender<Option<Arc<Assignment>>>,
    /// Quotas on their way to it.
    pub quotas: quota::Slot,
    /// What it is to be asked about.
    pub asking: asking::Slot,
    /// Why its stream must end; empty while it need not.
    pub dismissed: watch::Sender<String>,
}

/// A trial lease on its way to its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Which backend to try.
    pub backend: BackendName,
    /// The lease's id.
    pub lease: String,
    /// When it is lost, by the store's clock.
    pub expires: Timestamp,
}

impl Grant {
    /// As it is sent at `now`; `None` if it ran out while it waited for a slow
    /// reader: by then it may be granted elsewhere.
    pub fn wire(&self, now: Timestamp) -> Option<v1::TrialGrant> {
        let left = self.expires.since(now);
        (!left.is_zero()).then(|| v1::TrialGrant {
            backend: self.backend.as_str().to_owned(),
            lease_id: self.lease.clone(),
            expires_in: Some(duration(left)),
        })
    }
}

/// From the hello, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub agent: AgentId,
    /// Unique for each start of its process.
    pub instance: String,
    /// Its POP.
    pub pop: PopId,
    /// Version of its software.
    pub version: String,
    /// Where it serves.
    pub address: String,
}

/// What an agent told us on its stream.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Round trip of the last heartbeat.
    pub round_trip: Duration,
    /// Sequence of the newest decisions sent to it.
    pub sent: u64,
    /// Sequence of the newest decisions it applied.
    pub acknowledged: u64,
    /// The configuration it runs on.
    pub config_revision: u64,
    /// Why it did not apply a newer one.
    pub config_error: String,
}

/// Another process uses the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// Where the other one is.
    pub address: String,
    /// Its process.
    pub instance: String,
}

impl Agents {
    /// Takes an agent in. A stream of the same instance, or one that fell
    /// silent, is replaced; a live one of another instance keeps the id.
    pub fn join(
        &self,
        who: Identity,
        told: Told,
        now: Timestamp,
    ) -> Result<(Arc<Session>, mpsc::Receiver<Grant>), Duplicate> {
        let mut agents = self.lock();
        if let Some(old) = agents.get(&who.agent) {
            if old.is_alive(now) && old.who.instance != who.instance {
                return Err(old.who.duplicate());
            }
            old.dismiss("replaced by a newer stream of the same agent");
        }
        let (grants, granted) = mpsc::channel(GRANTS_WAITING);
        let session = Arc::new(Session {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            connected: now,
            heard: AtomicU64::new(now.as_millis()),
            gone: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            told: Mutex::new(told),
            pinged: Mutex::default(),
            grants,
            probes: watch::Sender::new(None),
            quotas: quota::Slot::default(),
            asking: asking::Slot::default(),
            dismissed: watch::Sender::new(String::new()),
            who,
        });
        agents.insert(session.who.agent.clone(), session.clone());
        self.moved.notify_one();
        Ok((session, granted))
    }

    /// A stream ended; after a goodbye the agent is forgotten at once.
    pub fn leave(&self, session: &Session, goodbye: bool) {
        let mut agents = self.lock();
        session.gone.store(true, Ordering::Relaxed);
        let current = agents.get(&session.who.agent);
        if goodbye && current.is_some_and(|s| s.number == session.number) {
            agents.remove(&session.who.agent);
        }
        self.moved.notify_one();
    }

    /// A connected agent.
    pub fn get(&self, agent: &AgentId) -> Option<Arc<Session>> {
        let agents = self.lock();
        agents.get(agent).filter(|s| !s.is_gone()).cloned()
    }

    /// Connected agents.
    pub fn connected(&self) -> Vec<Arc<Session>> {
        let agents = self.lock();
        agents.values().filter(|s| !s.is_gone()).cloned().collect()
    }

    /// Agents that may send by what they were last granted: connected ones, and
    /// those whose stream ended because they fell silent, as long as they count as
    /// known. Such a one may live, behind a path that is broken.
    pub fn may_send(&self, now: Timestamp) -> Vec<Arc<Session>> {
        let agents = self.lock();
        let lost = |s: &Session| s.lost.load(Ordering::Relaxed) && now.since(s.heard()) < KNOWN_FOR;
        let may_send = agents.values().filter(|s| !s.is_gone() || lost(s));
        may_send.cloned().collect()
    }

    /// What this replica tells the others: also of agents that left without a
    /// word, as long as they count as known.
    pub fn presence(&self, now: Timestamp) -> Vec<AgentPresence> {
        let mut agents = self.lock();
        agents.retain(|_, s| !s.is_gone() || now.since(s.heard()) < KNOWN_FOR);
        agents.values().map(|s| s.presence()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentId, Arc<Session>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// It said something.
    pub fn hear(&self, now: Timestamp) {
        self.heard.store(now.as_millis(), Ordering::Relaxed);
    }

    /// When it was last heard of.
    pub fn heard(&self) -> Timestamp {
        Timestamp::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// It said nothing for as long as `limit`, or its stream has ended.
    pub fn is_silent(&self, now: Timestamp, limit: Duration) -> bool {
        self.is_gone() || now.since(self.heard()) >= limit
    }

    /// Its stream ends because it fell silent.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Its stream has ended.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Ends its stream with a reason.
    pub fn dismiss(&self, reason: &str) {
        self.dismissed.send_replace(reason.to_owned());
    }

    /// What it told us.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A heartbeat with this number goes out.
    pub fn ping(&self, nonce: u64) {
        *self.pinged.lock().unwrap_or_else(PoisonError::into_inner) = Some((nonce, Instant::now()));
    }

    /// A heartbeat came in: `true` if it answers ours.
    pub fn pong(&self, nonce: u64) -> bool {
        let mut pinged = self.pinged.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, at)) = pinged.take_if(|(sent, _)| *sent == nonce) else {
            return false;
        };
        self.told().round_trip = at.elapsed();
        true
    }

    fn is_alive(&self, now: Timestamp) -> bool {
        !self.is_gone() && now.since(self.heard()) < SILENCE
    }

    fn presence(&self) -> AgentPresence {
        let told = self.told().clone();
        AgentPresence {
            agent: self.who.agent.clone(),
            // See `peers::is_connected`.
            instance: if self.is_gone() {
                String::new()
            } else {
                self.who.instance.clone()
            },
            pop: self.who.pop.clone(),
            version: self.who.version.clone(),
            address: self.who.address.clone(),
            connected: self.connected,
            heard: self.heard(),
            round_trip: told.round_trip,
            in_sync: !self.is_gone() && told.sent > 0 && told.acknowledged >= told.sent,
            config_revision: told.config_revision,
            config_error: told.config_error,
        }
    }
}

impl Identity {
    fn duplicate(&self) -> Duplicate {
        Duplicate {
            address: self.address.clone(),
            instance: self.instance.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_that_waited_has_less_time_left_and_none_after_its_end() {
        let grant = Grant {
            backend: BackendName::parse("pay/us-east").expect("a valid name"),
            lease: "one".to_owned(),
            expires: Timestamp::from_millis(5_000),
        };
        let left = |now| grant.wire(Timestamp::from_millis(now));
        let in_time = left(4_250).and_then(|grant| grant.expires_in);
        assert_eq!(in_time, Some(duration(Duration::from_millis(750))));
        assert_eq!(left(5_000), None);
        assert_eq!(left(6_000), None);
    }
}
