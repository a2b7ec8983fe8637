//! The control side of an agent: decisions, local breakers and counts come
//! together here, stances and reports come out. Nothing on the request path
//! takes its lock; everything is synchronous and is driven by `drive.rs` and
//! `stream.rs`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use breaker_core::{BackendName, Timestamp, breaker::TrialOutcome};
use fleet_config::FleetConfig;
use rampmeter_api::{
    convert::{
        decision::{self, MAX_AHEAD},
        duration_up_to,
    },
    v1,
};
use tokio::sync::Notify;

use crate::{
    admit::{gate::CoreGate, snapshot::Snapshot},
    clock::{Clock, unix_ms},
    config::{
        configuration::{ConfigSource, FleetText},
        state_dir::Saved,
    },
    fleet::{
        apply::{Decisions, Offer},
        link::{Connected, Link, LinkStatus},
        local::Identity,
        report::Pace,
        watched::{Context, Watched},
    },
    probe::findings::Findings,
};

/// Decisions not heard of for this long are stale, unless Welcome says otherwise.
pub const VALID_FOR: Duration = Duration::from_secs(30);

/// Trial results that wait for a stream. Each backend has a lease or two at a
/// time; more than this can only be leftovers, and the oldest has run out.
const MAX_RESULTS: usize = 256;

/// Longest lease that is believed: the longest total timeout, and a second.
const MAX_LEASE: Duration = Duration::from_secs(3601);

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
    pub(crate) decisions: Decisions,
    pub(crate) backends: BTreeMap<BackendName, Watched>,
    pub(crate) valid_for: Duration,
    pub(crate) link: Option<Link>,
    pub(crate) status: LinkStatus,
    pub(crate) probing: Findings,
    pace: Pace,
    results: VecDeque<v1::TrialResult>,
    pub(crate) source: ConfigSource,
    pub(crate) yaml: Option<(u64, String)>,
    /// Why the newest configuration was refused.
    pub(crate) config_error: Option<String>,
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
            decisions: Decisions::default(),
            backends: BTreeMap::new(),
            valid_for: VALID_FOR,
            link: None,
            status: LinkStatus::default(),
            probing: Findings::new(clock.now()),
            pace: Pace::default(),
            results: VecDeque::new(),
            source: ConfigSource::None,
            yaml: None,
            config_error: None,
            unsaved: Unsaved::default(),
        }
    }

    /// One gate for each core.
    pub fn gates(&self) -> Vec<CoreGate> {
        let gate = |core| CoreGate::new(core, self.table.clone(), self.clock);
        (0..self.cores).map(gate).collect()
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
                    if self.decisions.offer(decision, now, unix_ms()) == Offer::Applied {
                        applied += 1;
                        self.decided(&name, now);
                    }
                    self.refresh(&name, now);
                }
            }
        }
        if message.complete {
            let named = |name: &str| message.decisions.iter().any(|wire| wire.backend == name);
            let backends = &self.backends;
            self.decisions
                .retain(|name| backends.contains_key(name) || named(name.as_str()));
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

    /// Takes up decisions of an earlier run. They may have gone stale since, by
    /// this host's own clock.
    pub fn restore(&mut self, saved: &Saved<v1::Decisions>, unix_ms: u64, now: Timestamp) {
        let age = Duration::from_millis(unix_ms.saturating_sub(saved.unix_ms));
        let heard = now - age.min(MAX_AHEAD);
        for wire in &saved.message.decisions {
            match decision::from_decision(wire, heard) {
                Ok(decision) => self.decisions.restore(decision, heard, saved.unix_ms),
                Err(error) => {
                    tracing::warn!(
                        backend = wire.backend,
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

    /// A newer decision: leases of the round before it are void.
    fn decided(&mut self, name: &BackendName, now: Timestamp) {
        let held = self.decisions.get(name.as_str()).map(|held| &held.decision);
        if let (Some(watched), Some(decision)) = (self.backends.get_mut(name), held) {
            watched.decided(decision, &self.identity.pop, now);
        }
    }

    // Time.

    /// One turn: reads the counts, moves local breakers, works out stances and
    /// sends what is due.
    pub fn turn(&mut self, now: Timestamp) {
        let mut turning = Vec::new();
        for (name, watched) in &mut self.backends {
            if watched.drain(now) || !watched.is_quiet() {
                turning.push(name.clone());
            }
        }
        for name in turning {
            self.refresh(&name, now);
        }
        self.flush(now);
    }

    pub(crate) fn refresh_all(&mut self, now: Timestamp) {
        let names: Vec<BackendName> = self.backends.keys().cloned().collect();
        for name in names {
            self.refresh(&name, now);
        }
    }

    fn refresh(&mut self, name: &BackendName, now: Timestamp) {
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

    fn result(&mut self, backend: &str, lease_id: &str, outcome: TrialOutcome) {
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
            .any(|watched| watched.pending.is_urgent());
        let urgent = urgent && self.pace.allow(now);
        let due = |watched: &&mut Watched| {
            (urgent && watched.pending.is_urgent()) || watched.is_due(now, link.calm, link.hot)
        };
        let mut due: Vec<&mut Watched> = self.backends.values_mut().filter(due).collect();
        for sent in [
            link.report(&mut due, now),
            link.probes(&mut self.probing, now),
        ] {
            self.status.report_bytes += sent.bytes;
            self.status.reports += sent.reports;
        }
    }
}
