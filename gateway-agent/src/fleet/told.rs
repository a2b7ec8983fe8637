//! What the control plane says, put into force: decisions about backends and
//! services, trial leases, parts of quotas.

use std::time::Duration;

use breaker_core::{BackendName, Timestamp, breaker::TrialOutcome};
use rampmeter_api::{
    convert::{
        decision::{self, MAX_AHEAD},
        duration_up_to,
        steering::from_service_decision,
    },
    v1,
};

use crate::{
    admit::quota::Grant,
    clock::{nanos, unix_ms},
    config::state_dir::Saved,
    fleet::{apply::Offer, control::Control},
};

/// Longest lease that is believed: the longest total timeout, and a second.
const MAX_LEASE: Duration = Duration::from_secs(3601);

/// Longest grant of a quota that is believed.
const MAX_GRANT: Duration = Duration::from_secs(60);

impl Control {
    /// Takes decisions that the control plane sent. Returns how many were new.
    pub fn apply(&mut self, message: &v1::Decisions, now: Timestamp) -> usize {
        self.status.store_unavailable = message.store_unavailable;
        let mut applied = 0;
        for wire in &message.decisions {
            match decision::from_decision(wire, now) {
                Err(error) => {
                    tracing::warn!(backend = wire.backend, "a decision makes no sense: {error}");
                }
                Ok(decision) => {
                    let name = decision.backend.clone();
                    let offer = self.decisions.offer(name.clone(), decision, now, unix_ms());
                    if offer == Offer::Applied {
                        applied += 1;
                        self.decided(&name, now);
                    }
                    self.refresh(&name, now);
                }
            }
        }
        applied += self.apply_services(&message.services, now);
        if message.complete {
            let named = |name: &str| message.decisions.iter().any(|wire| wire.backend == name);
            let backends = &self.backends;
            self.decisions
                .retain(|name| backends.contains_key(name) || named(name.as_str()));
            let named = |name: &str| message.services.iter().any(|wire| wire.service == name);
            let services = &self.services;
            self.steerings
                .retain(|name| services.contains_key(name) || named(name.as_str()));
        }
        for removed in &message.removed {
            self.decisions.remove(removed);
            if let Ok(name) = BackendName::parse(removed) {
                self.refresh(&name, now);
            }
        }
        self.take_health(&message.health);
        self.unsaved.decisions |= applied > 0 || !message.removed.is_empty();
        applied
    }

    /// Takes decisions about services. Returns how many were new.
    fn apply_services(&mut self, services: &[v1::ServiceDecision], now: Timestamp) -> usize {
        let mut applied = 0;
        for wire in services {
            match from_service_decision(wire, now) {
                Err(error) => {
                    tracing::warn!(service = wire.service, "a decision makes no sense: {error}");
                }
                Ok((name, steering)) => {
                    let offer = self.steerings.offer(name.clone(), steering, now, unix_ms());
                    applied += usize::from(offer == Offer::Applied);
                    self.steer(&name, now);
                }
            }
        }
        applied
    }

    /// Takes up decisions of an earlier run. They may have gone stale since, by
    /// this host's own clock.
    pub fn restore(&mut self, saved: &Saved<v1::Decisions>, unix_ms: u64, now: Timestamp) {
        let age = Duration::from_millis(unix_ms.saturating_sub(saved.unix_ms));
        let heard = now - age.min(MAX_AHEAD);
        for wire in &saved.message.decisions {
            match decision::from_decision(wire, heard) {
                Ok(decision) => {
                    let name = decision.backend.clone();
                    self.decisions.restore(name, decision, heard, saved.unix_ms);
                }
                Err(error) => {
                    tracing::warn!(
                        backend = wire.backend,
                        "a saved decision makes no sense: {error}"
                    );
                }
            }
        }
        for wire in &saved.message.services {
            match from_service_decision(wire, heard) {
                Ok((name, steering)) => {
                    self.steerings.restore(name, steering, heard, saved.unix_ms);
                }
                Err(error) => {
                    tracing::warn!(
                        service = wire.service,
                        "a saved decision makes no sense: {error}"
                    );
                }
            }
        }
    }

    /// The control plane was heard. While its store is away it stands by nothing.
    pub fn heard(&mut self, now: Timestamp) {
        if !self.status.store_unavailable {
            self.decisions.heard(now);
            self.steerings.heard(now);
        }
    }

    /// A trial lease. What cannot be used goes straight back.
    pub fn grant(&mut self, grant: &v1::TrialGrant, now: Timestamp) {
        let watched = self.backends.get_mut(grant.backend.as_str());
        let expires_in = duration_up_to("expires_in", grant.expires_in.as_ref(), MAX_LEASE);
        let held = self.decisions.get(grant.backend.as_str());
        let usable = match (watched, expires_in, held) {
            (Some(watched), Ok(expires_in), Some(held)) => watched.grant(
                &grant.lease_id,
                expires_in,
                &held.decision,
                &self.identity.pop,
                now,
            ),
            _ => false,
        };
        tracing::debug!(
            backend = grant.backend,
            lease = grant.lease_id,
            usable,
            "trial lease"
        );
        match BackendName::parse(&grant.backend) {
            Ok(name) if usable => self.refresh(&name, now),
            _ => self.result(&grant.backend, &grant.lease_id, TrialOutcome::Returned),
        }
    }

    /// This agent's part of the fleet's quotas.
    pub fn lend(&mut self, grant: &v1::QuotaGrant, now: Timestamp) {
        for quota in &grant.quotas {
            let left = duration_up_to("expires_in", quota.expires_in.as_ref(), MAX_GRANT);
            let rates = [quota.rate, quota.rate_alone];
            let sane = rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0);
            match (self.services.get(quota.service.as_str()), left) {
                (Some(steered), Ok(left)) if sane => steered.lend(&Grant {
                    key_hash: quota.key_hash,
                    rate: quota.rate,
                    until: nanos(now + left),
                    alone: quota.rate_alone,
                }),
                // The configuration is on its way, or the service has left it.
                (None, _) => {}
                _ => tracing::warn!(?quota, "a quota makes no sense"),
            }
        }
    }

    /// A newer decision: leases of the round before it are void.
    fn decided(&mut self, name: &BackendName, now: Timestamp) {
        let held = self.decisions.get(name.as_str()).map(|held| &held.decision);
        if let (Some(watched), Some(decision)) = (self.backends.get_mut(name), held) {
            watched.decided(decision, &self.identity.pop, now);
        }
    }
}
