//! The loop that decides. It sleeps until a backend or a service is due: because
//! its record said when to look again, because an agent reported trouble, or
//! because another replica hinted at a change. Then it syncs what is due with the
//! store in one call, judges the evidence of all replicas, and commits what
//! follows. A backend that opens or closes moves traffic at once: the plan of its
//! service is decided in the same turn, on what was heard of it last.
//!
//! Any replica may decide about anything at any time; compare-and-swap keeps one
//! history. So nobody has to be elected, and a lost race costs one call.

mod due;
mod endpoints;
mod judging;
mod learning;
mod steering;
mod trials;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use breaker_core::{BackendName, BreakerPolicy, Timestamp, ids::ServiceName};
use tokio::time::Instant;

use crate::{
    candidate,
    config::Fleet,
    events,
    plane::{Plane, TrialAnswer, until_set},
    store::{About, Hint, REPAIR_GRACE, StoreError, SyncReply, SyncRequest},
};
use due::Due;
use learning::Memory;
use steering::OfService;

/// Backends, and services, looked at in one round: a few milliseconds of judging,
/// so that an urgent one does not wait behind a thousand calm ones.
const ROUND: usize = 64;

/// What is calm is synced this often.
pub const CALM: Duration = Duration::from_secs(1);

/// Backends with trouble, or not CLOSED, and their services this often.
pub const HOT: Duration = Duration::from_millis(100);

/// Nothing is ever looked at more often than this, however many agents report.
pub const SPACING: Duration = Duration::from_millis(10);

/// A service is looked at along with its backends, but not more often than this:
/// a backend that fails is looked at with every report.
const ALONG: Duration = Duration::from_millis(50);

/// How soon the store is tried again after it failed.
const AWAY: Duration = Duration::from_millis(250);

/// Trial results of one backend kept while the store is away; a lost one only lets
/// its lease run out.
const TRIALS_KEPT: usize = 64;

/// One replica's coordinator.
pub struct Coordinator {
    plane: Arc<Plane>,
    due: Due<BackendName>,
    due_services: Due<ServiceName>,
    memory: BTreeMap<BackendName, Memory>,
    services: BTreeMap<ServiceName, OfService>,
    trials: BTreeMap<BackendName, Vec<TrialAnswer>>,
    /// The newest epoch seen; 0 before the first sync.
    epoch: u64,
}

impl Coordinator {
    /// A coordinator that knows nothing yet.
    pub fn new(plane: Arc<Plane>) -> Self {
        Self {
            plane,
            due: Due::default(),
            due_services: Due::default(),
            memory: BTreeMap::new(),
            services: BTreeMap::new(),
            trials: BTreeMap::new(),
            epoch: 0,
        }
    }

    /// Decides until the process ends.
    pub async fn run(mut self) {
        let plane = self.plane.clone();
        let mut hints = plane.store.hints();
        loop {
            self.open_mail();
            let due = [self.due.next(), self.due_services.next()];
            let first = due.into_iter().flatten().min();
            let wake = first.unwrap_or_else(|| Instant::now() + CALM);
            tokio::select! {
                () = tokio::time::sleep_until(wake) => self.round().await,
                () = plane.mailbox.arrived() => {}
                hint = hints.next() => self.hinted(hint).await,
                () = until_set(&plane.ending) => return,
            }
        }
    }

    fn open_mail(&mut self) {
        let letters = self.plane.mailbox.take();
        let now = Instant::now();
        for name in letters.urgent {
            self.due.urge(name, now);
        }
        for name in letters.services {
            self.due_services.urge(name, now);
        }
        for answer in letters.trials {
            self.due.urge(answer.backend.clone(), now);
            let trials = self.trials.entry(answer.backend.clone()).or_default();
            if trials.len() < TRIALS_KEPT {
                trials.push(answer);
            }
        }
    }

    async fn hinted(&mut self, hint: Hint) {
        let now = Instant::now();
        self.plane.news.send_modify(|news| *news += 1);
        match hint {
            Hint::Backend(name) => self.due.urge(name, now),
            Hint::Service(name) => self.due_services.urge(name, now),
            Hint::Events => {}
            Hint::Config => {
                // Tried again by the watcher of the configuration.
                let _ = crate::config::refresh(&self.plane).await;
            }
            Hint::Everything => {
                if let Some(fleet) = self.plane.fleet() {
                    for (name, ..) in fleet.config.backends() {
                        self.due.urge(name.clone(), now);
                    }
                    for name in fleet.config.services.keys() {
                        self.due_services.urge(name.clone(), now);
                    }
                }
            }
        }
    }

    async fn round(&mut self) {
        let start = Instant::now();
        let Some(fleet) = self.plane.fleet() else {
            self.due.clear();
            self.due_services.clear();
            return;
        };
        self.forget_others_than(&fleet);
        let due = self.due.take(start, ROUND).into_iter();
        let due: BTreeSet<_> = due.collect();
        let services = self.take_services(&due, start, &fleet);
        if due.is_empty() && services.is_empty() {
            return;
        }
        let mut request = self.request(&due, &fleet);
        request.services = self.request_services(&services, &fleet);
        match self.plane.sync(request).await {
            Ok(reply) => self.decide_all(reply, &fleet, start).await,
            Err(error) => {
                for name in due {
                    self.due.at(name, Instant::now() + wait_after(&error));
                }
                for name in services {
                    self.due_services
                        .at(name, Instant::now() + wait_after(&error));
                }
            }
        }
        self.plane.metrics.decide.observe(start.elapsed());
    }

