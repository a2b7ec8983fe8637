//! The gate that every request passes: may it go to this backend now?
//!
//! Nothing here waits, locks or allocates. The answer comes from a [`Stance`]
//! that the control side computes and swaps in whole; the request's side only
//! reads it, counts, and claims trial leases by compare-exchange.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use breaker_core::{breaker::Version, ids::BackendName, outcome::OutcomeClass, time::Timestamp};
use tokio::sync::Notify;

use crate::{
    admit::{
        lease::Lease,
        recorder::{Recorder, Tally},
        snapshot::Snapshot,
        stance::{Answer, Stance},
    },
    clock::Clock,
    dice::{random, unit},
    probe::Unhealthy,
};

/// A backend's number. Given once for each name and never reused while the
/// process lives, so it outlasts a swap of the [`Snapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendIndex(pub u32);

/// Why we refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The fleet's or the POP's breaker is OPEN.
    Open,
    /// It is HALF_OPEN and this request holds no trial lease.
    HalfOpen,
    /// Over the ramp's admission.
    Ramp,
    /// This agent's own breaker.
    Local,
    /// `limits.max_concurrency` requests are in flight.
    Limit,
    /// An operator's override.
    Override,
}

impl RefusalReason {
    /// For metrics, headers and problem bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Ramp => "ramp",
            Self::Local => "local",
            Self::Limit => "limit",
            Self::Override => "override",
        }
    }
}

/// A request that may not pass.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// When to come back, jittered, at least 1 s.
    pub retry_after: Duration,
    /// The decision behind it; zero if it is ours alone.
    pub version: Version,
    /// Which backend refuses.
    pub backend: BackendName,
}

/// One backend, shared by the cores and the control side.
#[derive(Debug)]
pub struct Backend {
    /// `service/region`.
    pub name: BackendName,
    /// Its number.
    pub index: BackendIndex,
    pub(crate) live: Arc<Live>,
    /// One for each core.
    pub(crate) cells: Box<[Arc<Cell>]>,
}

impl Backend {
    /// A backend that lets everything pass until told otherwise.
    pub(crate) fn new(
        name: BackendName,
        index: BackendIndex,
        cores: usize,
        wake: Arc<Notify>,
    ) -> Self {
        let live = Arc::new(Live {
            stance: ArcSwap::from_pointee(Stance::pass()),
            unhealthy: ArcSwap::default(),
            in_flight: Apart(AtomicU32::new(0)),
            max_concurrency: AtomicU32::new(u32::MAX),
            slow_us: AtomicU64::new(u64::MAX),
            shuts: AtomicU32::new(0),
            wake,
        });
        let cell = |_| Arc::new(Cell::new(live.clone()));
        Self {
            name,
            index,
            cells: (0..cores).map(cell).collect(),
            live,
        }
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> u32 {
        self.live.in_flight.0.load(Relaxed)
    }
}

/// On cache lines of its own (two, because they are fetched in pairs): what one
/// core writes must not slow down what others read.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

/// What requests of every core read of one backend.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) stance: ArcSwap<Stance>,
    /// Endpoints that health checks took out.
    pub(crate) unhealthy: ArcSwap<Unhealthy>,
    /// Shared by all cores, because the limit is the agent's.
    in_flight: Apart<AtomicU32>,
    pub(crate) max_concurrency: AtomicU32,
    /// From when on a call is slow; `u64::MAX`: never.
    pub(crate) slow_us: AtomicU64,
    /// How often it stopped letting requests pass.
    pub(crate) shuts: AtomicU32,
    /// Wakes the reporter.
    wake: Arc<Notify>,
}

/// One core's part of a backend.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) recorder: Recorder,
    /// Error diffusion: the admission not yet spent, in 2⁻¹⁶ requests.
    owed: AtomicU32,
    live: Arc<Live>,
}

/// One request, in the unit of `Cell::owed`.
const WHOLE: u32 = 1 << 16;

