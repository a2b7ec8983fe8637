//! What agents want of quotas, and what they let through, as rates that forget
//! within about two seconds.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use breaker_core::{AgentId, Timestamp, ids::ServiceName};
use rampmeter_api::v1;

use super::{
    SPAN,
    intake::{BUDGET, Noted},
};

/// Rates forget with this time constant: nine tenths within two seconds. Short
/// enough that a shift of demand is followed within a few grants, long enough that
/// an agent's calm reports (one a second) do not make its part jump.
const FORGET: Duration = Duration::from_secs(1);

/// A report covers no more than this, however long ago the one before was: agents
/// with demand report at least once a second.
const COVERS: Duration = Duration::from_secs(1);

/// Reports closer than this are treated as this far apart.
const COVERS_LEAST: Duration = Duration::from_millis(20);

/// An agent that reported no demand for this long has none: a calm interval, and
/// some for the way.
const DUE: Duration = Duration::from_millis(1_200);

/// Keys of all agents that are kept for one service, each for each of its agents:
/// some hundred bytes each, and a grant a second. What finds no room is let
/// through at the rate for agents on their own.
const KEYS: usize = 10_000;

/// Of those, one agent's: it takes several to crowd out the others.
const KEYS_OF_AGENT: usize = 2_000;

/// Below this many requests a second a key is forgotten.
const NOTHING: f64 = 0.01;

/// Requests a second that one agent can want.
const RATE_LIMIT: f64 = (BUDGET / SPAN.as_secs()) as f64;

/// All quotas with demand at this replica.
#[derive(Debug, Default)]
pub struct Quotas(Mutex<HashMap<ServiceName, OfService>>);

#[derive(Debug, Default)]
struct OfService {
    agents: BTreeMap<AgentId, OfAgent>,
}

#[derive(Debug, Default)]
struct OfAgent {
    reported: Timestamp,
    keys: BTreeMap<u64, Rates>,
}

/// One agent's demand on one quota, in requests a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// All that asked.
    pub wanted: f64,
    /// Of those, let through.
    pub admitted: f64,
    /// As of when.
    at: Timestamp,
}

/// Who wants what: by agent.
pub type OfKey = BTreeMap<AgentId, Rates>;

impl Quotas {
    /// Takes in one agent's report, received at `now`. `known` tells services
    /// that have a quota.
    pub fn record(
        &self,
        agent: &AgentId,
        report: &v1::Report,
        known: impl Fn(&ServiceName) -> bool,
        now: Timestamp,
    ) -> Noted {
        let mut cut = Noted::default();
        for wire in report.services.iter().filter(|s| !s.quotas.is_empty()) {
            let Some(name) = ServiceName::new(&wire.service).ok().filter(&known) else {
                // Its quota was just taken away, or the name is counted as unknown.
                continue;
            };
            let mut services = self.lock();
            let of_service = services.entry(name).or_default();
            of_service.record(agent, wire, now, &mut cut);
        }
        cut
    }

    /// Demand on the quotas of one service as of when each agent was last `heard`
    /// of; agents that were not are forgotten.
    pub fn demand(
        &self,
        service: &ServiceName,
        heard: impl Fn(&AgentId) -> Option<Timestamp>,
    ) -> BTreeMap<u64, OfKey> {
        let mut keys = BTreeMap::<u64, OfKey>::new();
        let mut services = self.lock();
        let Some(of_service) = services.get_mut(service) else {
            return keys;
        };
        of_service.agents.retain(|agent, of_agent| {
            let Some(heard) = heard(agent) else {
                return false;
            };
            of_agent.keys.retain(|key, rates| {
                let now = rates.as_of(heard);
                let some = now.wanted >= NOTHING;
                if some {
                    keys.entry(*key).or_default().insert(agent.clone(), now);
                }
                some
            });
            !of_agent.keys.is_empty()
        });
        keys
    }

