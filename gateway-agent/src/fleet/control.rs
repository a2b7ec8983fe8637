//! The control side of an agent: decisions, local breakers and counts come
//! together here, stances and reports come out. Nothing on the request path
//! takes its lock; everything is synchronous and is driven by `drive.rs` and
//! `stream.rs`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use breaker_core::{BackendName, Steering, Timestamp, breaker::TrialOutcome, ids::ServiceName};
use fleet_config::{CacheBytes, FleetConfig};
use rampmeter_api::{
    convert::{decision::Decision, duration_up_to},
    v1,
};
use tokio::sync::Notify;

use crate::{
    admit::{gate::CoreGate, snapshot::Snapshot},
    cache::store::Store,
    clock::{Clock, unix_ms},
    config::configuration::{ConfigSource, FleetText},
    fleet::{
        apply::Decisions,
        link::{Connected, Due, Link, LinkStatus},
        local::Identity,
        report::Pace,
        steered::Steered,
        watched::{Context, Watched},
    },
    probe::findings::Findings,
    serve::places::Places,
    sight::setup::Sight,
};

/// Decisions not heard of for this long are stale, unless Welcome says otherwise.
pub const VALID_FOR: Duration = Duration::from_secs(30);

/// Trial results that wait for a stream. Each backend has a lease or two at a
/// time; more than this can only be leftovers, and the oldest has run out.
const MAX_RESULTS: usize = 256;

/// The control side of one agent.
#[derive(Debug)]
pub struct Control {
    /// Who we are.
    pub identity: Identity,
    /// The agent's clock.
    pub clock: Clock,
    pub(crate) table: Arc<ArcSwap<Snapshot>>,
    pub(crate) wake: Arc<Notify>,
    cores: usize,
    /// Unix time in hours, for requests.
    hour: Arc<AtomicU64>,
    pub(crate) decisions: Decisions<BackendName, Decision>,
    pub(crate) backends: BTreeMap<BackendName, Watched>,
    pub(crate) steerings: Decisions<ServiceName, Steering>,
    pub(crate) services: BTreeMap<ServiceName, Steered>,
    pub(crate) valid_for: Duration,
    pub(crate) link: Option<Link>,
    pub(crate) status: LinkStatus,
    pub(crate) probing: Findings,
    /// Clients' connections.
    pub(crate) places: Places,
    /// What is told about single requests.
    pub(crate) sight: Sight,
    pace: Pace,
    results: VecDeque<v1::TrialResult>,
    pub(crate) source: ConfigSource,
    pub(crate) yaml: Option<(u64, String)>,
    /// Why the newest configuration was refused.
    pub(crate) config_error: Option<String>,
    /// Why the newest host file, or a certificate, was refused.
    pub(crate) host_error: Option<String>,
    /// What is on disk is behind.
    pub(crate) unsaved: Unsaved,
}

/// What changed since it was last saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unsaved {
    /// The configuration.
    pub config: bool,
    /// Decisions.
    pub decisions: bool,
}

impl Control {
    /// Nothing configured, nothing decided.
    pub fn new(identity: Identity, cores: usize) -> Self {
        let clock = Clock::new();
        Self {
            identity,
            clock,
            table: Arc::new(ArcSwap::from_pointee(Snapshot::empty())),
            wake: Arc::new(Notify::new()),
            cores,
            places: Places::default(),
            sight: Sight::new(cores),
            hour: Arc::new(AtomicU64::new(unix_hour())),
            decisions: Decisions::default(),
            backends: BTreeMap::new(),
            steerings: Decisions::default(),
            services: BTreeMap::new(),
            valid_for: VALID_FOR,
            link: None,
            status: LinkStatus::default(),
            probing: Findings::new(clock.now()),
            pace: Pace::default(),
            results: VecDeque::new(),
            source: ConfigSource::None,
            yaml: None,
            config_error: None,
            host_error: None,
            unsaved: Unsaved::default(),
        }
    }

    /// Gives kept answers so much memory. Before anything is installed.
    pub(crate) fn keep_answers(&self, within: CacheBytes) {
        self.table.store(Arc::new(Snapshot::with_cache(within)));
    }

    /// One gate for each core.
    pub fn gates(&self) -> Vec<CoreGate> {
        let gate = |core| {
            let hour = self.hour.clone();
            CoreGate::new(core, self.table.clone(), self.clock, hour)
        };
        (0..self.cores).map(gate).collect()
    }

