//! The gate that every request passes: which region takes it now, if any?
//!
//! Nothing here waits, locks or allocates. The answer comes from the service's
//! [`Way`] and the backends' [`Stance`]s, which the control side computes and
//! swaps in whole; the request's side only reads them, counts, and claims trial
//! leases by compare-exchange.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use breaker_core::{breaker::Version, shed::ShedKey, steering::Fault, time::Timestamp};

use crate::{
    admit::{
        backend::{Backend, Cell},
        lease::Lease,
        permit::Permit,
        recorder::Tally,
        refusal::{Denied, OverQuota, Refusal, RefusalReason, Shed},
        service::{Service, ServiceCell, Wish},
        snapshot::Snapshot,
        stance::{Answer, Stance, later},
        steer::{Bands, Placed},
        way::{Course, Way},
    },
    clock::Clock,
    dice::{random, unit},
};

/// Every core has one; it is cheap to clone and its clones share the core's counts.
#[derive(Debug, Clone)]
pub struct CoreGate {
    core: usize,
    table: Arc<ArcSwap<Snapshot>>,
    clock: Clock,
    /// Unix time in hours: shed keys change places with it.
    hour: Arc<AtomicU64>,
    /// xorshift state: spreads Retry-After.
    dice: Arc<AtomicU64>,
}

impl CoreGate {
    pub(crate) fn new(
        core: usize,
        table: Arc<ArcSwap<Snapshot>>,
        clock: Clock,
        hour: Arc<AtomicU64>,
    ) -> Self {
        Self {
            core,
            table,
            clock,
            hour,
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

    /// Asks to send one request to a region of `service`.
    ///
    /// # Errors
    /// When none takes it.
    pub fn admit(&self, service: &Service, wish: &Wish) -> Result<Permit, Denied> {
        self.admit_at(service, wish, Instant::now())
    }

    /// [`admit`](Self::admit), at this moment.
    pub(crate) fn admit_at(
        &self,
        service: &Service,
        wish: &Wish,
        started: Instant,
    ) -> Result<Permit, Denied> {
        let served = &service.cells[self.core];
        self.take_quota(service, wish, started)
            .inspect_err(|_| served.counts.count(Tally::OverQuota))
            .map_err(Denied::OverQuota)?;
        served.counts.count(Tally::wanted(wish.priority));
        let way = service.way.load();
        let request = self.asking(service, &way, wish, started);
        let admitted = match &way.course {
            Course::InOrder(order) => request.in_order(order),
            Course::Planned(bands) => request.planned(bands, service),
            Course::Stale { home, bands } => request.stale(*home, bands, service),
        };
        admitted.inspect_err(|denied| match denied {
            // It is not refused yet.
            Denied::Full(_) => {}
            Denied::Shed(_) => {
                served.counts.count(Tally::Refused);
                served.counts.count(Tally::Shed);
            }
            Denied::OverQuota(_) | Denied::Refused(_) | Denied::NoRegion => {
                served.counts.count(Tally::Refused);
            }
        })
    }

    pub(super) fn asking<'a>(
        &'a self,
        service: &'a Service,
        way: &'a Way,
        wish: &'a Wish,
        started: Instant,
    ) -> Asking<'a> {
        Asking {
            gate: self,
            regions: &service.regions,
            served: &service.cells[self.core],
            way,
            wish,
            started,
            now: self.clock.at(started),
            waited: false,
        }
    }

    fn take_quota(
        &self,
        service: &Service,
        wish: &Wish,
        started: Instant,
    ) -> Result<(), OverQuota> {
        let Some(quota) = &service.quota else {
            return Ok(());
        };
        let taken = quota.take(wish.caller, self.clock.nanos_at(started));
        taken.map_err(|wait| OverQuota {
            retry_after: wait + later(0.0, self.roll()),
            rate: quota.settings().rate,
            service: service.name.clone(),
        })
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

/// One request on its way through the gate.
pub(super) struct Asking<'a> {
    pub(super) gate: &'a CoreGate,
    /// Its service's, in order.
    pub(super) regions: &'a [Arc<Backend>],
    pub(super) served: &'a Arc<ServiceCell>,
    pub(super) way: &'a Way,
    pub(super) wish: &'a Wish,
    pub(super) started: Instant,
    pub(super) now: Timestamp,
    /// It waited for its turn: it goes first, and is no new demand.
    pub(super) waited: bool,
}

/// A backend that refused.
#[derive(Clone, Copy)]
pub(super) struct Turned {
    reason: RefusalReason,
    /// Where the request stands among those refused like it, [0, 1); `None`: all
    /// are refused alike.
    among: Option<f64>,
    retry_after: Duration,
    version: Version,
}

impl Asking<'_> {
    /// The first region that takes it, else the first one's refusal: it is the
    /// one that this POP would go back to.
    fn in_order(&self, order: &[usize]) -> Result<Permit, Denied> {
        let mut first = None;
        for region in order {
            let backend = &self.regions[*region];
            match self.ask(backend, false) {
                Ok(permit) => return Ok(permit),
                Err(turned) => first = first.or(Some((backend, turned))),
            }
        }
        Err(first.map_or(Denied::NoRegion, |(backend, turned)| {
            refused(backend, turned)
        }))
    }

