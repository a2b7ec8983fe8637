//! Active health checks: who probes which endpoint, when an endpoint counts as
//! unhealthy to one prober, and what the findings of many say together.
//!
//! Every endpoint is probed by a few agents of each POP instead of by all: with
//! hundreds of agents, probes of all to all would be most of what an endpoint
//! serves. Who they are is decided by rendezvous hashing (Thaler, Ravishankar,
//! 1998): every replica of the control plane computes the same from the same list
//! of agents, and an agent that comes or goes moves its own endpoints only.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ids::{AgentId, BackendName, PopId},
    shed::{finish, fnv1a},
};

/// One endpoint of one backend, and by how many agents of each POP it is probed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probed {
    /// The backend.
    pub backend: BackendName,
    /// As in the fleet file.
    pub endpoint: String,
    /// Probers of each POP, 1 and up.
    pub probers: u32,
}

/// Gives every endpoint its probers: in each POP the `probers` agents of highest
/// random weight, or all if there are fewer. Every agent is in the answer, most of
/// them with few endpoints or none.
pub fn assign<'a>(
    endpoints: &'a [Probed],
    agents: &BTreeMap<PopId, BTreeSet<AgentId>>,
) -> BTreeMap<AgentId, Vec<&'a Probed>> {
    let mut assigned: BTreeMap<AgentId, Vec<&Probed>> = agents
        .values()
        .flatten()
        .map(|agent| (agent.clone(), Vec::new()))
        .collect();
    let hashed: Vec<Vec<(u64, &AgentId)>> = agents
        .values()
        .map(|pop| {
            let hash = |agent| (fnv1a(AgentId::as_str(agent).as_bytes()), agent);
            pop.iter().map(hash).collect()
        })
        .collect();
    for probed in endpoints {
        let backend = finish(fnv1a(probed.backend.as_str().as_bytes()));
        let key = finish(backend ^ fnv1a(probed.endpoint.as_bytes()));
        for pop in &hashed {
            for agent in heaviest(key, pop, probed.probers as usize) {
                assigned.entry(agent.clone()).or_default().push(probed);
            }
        }
    }
    assigned
}

/// The `count` agents with the highest weight for `key`.
fn heaviest<'a>(
    key: u64,
    agents: &[(u64, &'a AgentId)],
    count: usize,
) -> impl Iterator<Item = &'a AgentId> {
    let weigh = |(hash, agent): &(u64, &'a AgentId)| (finish(key ^ finish(*hash)), *agent);
    let mut weighed: Vec<_> = agents.iter().map(weigh).collect();
    // Equal weights, of two hosts in 2^64, go by name.
    if count < weighed.len() {
        weighed.select_nth_unstable_by(count, |a, b| b.cmp(a));
        weighed.truncate(count);
    }
    weighed.into_iter().map(|(_, agent)| agent)
}

/// How many probes in a row change a prober's mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RiseFall {
    /// Successes in a row that make an endpoint healthy, 1 and up.
    pub rise: u32,
    /// Failures in a row that make it unhealthy, 1 and up.
    pub fall: u32,
}

/// What one prober holds of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    healthy: bool,
    /// Probes in a row that say the opposite.
    against: u32,
}

impl Health {
    /// Before the first probe: as the fleet has it, so that a prober that takes
    /// over does not put a dead endpoint back until it has proof of its own.
    pub const fn new(healthy: bool) -> Self {
        Self {
            healthy,
            against: 0,
        }
    }

    /// Whether requests may go there.
    pub const fn is_healthy(self) -> bool {
        self.healthy
    }

    /// After one more probe.
    #[must_use]
    pub const fn after(self, succeeded: bool, limits: RiseFall) -> Self {
        if succeeded == self.healthy {
            return Self::new(self.healthy);
        }
        let needed = match self.healthy {
            true => limits.fall,
            false => limits.rise,
        };
        let against = self.against + 1;
        if against >= needed {
            return Self::new(succeeded);
        }
        Self {
            healthy: self.healthy,
            against,
        }
    }
}

/// What the probers of one POP hold of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding<'a> {
    /// As in the fleet file.
    pub endpoint: &'a str,
    /// Their POP.
    pub pop: &'a PopId,
    /// Probers that find it healthy.
    pub healthy: u32,
    /// Probers that do not.
    pub unhealthy: u32,
}

/// Where an endpoint takes no requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unhealthy {
    /// At every POP: most of those with probers say so.
    Everywhere,
    /// At these POPs only: their paths to it are broken.
    At(BTreeSet<PopId>),
}

impl Unhealthy {
    /// Whether it is so for agents of a POP.
    pub fn at(&self, pop: &PopId) -> bool {
        match self {
            Self::Everywhere => true,
            Self::At(pops) => pops.contains(pop),
        }
    }
}

/// What fresh findings say of a backend's endpoints: those that are unhealthy
/// somewhere. A POP's probers outvote each other, then POPs do; a tie is healthy,
/// and so is what nobody has probed lately.
pub fn merge<'a>(findings: impl IntoIterator<Item = Finding<'a>>) -> BTreeMap<String, Unhealthy> {
    let mut votes = BTreeMap::<&str, BTreeMap<&PopId, (u32, u32)>>::new();
    for finding in findings {
        let pops = votes.entry(finding.endpoint).or_default();
        let (healthy, unhealthy) = pops.entry(finding.pop).or_default();
        *healthy = healthy.saturating_add(finding.healthy);
        *unhealthy = unhealthy.saturating_add(finding.unhealthy);
    }
    let judged = votes.into_iter().filter_map(|(endpoint, pops)| {
        let probing = pops.values().filter(|(h, u)| h + u > 0).count();
        let saying = pops.iter().filter(|(_, (h, u))| u > h);
        let saying: BTreeSet<PopId> = saying.map(|(pop, _)| (*pop).clone()).collect();
        let most = saying.len() * 2 > probing;
        let unhealthy = match most {
            true => Unhealthy::Everywhere,
            false => Unhealthy::At(saying),
        };
        (unhealthy != Unhealthy::At(BTreeSet::new())).then(|| (endpoint.to_owned(), unhealthy))
    });
    judged.collect()
}