    /// The kept answers of all services.
    pub(crate) fn store(&self) -> Arc<Store> {
        self.table.load().cache.clone()
    }

    /// A configuration is in force.
    pub fn is_ready(&self) -> bool {
        self.source != ConfigSource::None
    }

    /// Revision of the configuration in force; 0 for none or a local file's.
    pub fn config_revision(&self) -> u64 {
        self.table.load().revision
    }

    // Configuration.

    /// Puts a fleet file from the control plane or the disk into force, or keeps
    /// the running one and says why.
    pub fn install_text(
        &mut self,
        source: ConfigSource,
        text: FleetText,
        now: Timestamp,
    ) -> Result<(), String> {
        let FleetText {
            revision,
            yaml,
            parsed,
        } = text;
        let installed = parsed.and_then(|config| self.install(source, revision, config, now));
        self.config_error = installed.clone().err();
        if installed.is_ok() {
            self.yaml = Some((revision, yaml));
            self.unsaved.config = source == ConfigSource::ControlPlane;
        }
        installed
    }

    /// Whether this is what is in force, word for word. If so, it is now the
    /// control plane's. A revision is no proof: a store that was lost counts anew.
    pub fn keeps(&mut self, config: &v1::Config) -> bool {
        let running = self.yaml.as_ref();
        let same = running
            .is_some_and(|(revision, yaml)| (*revision, yaml) == (config.revision, &config.yaml));
        if same {
            self.source = ConfigSource::ControlPlane;
            self.config_error = None;
        }
        same
    }

    /// Puts a configuration into force.
    pub fn install(
        &mut self,
        source: ConfigSource,
        revision: u64,
        config: FleetConfig,
        now: Timestamp,
    ) -> Result<(), String> {
        self.check_pop(&config)?;
        let table = self.table.load();
        let config = Arc::new(config);
        let next = table.next(
            revision,
            config.clone(),
            &self.identity.pop,
            self.cores,
            &self.wake,
        );
        let mut before = std::mem::take(&mut self.backends);
        for backend in next.backends() {
            let Some((service, _)) = config.backend(&backend.name) else {
                continue;
            };
            let watched = match before.remove(&backend.name) {
                Some(mut watched) => {
                    watched.set_policy(service);
                    watched
                }
                None => Watched::new(backend.clone(), service, now),
            };
            self.backends.insert(backend.name.clone(), watched);
        }
        for gone in before.values_mut() {
            gone.retire();
        }
        self.install_services(&next, now);
        self.refresh_all(now);
        self.table.store(Arc::new(next));
        self.source = source;
        self.configure_probes(now);
        tracing::info!(
            revision,
            source = source.as_str(),
            backends = self.backends.len(),
            "configuration in force"
        );
        Ok(())
    }

    fn install_services(&mut self, next: &Snapshot, now: Timestamp) {
        let mut before = std::mem::take(&mut self.services);
        for (name, service) in &next.services {
            let steered = match before.remove(name) {
                Some(mut steered) => {
                    steered.renew(service.clone());
                    steered
                }
                None => Steered::new(service.clone(), now),
            };
            self.services.insert(name.clone(), steered);
        }
        // One of this name that comes back is another one.
        self.steerings
            .retain(|name| next.services.contains_key(name));
    }

    fn check_pop(&self, config: &FleetConfig) -> Result<(), String> {
        let pop = &self.identity.pop;
        if config.pops.contains_key(pop.as_str()) {
            return Ok(());
        }
        let known: Vec<&str> = config.pops.keys().map(|pop| pop.as_str()).collect();
        let known = known.join(", ");
        Err(format!(
            "POP {pop:?} of this agent is not in the fleet file: it has {known}"
        ))
    }

    // Decisions.

    /// A stream is up: Welcome came.
    pub fn welcome(&mut self, welcome: &v1::Welcome, link: Link, connected: Connected) {
        let at_most = Duration::from_secs(3600);
        let valid_for = duration_up_to("valid_for", welcome.valid_for.as_ref(), at_most);
        self.valid_for = valid_for.ok().filter(|d| !d.is_zero()).unwrap_or(VALID_FOR);
        self.decisions.begin_stream();
        self.steerings.begin_stream();
        self.link = Some(link);
        self.status.connected = Some(connected);
        self.status.streams += 1;
        self.status.last_error = None;
        self.connect_probes(true, self.clock.now());
    }

    /// The stream is down, or could not be made.
    pub fn disconnected(&mut self, why: Option<String>) {
        self.link = None;
        self.status.connected = None;
        self.status.last_error = why.or(self.status.last_error.take());
        self.connect_probes(false, self.clock.now());
    }