impl Cell {
    fn new(live: Arc<Live>) -> Self {
        Self {
            recorder: Recorder::default(),
            // Cores and agents start at different phases, so that a fleet of
            // them with one request each does not admit none, or all.
            owed: AtomicU32::new(random() as u32 % WHOLE),
            live,
        }
    }

    /// Whether this request is within `admission`: of any n requests in a row,
    /// n · admission ± 1 are.
    fn diffuse(&self, admission: f64) -> bool {
        let share = (admission.clamp(0.0, 1.0) * f64::from(WHOLE)) as u32;
        let owed = self.owed.load(Relaxed) + share;
        let admitted = owed >= WHOLE;
        self.owed
            .store(if admitted { owed - WHOLE } else { owed }, Relaxed);
        admitted
    }

    /// Takes one of the backend's places, if there is one.
    fn enter(&self) -> bool {
        let before = self.live.in_flight.0.fetch_add(1, Relaxed);
        let room = before < self.live.max_concurrency.load(Relaxed);
        if !room {
            self.leave();
        }
        room
    }

    fn leave(&self) {
        self.live.in_flight.0.fetch_sub(1, Relaxed);
    }
}

/// Every core has one; it is cheap to clone and its clones share the core's counts.
#[derive(Debug, Clone)]
pub struct CoreGate {
    core: usize,
    table: Arc<ArcSwap<Snapshot>>,
    clock: Clock,
    /// xorshift state: spreads Retry-After.
    dice: Arc<AtomicU64>,
}

impl CoreGate {
    pub(crate) fn new(core: usize, table: Arc<ArcSwap<Snapshot>>, clock: Clock) -> Self {
        Self {
            core,
            table,
            clock,
            dice: Arc::new(AtomicU64::new(random() | 1)),
        }
    }

    /// The configuration in force. A request takes it once and routes by it to
    /// its end.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.table.load_full()
    }

    /// Whether this is still the configuration in force. Cheaper than taking it:
    /// cores that count references to one thing slow each other down.
    pub(crate) fn is_current(&self, known: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.table.load(), known)
    }

    /// Which core this is, from 0.
    pub fn core(&self) -> usize {
        self.core
    }

    /// Asks to send one request to `backend`. `idempotent`: it may be a trial
    /// without harm.
    pub fn admit(&self, backend: BackendIndex, idempotent: bool) -> Result<Permit, Refusal> {
        self.admit_at(backend, idempotent, Instant::now())
    }

    /// [`admit`](Self::admit), at this moment.
    pub(crate) fn admit_at(
        &self,
        backend: BackendIndex,
        idempotent: bool,
        started: Instant,
    ) -> Result<Permit, Refusal> {
        let table = self.table.load();
        let backend = table.backend(backend);
        let cell = &backend.cells[self.core];
        cell.recorder.count(Tally::Demand);
        if idempotent {
            cell.recorder.count(Tally::IdempotentDemand);
        }
        // Read before the stance: a breaker that opens in between makes this
        // request a straggler.
        let shuts = cell.live.shuts.load(Relaxed);
        let stance = cell.live.stance.load();
        let now = self.clock.at(started);
        let mut asked = self.ask(cell, &stance, now, idempotent);
        if stance.shadow
            && asked
                .as_ref()
                .is_err_and(|why| *why != RefusalReason::Limit)
        {
            cell.recorder.count(Tally::Shadowed);
            asked = cell.enter().then_some(None).ok_or(RefusalReason::Limit);
        }
        let trial = asked.map_err(|reason| {
            cell.recorder.count(Tally::of_refusal(reason));
            Refusal {
                reason,
                retry_after: stance.retry_after(reason, now, self.roll()),
                version: stance.version,
                backend: backend.name.clone(),
            }
        })?;
        Ok(Permit {
            cell: cell.clone(),
            started,
            latency: None,
            trial,
            version: stance.version,
            shuts,
            finished: false,
        })
    }

    /// Takes a place and, if it needs one, a lease; or says why not.
    fn ask(
        &self,
        cell: &Cell,
        stance: &Stance,
        now: Timestamp,
        idempotent: bool,
    ) -> Result<Option<Arc<Lease>>, RefusalReason> {
        let (leases, reason) = match stance.answer(now) {
            Answer::Refuse(reason) => return Err(reason),
            Answer::Share(admission, reason) if !cell.diffuse(admission) => return Err(reason),
            Answer::Pass | Answer::Share(..) => {
                return if cell.enter() {
                    Ok(None)
                } else {
                    Err(RefusalReason::Limit)
                };
            }
            Answer::Trial(leases, reason) => (leases, reason),
        };
        if !cell.enter() {
            return Err(RefusalReason::Limit);
        }
        let claimed = leases.iter().find(|lease| lease.claim(now, idempotent));
        if claimed.is_none() {
            cell.leave();
        }
        claimed.cloned().map(Some).ok_or(reason)
    }

    /// Uniform in [0, 1).
    fn roll(&self) -> f64 {
        let mut x = self.dice.load(Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.dice.store(x, Relaxed);
        unit(x)
    }
}