    /// Services that are due, and those of backends that are: they cost no further
    /// call, and from then on fall due together.
    fn take_services(
        &mut self,
        due: &BTreeSet<BackendName>,
        start: Instant,
        fleet: &Fleet,
    ) -> Vec<ServiceName> {
        let mut taken = self.due_services.take(start, ROUND);
        for backend in due {
            let found = fleet.config.services.get_key_value(backend.service());
            if let Some((name, _)) = found
                && self.due_services.take_along(name, ALONG, start)
            {
                taken.push(name.clone());
            }
        }
        taken
    }

    /// What is not configured any more.
    fn forget_others_than(&mut self, fleet: &Fleet) {
        let configured = |name: &BackendName| fleet.config.backend(name).is_some();
        self.due.retain(configured);
        self.memory.retain(|name, _| configured(name));
        self.trials.retain(|name, _| configured(name));
        let configured = |name: &ServiceName| fleet.config.services.contains_key(name);
        self.due_services.retain(configured);
        self.services.retain(|name, _| configured(name));
    }

    fn request(&mut self, due: &BTreeSet<BackendName>, fleet: &Fleet) -> SyncRequest {
        let now = self.plane.clock.now();
        let (known, reporting) = self.plane.peers.coverage(now);
        let mut request = SyncRequest::default();
        for name in due {
            let policy = policy(fleet, name);
            let memory = self.memory.entry(name.clone()).or_default();
            let seen = self.plane.board.get(name);
            let since = seen.map_or_else(Timestamp::default, |s| s.breaker.evidence_since());
            let kept = candidate::widened(fleet, name, policy);
            // Who the worst witnesses are is the live policy's business.
            let since = since.max(now - policy.window);
            let figures = &self.plane.figures;
            let view = figures.view(name, &kept, memory.baseline, since, now);
            match figures.probes.join(view, name, now) {
                Some(mut view) => {
                    view.fleet.agents_known = known;
                    view.fleet.agents_reporting = reporting;
                    memory.view = Some(view.clone());
                    request.registers.push((name.clone(), view));
                }
                None => {
                    memory.view = None;
                    request.read.push(name.clone());
                }
            }
        }
        request
    }

    /// Tells of a new epoch once; each replica that lived through it does.
    async fn notice_epoch(&mut self, reply: &SyncReply) {
        let backends = reply.backends.iter().map(|b| b.epoch);
        let services = reply.services.iter().map(|s| s.epoch);
        let newest = backends.chain(services).max().unwrap_or(0);
        let before = self.epoch;
        self.epoch = newest.max(before);
        if before == 0 || newest <= before {
            return;
        }
        tracing::warn!(
            before,
            epoch = newest,
            "the store lost or changed its history"
        );
        let news = vec![events::of_epoch(&self.plane, newest)];
        // Lost with the store; the log has it.
        let _ = self
            .plane
            .ask("append", self.plane.store.append(About::Fleet, news))
            .await;
    }

    /// `start` is the round's: what was looked at together is due together again,
    /// in one call to the store.
    async fn decide_all(&mut self, reply: SyncReply, fleet: &Fleet, start: Instant) {
        self.notice_epoch(&reply).await;
        let mut services: BTreeSet<_> = reply.services.iter().map(|s| s.name.clone()).collect();
        for state in reply.services {
            self.hear(state, fleet);
        }
        for state in reply.backends {
            let name = state.name.clone();
            if fleet.config.backend(&name).is_none() {
                continue;
            }
            let decided = self.decide(state, fleet).await;
            let next = decided.unwrap_or_else(|error| {
                // `ask` has told when the store went away.
                tracing::debug!(backend = %name, %error, "not decided");
                wait_after(&error)
            });
            // Before the next backend: agents that were just told that this one is
            // OPEN wait for where to go.
            if let Some(service) = self.unsettled(&name) {
                services.remove(&service);
                self.steer_at(service, fleet, start).await;
            }
            self.due.at(name, start + next);
        }
        for service in services {
            self.steer_at(service, fleet, start).await;
        }
    }

    async fn steer_at(&mut self, service: ServiceName, fleet: &Fleet, start: Instant) {
        let decided = self.steer(&service, fleet).await;
        let next = decided.unwrap_or_else(|error| {
            tracing::debug!(%service, %error, "not decided");
            wait_after(&error)
        });
        self.due_services.at(service, start + next);
    }

    /// Time until a point on the store's clock.
    fn until(&self, at: Timestamp) -> Duration {
        self.plane.clock.now().until(at)
    }
}

fn policy<'a>(fleet: &'a Fleet, name: &BackendName) -> &'a BreakerPolicy {
    // Callers ask for configured backends only.
    fleet
        .config
        .policy(name)
        .expect("a configured backend has a policy")
}

/// How soon to look again when the store failed.
fn wait_after(error: &StoreError) -> Duration {
    match error {
        StoreError::Repairing => REPAIR_GRACE / 4,
        StoreError::Unavailable(_) | StoreError::Wrong(_) | StoreError::Corrupt(_) => AWAY,
    }
}