    /// The plan's region; a HALF_OPEN one in front of it, with a trial lease; or
    /// another, within its headroom.
    fn planned(&self, bands: &Bands, service: &Service) -> Result<Permit, Denied> {
        let Some(placed) = bands.place(self.position(service)) else {
            return self.shed(bands, service);
        };
        if let Some(trial) = self.try_on_the_way(&self.regions[..placed.region]) {
            return Ok(trial);
        }
        self.ask_placed(bands, placed, true)
    }

    /// Home, or another, within what the plan gave it.
    fn stale(&self, home: usize, bands: &Bands, service: &Service) -> Result<Permit, Denied> {
        let placed = Placed {
            region: home,
            within: self.position(service),
        };
        self.ask_placed(bands, placed, false)
    }

    fn ask_placed(&self, bands: &Bands, placed: Placed, planned: bool) -> Result<Permit, Denied> {
        let backend = &self.regions[placed.region];
        let turned = match self.ask(backend, planned) {
            Ok(permit) => return Ok(permit),
            Err(turned) => turned,
        };
        let refused_by = |at: usize| match turned.among {
            None if at == placed.region => 1.0,
            _ => 1.0 - self.regions[at].live.stance.load().share(self.now, planned),
        };
        let within = turned.among.unwrap_or(placed.within);
        let other = bands.alternate(Placed { within, ..placed }, refused_by);
        match other.map(|at| self.ask(&self.regions[at], planned)) {
            Some(Ok(permit)) => Ok(permit),
            Some(Err(_)) | None => Err(refused(backend, turned)),
        }
    }

    /// The plan has no region for it: a trial anywhere, or nothing.
    fn shed(&self, bands: &Bands, service: &Service) -> Result<Permit, Denied> {
        let Some(home) = self.regions.first() else {
            return Err(Denied::NoRegion);
        };
        let stance = home.live.stance.load();
        if stance.shadow {
            self.served.counts.count(Tally::Shadowed);
            let asked = self.ask(home, true);
            return asked.map_err(|turned| refused(home, turned));
        }
        if let Some(trial) = self.try_on_the_way(self.regions) {
            return Ok(trial);
        }
        let shed = bands.shed();
        match stance.answer(self.now, true) {
            // Nothing is admitted at all: home's reason is the reason.
            Answer::Refuse(reason) | Answer::Trial(_, reason) if shed >= 1.0 => {
                let cell = &home.cells[self.gate.core];
                cell.recorder.count(Tally::of_refusal(reason));
                Err(refused(home, self.turned(&stance, reason, None)))
            }
            _ => Err(Denied::Shed(Shed {
                retry_after: later(shed, self.gate.roll()),
                version: self.way.version,
                service: service.name.clone(),
            })),
        }
    }

    /// Passes regions in front of the one that the plan chose: it would rather go
    /// there, and if it can be a trial, it does.
    fn try_on_the_way(&self, regions: &[Arc<Backend>]) -> Option<Permit> {
        regions.iter().find_map(|backend| {
            let cell = &backend.cells[self.gate.core];
            self.count_demand(cell);
            let shuts = cell.live.shuts.load(Relaxed);
            let stance = cell.live.stance.load();
            match stance.answer(self.now, true) {
                Answer::Trial(leases, reason) if !stance.shadow => {
                    let lease = self.claim(cell, leases, reason).ok()?;
                    Some(self.permit(cell, &stance, shuts, Some(lease)))
                }
                _ => None,
            }
        })
    }

    fn count_demand(&self, cell: &Cell) {
        cell.recorder.count(Tally::Demand);
        if self.wish.idempotent {
            cell.recorder.count(Tally::IdempotentDemand);
        }
    }