    /// Drops services that have no quota any more.
    pub fn retain(&self, keep: impl Fn(&ServiceName) -> bool) {
        self.lock().retain(|name, _| keep(name));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceName, OfService>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfService {
    fn record(
        &mut self,
        agent: &AgentId,
        wire: &v1::ServiceReport,
        now: Timestamp,
        cut: &mut Noted,
    ) {
        let mut room = KEYS.saturating_sub(self.agents.values().map(|a| a.keys.len()).sum());
        let of_agent = self.agents.entry(agent.clone()).or_default();
        let covers = now.since(of_agent.reported).clamp(COVERS_LEAST, COVERS);
        of_agent.reported = now;
        for quota in &wire.quotas {
            let full = room == 0 || of_agent.keys.len() >= KEYS_OF_AGENT;
            if full && !of_agent.keys.contains_key(&quota.key_hash) {
                cut.note(|| format!("{}: too many keys: one is left out", wire.service));
                continue;
            }
            let rates = of_agent.keys.entry(quota.key_hash).or_insert_with(|| {
                room -= 1;
                Rates::default()
            });
            rates.record(quota, covers, now, &wire.service, cut);
        }
    }
}

impl Rates {
    fn record(
        &mut self,
        wire: &v1::QuotaReport,
        covers: Duration,
        now: Timestamp,
        service: &str,
        cut: &mut Noted,
    ) {
        let most = (RATE_LIMIT * covers.as_secs_f64()) as u64;
        let wanted = wire.wanted.min(most);
        let admitted = wire.admitted.min(wanted);
        if (wanted, admitted) != (wire.wanted, wire.admitted) {
            let said = (wire.wanted, wire.admitted);
            cut.note(|| {
                format!(
                    "{service}: wanted, admitted {said:?} cut to {:?}",
                    (wanted, admitted)
                )
            });
        }
        // Nothing was wanted between the last report that named the key and the
        // time that this one covers.
        self.fade(now.since(self.at).saturating_sub(covers));
        let weight = 1.0 - faded(covers);
        let blend = |rate: &mut f64, count: u64| {
            *rate += weight * (count as f64 / covers.as_secs_f64() - *rate);
        };
        blend(&mut self.wanted, wanted);
        blend(&mut self.admitted, admitted);
        self.at = now;
    }

    /// As of when the agent was last heard of. What an agent wanted when it fell
    /// silent stands; one that talks, but reports no demand, has none.
    fn as_of(self, heard: Timestamp) -> Self {
        let mut now = self;
        now.fade(heard.since(self.at).saturating_sub(DUE));
        now
    }

    fn fade(&mut self, over: Duration) {
        let left = faded(over);
        self.wanted *= left;
        self.admitted *= left;
    }
}

/// What is left of a rate after some time without requests.
fn faded(over: Duration) -> f64 {
    (-over.as_secs_f64() / FORGET.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    fn agent(name: &str) -> AgentId {
        AgentId::new(name).expect("a valid name")
    }

    fn pay() -> ServiceName {
        ServiceName::new("pay").expect("a valid name")
    }

    fn report(
        quotas: &Quotas,
        name: &str,
        keys: impl Iterator<Item = (u64, u64)>,
        at: Timestamp,
    ) -> Noted {
        let quota = |(key_hash, wanted)| v1::QuotaReport {
            key_hash,
            wanted,
            admitted: wanted / 2,
        };
        let service = v1::ServiceReport {
            service: "pay".to_owned(),
            quotas: keys.map(quota).collect(),
            ..v1::ServiceReport::default()
        };
        let report = v1::Report {
            services: vec![service],
            ..v1::Report::default()
        };
        quotas.record(&agent(name), &report, |name| *name == pay(), at)
    }

    fn wanted(quotas: &Quotas, name: &str, key: u64, heard: Timestamp) -> f64 {
        let demand = quotas.demand(&pay(), |_| Some(heard));
        let rates = demand.get(&key).and_then(|of_key| of_key.get(&agent(name)));
        rates.map_or(0.0, |rates| rates.wanted)
    }

    /// Reports at `every` for five seconds; returns when the last one came.
    fn steady(quotas: &Quotas, every: Duration, per_second: f64) -> Timestamp {
        let count = (per_second * every.as_secs_f64()) as u64;
        let reports = Duration::from_secs(5).div_duration_f64(every) as u32;
        let mut at = START;
        for _ in 0..reports {
            at = at + every;
            report(quotas, "a", [(0, count)].into_iter(), at);
        }
        at
    }

    #[test]
    fn steady_demand_is_seen_as_it_is_whatever_the_rate_of_reports() {
        for every in [20, 100, 500, 1000].map(Duration::from_millis) {
            let quotas = Quotas::default();
            let at = steady(&quotas, every, 100.0);
            let seen = wanted(&quotas, "a", 0, at + Duration::from_millis(900));
            assert!((98.0..=100.1).contains(&seen), "{seen} at {every:?}");
        }
    }

    #[test]
    fn an_agent_that_talks_but_reports_nothing_wants_nothing_soon() {
        let quotas = Quotas::default();
        let at = steady(&quotas, Duration::from_millis(100), 100.0);
        let seen = wanted(&quotas, "a", 0, at + Duration::from_secs(3));
        assert!(seen < 20.0, "{seen}");
        assert_eq!(wanted(&quotas, "a", 0, at + Duration::from_secs(30)), 0.0);
        assert!(quotas.lock()[&pay()].agents.is_empty(), "and is forgotten");
    }

    #[test]
    fn a_key_left_out_of_reports_fades_while_others_stand() {
        let quotas = Quotas::default();
        let mut at = START;
        for second in 0..10 {
            at = at + Duration::from_secs(1);
            let keys = [(1, 50), (2, 50)].into_iter();
            report(&quotas, "a", keys.take(if second < 5 { 2 } else { 1 }), at);
        }
        assert!(wanted(&quotas, "a", 1, at) > 49.0);
        assert!(wanted(&quotas, "a", 2, at) < 2.0);
    }

    #[test]
    fn one_agent_cannot_crowd_out_the_others_and_what_is_left_out_is_counted() {
        let quotas = Quotas::default();
        let keys = |from: u64| (from..from + 3_000).map(|key| (key, 1));
        let cut = report(&quotas, "a", keys(1), START);
        assert_eq!(cut.count, 1_000);
        assert!(cut.first.contains("pay"), "{}", cut.first);
        for name in ["b", "c", "d", "e"] {
            assert_eq!(report(&quotas, name, keys(1), START).count, 1_000, "{name}");
        }
        assert_eq!(report(&quotas, "f", keys(1), START).count, 3_000, "full");
        let again = report(&quotas, "a", keys(1).take(10), START);
        assert_eq!(again.count, 0, "what is in stays in");
    }

    #[test]
    fn claims_that_cannot_be_true_are_cut() {
        let quotas = Quotas::default();
        let cut = report(&quotas, "a", [(0, u64::MAX)].into_iter(), START);
        assert_eq!(cut.count, 1, "{cut:?}");
        let seen = wanted(&quotas, "a", 0, START);
        assert!(seen <= RATE_LIMIT, "{seen}");
    }

    #[test]
    fn services_without_a_quota_and_agents_not_heard_of_leave_nothing() {
        let quotas = Quotas::default();
        report(&quotas, "a", [(0, 10)].into_iter(), START);
        assert!(quotas.demand(&pay(), |_| None).is_empty());
        assert!(quotas.lock()[&pay()].agents.is_empty());
        quotas.retain(|_| false);
        assert!(quotas.lock().is_empty());
    }
}