    /// The control plane asks what was seen of these backends.
    pub fn report_now(&mut self, ask: &v1::ReportNow, now: Timestamp) {
        for name in &ask.backends {
            if let Some(watched) = self.backends.get_mut(name.as_str()) {
                watched.drain(now);
                watched.pending.asked(now);
            }
        }
        self.flush(now);
    }

    // Time.

    /// One turn: reads the counts, moves local breakers, works out stances and
    /// sends what is due.
    pub fn turn(&mut self, now: Timestamp) {
        self.hour.store(unix_hour(), Relaxed);
        let mut turning = Vec::new();
        for (name, watched) in &mut self.backends {
            if watched.drain(now) || !watched.is_quiet() {
                turning.push(name.clone());
            }
        }
        for name in turning {
            self.refresh(&name, now);
        }
        let mut turning = Vec::new();
        for (name, steered) in &mut self.services {
            steered.drain(now);
            let held = self.steerings.get(name.as_str());
            if steered.is_outdated(held, self.valid_for, now) {
                turning.push(name.clone());
            }
        }
        for name in turning {
            self.steer(&name, now);
        }
        self.flush(now);
    }

    pub(crate) fn refresh_all(&mut self, now: Timestamp) {
        let names: Vec<BackendName> = self.backends.keys().cloned().collect();
        for name in names {
            self.refresh(&name, now);
        }
        let names: Vec<ServiceName> = self.services.keys().cloned().collect();
        for name in names {
            self.steer(&name, now);
        }
    }

    pub(super) fn steer(&mut self, name: &ServiceName, now: Timestamp) {
        if let Some(steered) = self.services.get_mut(name) {
            let held = self.steerings.get(name.as_str());
            steered.refresh(held, self.valid_for, &self.identity.pop, now);
        }
    }

    pub(super) fn refresh(&mut self, name: &BackendName, now: Timestamp) {
        let Some(watched) = self.backends.get_mut(name) else {
            return;
        };
        let context = Context {
            identity: &self.identity,
            held: self.decisions.get(name.as_str()),
            valid_for: self.valid_for,
            now,
        };
        for (lease, outcome) in watched.refresh(&context) {
            self.result(name.as_str(), &lease.id, outcome);
        }
    }

    pub(super) fn result(&mut self, backend: &str, lease_id: &str, outcome: TrialOutcome) {
        tracing::debug!(backend, lease_id, ?outcome, "trial ended");
        if self.results.len() == MAX_RESULTS {
            self.results.pop_front();
        }
        self.results.push_back(v1::TrialResult {
            backend: backend.to_owned(),
            lease_id: lease_id.to_owned(),
            outcome: v1::TrialOutcome::from(outcome).into(),
        });
    }

    /// Sends trial results and reports as far as the stream takes them.
    fn flush(&mut self, now: Timestamp) {
        let Some(link) = &mut self.link else {
            return;
        };
        while let Some(result) = self.results.front() {
            if !link.trial_result(result) {
                return;
            }
            self.results.pop_front();
        }
        let urgent = self
            .backends
            .values()
            .any(|watched| watched.pending.is_urgent())
            || self.services.values().any(Steered::is_urgent);
        let urgent = urgent && self.pace.allow(now);
        let (calm, hot) = (link.calm, link.hot);
        let rehearsing = self.services.values().filter(|steered| steered.rehearses());
        let rehearsing: Vec<_> = rehearsing.map(|s| s.service.name.clone()).collect();
        let calm_of = |watched: &Watched| {
            let service = watched.backend.name.service();
            match rehearsing.iter().any(|name| name.as_str() == service) {
                true => hot,
                false => calm,
            }
        };
        let backends = self.backends.values_mut().filter(|watched| {
            (urgent && watched.pending.is_urgent()) || watched.is_due(now, calm_of(watched), hot)
        });
        let services = self
            .services
            .values_mut()
            .filter(|steered| (urgent && steered.is_urgent()) || steered.is_due(now, calm, hot));
        let due = backends.map(Due::Backend);
        let due = due.chain(services.map(Due::Service)).collect();
        for sent in [link.report(due, now), link.probes(&mut self.probing, now)] {
            self.status.report_bytes += sent.bytes;
            self.status.reports += sent.reports;
        }
    }
}

/// Unix time in whole hours.
fn unix_hour() -> u64 {
    unix_ms() / 3_600_000
}
