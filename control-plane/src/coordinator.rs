//! The loop that decides. It sleeps until a backend is due: because its breaker
//! said when to look again, because an agent reported trouble, or because another
//! replica hinted at a change. Then it syncs what is due with the store in one
//! call, judges the evidence of all replicas, and commits what follows.
//!
//! Any replica may decide about any backend at any time; compare-and-swap keeps
//! one history. So nobody has to be elected, and a lost race costs one call.

mod due;
mod judging;
mod learning;
mod trials;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use breaker_core::{BackendName, BreakerPolicy, Timestamp};
use tokio::time::Instant;

use crate::{
    candidate,
    config::Fleet,
    events,
    plane::{Plane, TrialAnswer, until_set},
    store::{Hint, REPAIR_GRACE, StoreError, SyncReply, SyncRequest},
};
use due::Due;
use learning::Memory;

/// Backends looked at in one round: a few milliseconds of judging, so that an
/// urgent one does not wait behind a thousand calm ones.
const ROUND: usize = 64;

/// Calm backends are synced this often.
pub const CALM: Duration = Duration::from_secs(1);

/// Backends with trouble, or not CLOSED, this often.
pub const HOT: Duration = Duration::from_millis(100);

/// A backend is never looked at more often than this, however many agents report.
pub const SPACING: Duration = Duration::from_millis(10);

/// How soon the store is tried again after it failed.
const AWAY: Duration = Duration::from_millis(250);

/// Trial results of one backend kept while the store is away; a lost one only lets
/// its lease run out.
const TRIALS_KEPT: usize = 64;

/// One replica's coordinator.
pub struct Coordinator {
    plane: Arc<Plane>,
    due: Due,
    memory: BTreeMap<BackendName, Memory>,
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
            memory: BTreeMap::new(),
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
            let wake = self.due.next().unwrap_or_else(|| Instant::now() + CALM);
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
                }
            }
        }
    }

    async fn round(&mut self) {
        let start = Instant::now();
        let Some(fleet) = self.plane.fleet() else {
            self.due.clear();
            return;
        };
        let configured = |name: &BackendName| fleet.config.backend(name).is_some();
        self.due.retain(configured);
        self.memory.retain(|name, _| configured(name));
        self.trials.retain(|name, _| configured(name));
        let due = self.due.take(start, ROUND).into_iter();
        let due: BTreeSet<_> = due.collect();
        if due.is_empty() {
            return;
        }
        let request = self.request(&due, &fleet);
        match self.plane.sync(request).await {
            Ok(reply) => self.decide_all(reply, &fleet, start).await,
            Err(error) => self.postpone(due, &error),
        }
        self.plane.metrics.decide.observe(start.elapsed());
    }

    fn postpone(&mut self, due: BTreeSet<BackendName>, error: &StoreError) {
        let wait = match error {
            StoreError::Repairing => REPAIR_GRACE / 4,
            StoreError::Unavailable(_) | StoreError::Wrong(_) | StoreError::Corrupt(_) => AWAY,
        };
        for name in due {
            self.due.at(name, Instant::now() + wait);
        }
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
            match figures.view(name, &kept, memory.baseline, since, now) {
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
        let newest = reply.backends.iter().map(|b| b.epoch).max().unwrap_or(0);
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
            .ask("append", self.plane.store.append(None, news))
            .await;
    }

    /// `start` is the round's: what was looked at together is due together again,
    /// in one call to the store.
    async fn decide_all(&mut self, reply: SyncReply, fleet: &Fleet, start: Instant) {
        self.notice_epoch(&reply).await;
        for state in reply.backends {
            let name = state.name.clone();
            if fleet.config.backend(&name).is_none() {
                continue;
            }
            let next = match self.decide(state, policy(fleet, &name)).await {
                Ok(next) => next,
                Err(StoreError::Repairing) => REPAIR_GRACE / 4,
                Err(error) => {
                    // `ask` has told when the store went away.
                    tracing::debug!(backend = %name, %error, "not decided");
                    AWAY
                }
            };
            self.due.at(name, start + next);
        }
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
