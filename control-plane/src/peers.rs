//! The other replicas and their agents, as their presence in the store tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use breaker_core::{AgentId, Timestamp};

use crate::{
    agents::{Duplicate, Identity, KNOWN_FOR, SILENCE},
    plane::{Plane, pause},
    store::{AgentPresence, Presence, ReplicaId},
};

/// How often presence is told and read.
const PRESENCE: Duration = Duration::from_secs(1);

/// What is known of replicas and agents, this replica's included.
#[derive(Debug, Default)]
pub struct Peers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    replicas: Vec<(ReplicaId, Presence)>,
    /// When they were listed.
    learned: Timestamp,
    /// Every agent heard of in the last minute that said no goodbye, by when.
    agents: BTreeMap<AgentId, Heard>,
}

#[derive(Debug)]
struct Heard {
    at: Timestamp,
    by: ReplicaId,
}

impl Peers {
    /// Live replicas with their agents.
    pub fn replicas(&self) -> Vec<(ReplicaId, Presence)> {
        self.lock().replicas.clone()
    }

    /// All agents with the replica that serves them, by id; of an agent that two
    /// replicas list, where it was heard last.
    pub fn agents(&self) -> Vec<(ReplicaId, AgentPresence)> {
        let mut agents = BTreeMap::<AgentId, (ReplicaId, AgentPresence)>::new();
        for (replica, presence) in self.replicas() {
            for agent in presence.agents.into_iter().filter(is_connected) {
                let held = agents.get(&agent.agent);
                if held.is_none_or(|(_, held)| held.heard < agent.heard) {
                    agents.insert(agent.agent.clone(), (replica.clone(), agent));
                }
            }
        }
        agents.into_values().collect()
    }

    /// When a replica was last known to live.
    pub fn heard(&self, me: &ReplicaId, replica: &ReplicaId, now: Timestamp) -> Timestamp {
        if me == replica {
            now
        } else {
            self.lock().learned
        }
    }

    /// (known in the last minute, reporting).
    pub fn coverage(&self, now: Timestamp) -> (u32, u32) {
        let known = self.lock();
        let count = |age: Duration| {
            let within = known.agents.values().filter(|h| now.since(h.at) <= age);
            u32::try_from(within.count()).unwrap_or(u32::MAX)
        };
        (count(KNOWN_FOR), count(SILENCE))
    }

    /// A live agent of another replica that uses the id from another process.
    pub fn duplicate(&self, me: &ReplicaId, who: &Identity, now: Timestamp) -> Option<Duplicate> {
        let known = self.lock();
        let others = known.replicas.iter().filter(|(r, _)| r != me);
        let agents = others.flat_map(|(_, p)| &p.agents);
        let mut same = agents.filter(|a| a.agent == who.agent && a.instance != who.instance);
        let other = same.find(|a| is_connected(a) && now.since(a.heard) < SILENCE)?;
        Some(Duplicate {
            address: other.address.clone(),
            instance: other.instance.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, replicas: Vec<(ReplicaId, Presence)>, now: Timestamp) {
        let mut known = self.lock();
        for (replica, presence) in &replicas {
            for agent in &presence.agents {
                let by = replica.clone();
                let newer = |held: &Heard| held.at <= agent.heard;
                if known.agents.get(&agent.agent).is_none_or(newer) {
                    let heard = Heard {
                        at: agent.heard,
                        by,
                    };
                    known.agents.insert(agent.agent.clone(), heard);
                }
            }
        }
        // Gone from a live replica's list: it said goodbye there.
        let listed: BTreeSet<(&ReplicaId, &AgentId)> = replicas
            .iter()
            .flat_map(|(r, p)| p.agents.iter().map(move |a| (r, &a.agent)))
            .collect();
        let live: BTreeSet<&ReplicaId> = replicas.iter().map(|(r, _)| r).collect();
        known.agents.retain(|agent, heard| {
            let said_goodbye = live.contains(&heard.by) && !listed.contains(&(&heard.by, agent));
            !said_goodbye && now.since(heard.at) <= KNOWN_FOR
        });
        known.replicas = replicas;
        known.learned = now;
    }
}

/// An agent that left without a word is listed without its instance: it still
/// counts as known, but has no stream.
pub fn is_connected(agent: &AgentPresence) -> bool {
    !agent.instance.is_empty()
}

/// Tells and reads presence until the process ends.
pub async fn run(plane: &Plane) {
    loop {
        refresh(plane).await;
        if !pause(plane, PRESENCE).await {
            return;
        }
    }
}

/// Tells and reads presence once.
pub async fn refresh(plane: &Plane) {
    let now = plane.clock.now();
    let presence = Presence {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        agents: plane.agents.presence(now),
    };
    // While the store is away the last known peers stand; `ask` has said so.
    if let Ok(replicas) = plane
        .ask("heartbeat", plane.store.heartbeat(presence))
        .await
    {
        plane.peers.learn(replicas, now);
        settle_moved(plane);
    }
}

/// An agent that moved to another replica leaves its old stream behind, and of
/// two agents that took one id at the same moment on two replicas the one that
/// came first keeps it.
fn settle_moved(plane: &Plane) {
    for session in plane.agents.connected() {
        let peers = plane.peers.lock();
        let others = peers.replicas.iter().filter(|(r, _)| *r != plane.name);
        let mut same = others.flat_map(|(_, p)| p.agents.iter());
        let other = same.find(|a| is_connected(a) && a.agent == session.who.agent);
        let Some(other) = other else { continue };
        let moved = other.instance == session.who.instance && other.connected > session.connected;
        let lost = other.instance != session.who.instance
            && (other.connected, &other.instance) < (session.connected, &session.who.instance);
        if moved {
            session.dismiss("the agent has a newer stream at another replica");
        } else if lost {
            tracing::warn!(
                agent = %session.who.agent, sent_away = %session.who.address, serving = %other.address,
                "two agents took one id at two replicas: the first keeps it"
            );
            session.dismiss("another agent has this id and was first");
        }
    }
}