/// One admitted request. It counts as in flight until it is finished; dropped
/// without that, its client went away.
#[derive(Debug)]
#[must_use = "a permit dropped at once says that the client went away"]
pub struct Permit {
    cell: Arc<Cell>,
    started: Instant,
    /// Until the response's header came.
    latency: Option<Duration>,
    trial: Option<Arc<Lease>>,
    version: Version,
    /// `Live::shuts` when it was admitted.
    shuts: u32,
    finished: bool,
}

impl Permit {
    /// The decision it was admitted under.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it is a trial of a HALF_OPEN backend.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// The header of the response is there, after the backend kept us waiting
    /// for this long. How fast the client sends and reads says nothing about the
    /// backend, so this is the latency. Without it, all the time until the end is.
    pub fn answered(&mut self, latency: Duration) {
        self.latency = Some(latency);
    }

    /// Records the outcome. `retry_after` is what the backend asked for.
    pub fn finish(mut self, class: OutcomeClass, retry_after: Option<Duration>) {
        if let Some(wanted) = retry_after {
            self.cell.recorder.retry_after(wanted);
        }
        self.record(class);
    }

    /// It could not be sent, for a reason of ours: a refusal after all, which
    /// says nothing about the backend or the client.
    pub fn withdraw(mut self, reason: RefusalReason) {
        self.finished = true;
        self.cell.leave();
        self.cell.recorder.count(Tally::of_refusal(reason));
        if let Some(lease) = self.trial.take() {
            lease.finish(OutcomeClass::ClientGone);
            self.cell.live.wake.notify_one();
        }
    }

    /// The breaker opened since it was admitted. A request that times out long
    /// after that, maybe after the backend has recovered, must not trip it again.
    fn is_straggler(&self) -> bool {
        self.trial.is_none() && self.shuts != self.cell.live.shuts.load(Relaxed)
    }

    fn record(&mut self, class: OutcomeClass) {
        self.finished = true;
        self.cell.leave();
        if self.is_straggler() && class != OutcomeClass::ClientGone {
            self.cell.recorder.count(Tally::Straggler);
            return;
        }
        self.cell.recorder.count(Tally::of_outcome(class));
        let mut urgent = matches!(class, OutcomeClass::Failure(_) | OutcomeClass::Overload);
        if class != OutcomeClass::ClientGone {
            let latency = self.latency.unwrap_or_else(|| self.started.elapsed());
            self.cell.recorder.latency(latency);
            if latency.as_micros() >= self.cell.live.slow_us.load(Relaxed).into() {
                self.cell.recorder.count(Tally::Slow);
                urgent = true;
            }
        }
        if let Some(lease) = self.trial.take() {
            lease.finish(class);
            urgent = true;
        }
        if urgent {
            self.cell.live.wake.notify_one();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.finished {
            self.record(OutcomeClass::ClientGone);
        }
    }
}
