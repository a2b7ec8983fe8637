//! What this agent is to probe, what it found, and what the fleet found. Pure:
//! time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use breaker_core::{
    BackendName, Timestamp,
    ids::{PopId, ServiceName},
    probing::{Health, RiseFall},
};
use fleet_config::{Endpoint, FleetConfig, HealthCheck};
use rampmeter_api::v1;
use tokio::sync::Notify;

/// A stream that is away for this many intervals leaves the agent alone: until
/// then others probe, or take over, and their findings hold.
const ALONE_AFTER: u32 = 2;

/// Findings in one report: with the longest names and reasons some 150 KiB.
const MAX_IN_REPORT: usize = 256;

/// One endpoint of one backend, as the fleet file writes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    pub(crate) backend: BackendName,
    pub(crate) endpoint: String,
}

/// How to probe a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) endpoint: Endpoint,
    pub(crate) check: HealthCheck,
}

/// What this agent found of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) health: Health,
    /// Of the last probe; empty if it succeeded.
    pub(crate) error: String,
    /// When that was.
    pub(crate) at: Timestamp,
    /// Since the last report.
    unreported: u32,
}

/// Probes of one backend since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Probes {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
}

/// Everything about health checks at one agent.
#[derive(Debug)]
pub(crate) struct Findings {
    config: Option<Arc<FleetConfig>>,
    /// Whom it obeys is a file: nobody else probes.
    by_file: bool,
    /// Since when there has been no stream; `None` while there is one.
    away: Option<Timestamp>,
    /// Services whose endpoints it probes by itself.
    pub(crate) alone: BTreeSet<ServiceName>,
    /// By the control plane.
    assigned: BTreeSet<Target>,
    found: BTreeMap<Target, Found>,
    /// Unhealthy at this agent's POP, as the fleet has it.
    told: BTreeMap<BackendName, BTreeSet<String>>,
    pub(crate) counts: BTreeMap<BackendName, Probes>,
    /// To be reported at the next turn of the control side.
    urgent: bool,
    reported: Timestamp,
    /// What is to be probed has changed.
    pub(crate) changed: Arc<Notify>,
}

