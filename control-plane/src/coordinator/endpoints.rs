//! Health checks: which endpoints take no requests, and what that means for a
//! breaker that waits for trials.

use std::collections::BTreeMap;

use breaker_core::{
    AgentId, BreakerPolicy, Circuit, PopId, Timestamp,
    breaker::{Input, TrialCandidate},
    probing::Unhealthy,
};
use rampmeter_api::v1;

use super::Coordinator;
use crate::{
    commit::Known,
    config::Fleet,
    events, probes,
    store::{About, BackendState, EndpointView, ReplicaId, ReplicaView, StoreError},
};

/// What is known of a backend's endpoints.
pub(super) type Health = BTreeMap<String, Unhealthy>;

impl Coordinator {
    /// Merges the findings of all replicas, and tells agents and people what
    /// changed. Until this replica has heard of every endpoint, or of one that is
    /// unhealthy, what agents hold from before stands.
    pub(super) async fn judge_endpoints(
        &mut self,
        state: &BackendState,
        fleet: &Fleet,
        figures: &ReplicaView,
    ) {
        let name = &state.name;
        let health = probes::unhealthy(&fleet.config, name, figures);
        let memory = self.memory.entry(name.clone()).or_default();
        let complete = probes::is_complete(&fleet.config, name, figures);
        if memory.health.is_none() && health.is_empty() && !complete {
            return;
        }
        let before = memory.health.replace(health.clone());
        let known = before.is_some();
        let before = before.unwrap_or_default();
        if known && before == health {
            return;
        }
        self.plane
            .table
            .publish_health(name, probes::wire(name, &health));
        let mut news = Vec::new();
        for endpoint in probes::configured(&fleet.config, name) {
            let now_is = health.get(&endpoint);
            if before.get(&endpoint) == now_is || !self.tells(state, &endpoint) {
                continue;
            }
            let views = figures.endpoints.iter().filter(|v| v.endpoint == endpoint);
            let (kind, summary) = in_words(name.as_str(), &endpoint, now_is, views);
            tracing::info!(backend = %name, endpoint, kind = kind.as_str_name(), "{summary}");
            news.push(events::of_backend(&self.plane, name, kind, summary));
        }
        if !news.is_empty() {
            let append = self.plane.store.append(About::Backend(name.clone()), news);
            // Lost with the store; the log has it.
            let _ = self.plane.ask("append", append).await;
        }
    }

    /// Every replica sees the same change, and nothing is committed: the first by
    /// name of those whose agents probe the endpoint tells of it.
    fn tells(&self, state: &BackendState, endpoint: &str) -> bool {
        let probes = |view: &ReplicaView| view.endpoints.iter().any(|v| v.endpoint == endpoint);
        let memory = self.memory.get(&state.name);
        let own = memory
            .and_then(|m| m.view.as_ref())
            .filter(|view| probes(view));
        let others = state.others.iter().filter(|(_, view)| probes(view));
        let probing = others
            .map(|(name, _)| name)
            .chain(own.map(|_| &self.plane.name));
        let live = || {
            self.plane
                .peers
                .replicas()
                .into_iter()
                .map(|(name, _)| name)
        };
        // Nobody probes it any more.
        let first: Option<ReplicaId> = probing.min().cloned().or_else(|| live().min());
        first.is_none_or(|first| first == self.plane.name)
    }

    /// Without demand anywhere, probes that succeeded since HALF_OPEN began stand
    /// in for trials. With demand, only requests decide: a check that passes is no
    /// proof that requests do.
    pub(super) async fn stand_in(
        &mut self,
        known: &mut Known,
        policy: &BreakerPolicy,
        fleet: &Fleet,
        figures: &ReplicaView,
    ) -> Result<(), StoreError> {
        let service = fleet
            .config
            .backend(&known.name)
            .map(|(service, _)| service);
        let check = service.and_then(|service| service.health_check.as_ref());
        let (Some(check), 0) = (check, figures.demand_milli) else {
            return Ok(());
        };
        let now = self.plane.clock.now();
        for pop in known.breaker.wants_trial(policy, now) {
            let succeeded = self
                .plane
                .figures
                .probes
                .succeeded(&known.name, pop.as_ref());
            if let Some(succeeded) = succeeded {
                let input = Input::Probe {
                    pop,
                    succeeded,
                    interval: check.interval,
                };
                // Lost: another replica's probers were first.
                known.attempt(&self.plane, policy, input, now).await?;
            }
        }
        Ok(())
    }

    /// Candidates for a trial, without those whose request would go to endpoints
    /// that are all known to be unhealthy. A check that never passes must not keep
    /// a backend away for ever: after the longest open period it is tried anyway.
    pub(super) fn spare(
        &self,
        known: &Known,
        pop: Option<&PopId>,
        candidates: &[TrialCandidate],
        policy: &BreakerPolicy,
        now: Timestamp,
    ) -> Vec<TrialCandidate> {
        let memory = self.memory.get(&known.name);
        let health = memory
            .and_then(|m| m.health.as_ref())
            .filter(|h| !h.is_empty());
        let waited = match known.breaker.circuit(pop) {
            Some(Circuit::HalfOpen { since, .. }) => now.since(*since),
            Some(Circuit::Open { .. } | Circuit::Closed { .. }) | None => return Vec::new(),
        };
        let (Some(health), Some(fleet)) = (health, self.plane.fleet()) else {
            return candidates.to_vec();
        };
        if waited >= policy.max_open_duration {
            return candidates.to_vec();
        }
        let hopeless = |c: &&TrialCandidate| {
            probes::is_hopeless(&fleet.config, &known.name, health, Some(&c.pop))
        };
        candidates
            .iter()
            .filter(|c| !hopeless(c))
            .cloned()
            .collect()
    }
}

fn in_words<'a>(
    name: &str,
    endpoint: &str,
    health: Option<&Unhealthy>,
    views: impl Iterator<Item = &'a EndpointView> + Clone,
) -> (v1::EventKind, String) {
    let probers = |views: &mut dyn Iterator<Item = &'a EndpointView>| {
        let probers: Vec<_> = views
            .flat_map(|v| &v.probers)
            .map(AgentId::as_str)
            .collect();
        match probers.is_empty() {
            true => "nobody".to_owned(),
            false => probers.join(", "),
        }
    };
    match health {
        Some(unhealthy) => {
            let finders = probers(&mut views.clone().filter(|v| v.unhealthy > 0));
            let error = probes::why(views);
            let why = if error.is_empty() {
                "no reason known"
            } else {
                &error
            };
            let text = format!(
                "{endpoint} of {name} takes no requests {}: health checks of {finders} fail: {why}",
                probes::place(unhealthy)
            );
            (v1::EventKind::EndpointUnhealthy, text)
        }
        None => {
            let finders = probers(&mut views.clone());
            let text = format!(
                "{endpoint} of {name} takes requests again everywhere: it is probed by {finders}"
            );
            (v1::EventKind::EndpointHealthy, text)
        }
    }
}