    /// Asks one backend. `planned`: a plan that is fresh sends the request there.
    pub(super) fn ask(&self, backend: &Backend, planned: bool) -> Result<Permit, Turned> {
        let cell = &backend.cells[self.gate.core];
        if !self.waited {
            self.count_demand(cell);
            cell.recorder.count(Tally::wanted(self.wish.priority));
        }
        // Read before the stance: a breaker that opens in between makes this
        // request a straggler.
        let shuts = cell.live.shuts.load(Relaxed);
        let stance = cell.live.stance.load();
        let mut asked = self.take(cell, &stance, planned);
        if stance.shadow
            && asked
                .as_ref()
                .is_err_and(|(why, _)| *why != RefusalReason::Limit)
        {
            cell.recorder.count(Tally::Shadowed);
            self.served.counts.count(Tally::Shadowed);
            let room = cell.enter(self.waited);
            asked = room.then_some(None).ok_or((RefusalReason::Limit, None));
        }
        match asked {
            Ok(trial) => Ok(self.permit(cell, &stance, shuts, trial)),
            Err((reason, among)) => {
                let final_word = reason != RefusalReason::Limit || !cell.live.queue.is_on();
                if final_word && !self.waited {
                    cell.recorder.count(Tally::of_refusal(reason));
                }
                Err(self.turned(&stance, reason, among))
            }
        }
    }

    /// Takes a place and, if it needs one, a lease; or says why not, and where it
    /// stands among those refused like it.
    fn take(
        &self,
        cell: &Cell,
        stance: &Stance,
        planned: bool,
    ) -> Result<Option<Arc<Lease>>, (RefusalReason, Option<f64>)> {
        match stance.answer(self.now, planned) {
            Answer::Refuse(reason) => Err((reason, None)),
            Answer::Trial(leases, reason) => {
                let lease = self.claim(cell, leases, reason);
                lease.map(Some).map_err(|reason| (reason, None))
            }
            Answer::Share(share, reason) => {
                let rank = self.rank(cell, stance);
                match rank < share {
                    true => self.enter(cell),
                    false => Err((reason, Some((rank - share) / (1.0 - share)))),
                }
            }
            Answer::Pass => self.enter(cell),
        }
    }

    fn enter(&self, cell: &Cell) -> Result<Option<Arc<Lease>>, (RefusalReason, Option<f64>)> {
        match cell.enter(self.waited) {
            true => Ok(None),
            false => Err((RefusalReason::Limit, None)),
        }
    }

    fn claim(
        &self,
        cell: &Cell,
        leases: &[Arc<Lease>],
        reason: RefusalReason,
    ) -> Result<Arc<Lease>, RefusalReason> {
        if !cell.enter(self.waited) {
            return Err(RefusalReason::Limit);
        }
        let claimed = leases
            .iter()
            .find(|lease| lease.claim(self.now, self.wish.idempotent));
        if claimed.is_none() {
            cell.leave();
        }
        claimed.cloned().ok_or(reason)
    }

    /// Where it stands in the service's demand.
    pub(super) fn position(&self, service: &Service) -> f64 {
        let place = match self.wish.key {
            Some(key) => self.place(key, service.salt),
            None => self.served.places.next(self.wish.priority),
        };
        self.way.mix.position(self.wish.priority, place)
    }

    /// Where it stands in the backend's demand.
    fn rank(&self, cell: &Cell, stance: &Stance) -> f64 {
        let place = match self.wish.key {
            Some(key) => self.place(key, cell.live.salt),
            None => cell.places.next(self.wish.priority),
        };
        stance.mix.position(self.wish.priority, place)
    }

    fn place(&self, key: ShedKey, salt: ShedKey) -> f64 {
        key.place(salt, self.gate.hour.load(Relaxed))
    }

    fn turned(&self, stance: &Stance, reason: RefusalReason, among: Option<f64>) -> Turned {
        Turned {
            reason,
            among,
            retry_after: stance.retry_after(reason, self.now, self.gate.roll()),
            version: stance.version,
        }
    }

    fn permit(
        &self,
        cell: &Arc<Cell>,
        stance: &Stance,
        shuts: u32,
        trial: Option<Arc<Lease>>,
    ) -> Permit {
        Permit {
            cell: cell.clone(),
            served: self.served.clone(),
            started: self.started,
            latency: None,
            delay: Duration::ZERO,
            trial,
            version: stance.version,
            shuts,
            fault: self.fault(cell),
            finished: false,
            tentative: false,
        }
    }

    /// What a drill does to it at this backend.
    fn fault(&self, cell: &Cell) -> Option<Fault> {
        let drill = self.way.drill.as_ref()?;
        let runs = drill.backend == cell.live.index && self.now < drill.until;
        let hit = runs && self.served.drilled.next() < drill.share;
        if hit {
            self.served.counts.count(Tally::Drilled);
        }
        hit.then_some(drill.fault)
    }
}

fn refused(backend: &Backend, turned: Turned) -> Denied {
    let may_wait = turned.reason == RefusalReason::Limit && backend.live.queue.is_on();
    match may_wait {
        true => Denied::Full(refusal(backend, turned)),
        false => Denied::Refused(refusal(backend, turned)),
    }
}

pub(super) fn refusal(backend: &Backend, turned: Turned) -> Refusal {
    Refusal {
        reason: turned.reason,
        retry_after: turned.retry_after,
        version: turned.version,
        backend: backend.name.clone(),
    }
}