impl Findings {
    /// Nothing configured; away since `now`.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            config: None,
            by_file: false,
            away: Some(now),
            alone: BTreeSet::new(),
            assigned: BTreeSet::new(),
            found: BTreeMap::new(),
            told: BTreeMap::new(),
            counts: BTreeMap::new(),
            urgent: false,
            reported: Timestamp::default(),
            changed: Arc::default(),
        }
    }

    /// Another configuration.
    pub(crate) fn configure(&mut self, config: Arc<FleetConfig>, by_file: bool, now: Timestamp) {
        let exists = |backend: &BackendName| config.backend(backend).is_some();
        self.told.retain(|backend, _| exists(backend));
        self.counts.retain(|backend, _| exists(backend));
        self.config = Some(config);
        self.by_file = by_file;
        self.look(now);
        self.changed.notify_one();
    }

    /// A stream is up, or ended.
    pub(crate) fn connected(&mut self, up: bool, now: Timestamp) {
        if up {
            // What it found alone is newer than what it was told before, and holds
            // until the control plane says otherwise.
            for backend in self.checked() {
                let unhealthy = self.unhealthy(&backend);
                self.told.insert(backend, unhealthy);
            }
        }
        self.away = match up {
            true => None,
            false => self.away.or(Some(now)),
        };
        self.look(now);
    }

    /// Sees whether it is alone now, service by service: they differ in their
    /// intervals. `true` if that changed.
    pub(crate) fn look(&mut self, now: Timestamp) -> bool {
        let Some(config) = &self.config else {
            return false;
        };
        let alone = |check: &HealthCheck| {
            let away = self.away.map(|since| now.since(since));
            self.by_file || away.is_some_and(|away| away >= check.interval * ALONE_AFTER)
        };
        let services = config.services.iter();
        let alone = services
            .filter(|(_, service)| service.health_check.as_ref().is_some_and(alone))
            .map(|(name, _)| name.clone())
            .collect();
        let changed = alone != self.alone;
        if changed {
            self.alone = alone;
            self.changed.notify_one();
        }
        changed
    }

    /// The control plane says what to probe. What is known of it is told at once:
    /// to this replica it may be news.
    pub(crate) fn assign(&mut self, assignment: &v1::ProbeAssignment) {
        let targets = assignment.targets.iter().filter_map(|target| {
            let backend = BackendName::parse(&target.backend).ok()?;
            let endpoint = target.endpoint.clone();
            Some(Target { backend, endpoint })
        });
        self.assigned = targets.collect();
        self.urgent = true;
        self.changed.notify_one();
    }

    /// What the fleet found of one backend.
    pub(crate) fn tell(&mut self, health: &v1::BackendHealth, pop: &PopId) -> Option<BackendName> {
        let backend = BackendName::parse(&health.backend).ok()?;
        let here = |pops: &[String]| pops.is_empty() || pops.iter().any(|p| p == pop.as_str());
        let unhealthy = health.unhealthy.iter().filter(|e| here(&e.pops));
        let unhealthy = unhealthy.map(|e| e.endpoint.clone()).collect();
        self.told.insert(backend.clone(), unhealthy);
        Some(backend)
    }

    /// What is to be probed, and how. What was found of others is forgotten: there
    /// somebody else's findings count.
    pub(crate) fn jobs(&mut self) -> BTreeMap<Target, Job> {
        let mut jobs = BTreeMap::new();
        for (name, service, backend) in self.config.iter().flat_map(|config| config.backends()) {
            let Some(check) = &service.health_check else {
                continue;
            };
            let alone = self.alone.contains(name.service());
            for endpoint in &backend.endpoints {
                let target = Target {
                    backend: name.clone(),
                    endpoint: endpoint.to_string(),
                };
                if alone || self.assigned.contains(&target) {
                    let job = Job {
                        endpoint: endpoint.clone(),
                        check: check.clone(),
                    };
                    jobs.insert(target, job);
                }
            }
        }
        self.found.retain(|target, _| jobs.contains_key(target));
        jobs
    }

    /// A probe ended. Returns whether the endpoint's health changed.
    pub(crate) fn probed(
        &mut self,
        target: &Target,
        limits: RiseFall,
        answer: Result<(), String>,
        now: Timestamp,
    ) -> bool {
        let counts = self.counts.entry(target.backend.clone()).or_default();
        match answer {
            Ok(()) => counts.succeeded += 1,
            Err(_) => counts.failed += 1,
        }
        let told = self.told.get(&target.backend);
        let healthy = told.is_none_or(|told| !told.contains(&target.endpoint));
        let found = self.found.entry(target.clone()).or_insert_with(|| Found {
            health: Health::new(healthy),
            error: String::new(),
            at: now,
            unreported: 0,
        });
        let before = found.health.is_healthy();
        found.health = found.health.after(answer.is_ok(), limits);
        found.error = answer.err().unwrap_or_default();
        found.at = now;
        found.unreported += 1;
        let changed = found.health.is_healthy() != before;
        self.urgent |= changed;
        changed
    }

    /// Backends with a health check.
    pub(crate) fn checked(&self) -> Vec<BackendName> {
        let backends = self.config.iter().flat_map(|config| config.backends());
        backends
            .filter(|(_, service, _)| service.health_check.is_some())
            .map(|(name, ..)| name.clone())
            .collect()
    }

    /// Endpoints that take no requests from this agent: as the fleet has it; alone,
    /// as it found itself where it has probed.
    pub(crate) fn unhealthy(&self, backend: &BackendName) -> BTreeSet<String> {
        let config = self
            .config
            .as_ref()
            .and_then(|config| config.backend(backend));
        let Some((_, configured)) = config.filter(|(service, _)| service.health_check.is_some())
        else {
            return BTreeSet::new();
        };
        let told = self.told.get(backend);
        let alone = self.alone.contains(backend.service());
        let unhealthy = |endpoint: &String| {
            let target = || Target {
                backend: backend.clone(),
                endpoint: endpoint.clone(),
            };
            let own = alone.then(|| self.found.get(&target())).flatten();
            match own {
                Some(found) => !found.health.is_healthy(),
                None => told.is_some_and(|told| told.contains(endpoint)),
            }
        };
        let endpoints = configured.endpoints.iter().map(ToString::to_string);
        endpoints.filter(unhealthy).collect()
    }

    /// What it found, by endpoint.
    pub(crate) fn found(&self) -> impl Iterator<Item = (&Target, &Found)> {
        self.found.iter()
    }

    /// Reports that are due: everything when an endpoint's health changed or the
    /// control plane is new, else what was probed since, once a calm interval.
    pub(crate) fn reports(&mut self, now: Timestamp, calm: Duration) -> Vec<v1::Report> {
        if !self.urgent && now.since(self.reported) < calm {
            return Vec::new();
        }
        let all = std::mem::take(&mut self.urgent);
        self.reported = now;
        let assigned = &self.assigned;
        let due = self
            .found
            .iter_mut()
            .filter(|(target, found)| assigned.contains(target) && (all || found.unreported > 0));
        let probes: Vec<_> = due
            .map(|(target, found)| report(target, found, now))
            .collect();
        let reports = probes.chunks(MAX_IN_REPORT).map(|probes| v1::Report {
            probes: probes.to_vec(),
            ..v1::Report::default()
        });
        reports.collect()
    }
}

fn report(target: &Target, found: &mut Found, now: Timestamp) -> v1::ProbeReport {
    let age = now.since(found.at).as_millis();
    v1::ProbeReport {
        backend: target.backend.as_str().to_owned(),
        endpoint: target.endpoint.clone(),
        healthy: found.health.is_healthy(),
        age_ms: u32::try_from(age).unwrap_or(u32::MAX),
        error: found.error.clone(),
        probes: std::mem::take(&mut found.unreported),
    }
}
