//! One admitted request: its outcome is recorded exactly once, whatever happens.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use breaker_core::{breaker::Version, outcome::OutcomeClass, steering::Fault};

use crate::admit::{
    backend::{BackendIndex, Cell},
    lease::Lease,
    recorder::{Counts, Tally},
    refusal::RefusalReason,
    service::ServiceCell,
};

/// One admitted request. It counts as in flight until it is finished; dropped
/// without that, its client went away.
#[derive(Debug)]
#[must_use = "a permit dropped at once says that the client went away"]
pub struct Permit {
    pub(crate) cell: Arc<Cell>,
    /// What its service's callers see is counted there.
    pub(crate) served: Arc<ServiceCell>,
    pub(crate) started: Instant,
    /// Until the response's header came.
    pub(crate) latency: Option<Duration>,
    /// By how much a drill delayed it.
    pub(crate) delay: Duration,
    pub(crate) trial: Option<Arc<Lease>>,
    pub(crate) version: Version,
    /// `Live::shuts` when it was admitted.
    pub(crate) shuts: u32,
    /// What a drill does to it.
    pub(crate) fault: Option<Fault>,
    pub(crate) finished: bool,
    /// Another attempt may follow, so its failure may never reach its caller.
    pub(crate) tentative: bool,
}

/// A failure that its caller sees unless another attempt is made: counted when
/// this is dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it says that the caller saw the failure"]
pub struct Owed(Option<Arc<ServiceCell>>);

impl Owed {
    /// Another attempt is made: what becomes of that is what the caller sees.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(served) = &self.0 {
            served.counts.count(Tally::Failed);
        }
    }
}

impl Permit {
    /// The backend that it was admitted to.
    pub fn backend(&self) -> BackendIndex {
        self.cell.live.index
    }

    /// The decision it was admitted under.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it is a trial of a HALF_OPEN backend.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// What a drill does to it instead of, or before, sending it.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The header of the response is there, after the backend kept us waiting
    /// for this long. How fast the client sends and reads says nothing about the
    /// backend, so this is the latency. Without it, all the time until the end is.
    pub fn answered(&mut self, latency: Duration) {
        self.latency = Some(latency + self.delay);
    }

    /// A drill delayed it, as the backend would have.
    pub fn delayed(&mut self, by: Duration) {
        self.delay = by;
    }

    /// Records the outcome. `retry_after` is what the backend asked for.
    pub fn finish(mut self, class: OutcomeClass, retry_after: Option<Duration>) {
        if let Some(wanted) = retry_after {
            self.cell.recorder.retry_after(wanted);
        }
        self.record(class);
    }

    /// The backend switched protocols: a success, known now, though the request
    /// keeps its place in flight until the tunnel has ended.
    pub(crate) fn switched(mut self) -> Stay {
        self.finished = true;
        self.tell(OutcomeClass::Success);
        Stay(self.cell.clone())
    }

    /// Records the outcome of an attempt that another may follow. What the caller
    /// sees is not known yet, so the service's count is owed.
    pub fn finish_attempt(self, class: OutcomeClass, retry_after: Option<Duration>) -> Owed {
        let served = self.served.clone();
        let mut permit = self;
        permit.tentative = true;
        permit.finish(class, retry_after);
        Owed(Some(served))
    }

    /// It could not be sent, for a reason of ours: a refusal after all, which
    /// says nothing about the backend or the client.
    pub fn withdraw(mut self, reason: RefusalReason) {
        self.finished = true;
        self.cell.leave();
        self.cell.recorder.count(Tally::of_refusal(reason));
        self.counts().count(Tally::Refused);
        if let Some(lease) = self.trial.take() {
            lease.finish(OutcomeClass::ClientGone);
            self.cell.live.wake.notify_one();
        }
    }

    fn counts(&self) -> &Counts {
        &self.served.counts
    }

    /// The breaker opened since it was admitted. A request that times out long
    /// after that, maybe after the backend has recovered, must not trip it again.
    fn is_straggler(&self) -> bool {
        self.trial.is_none() && self.shuts != self.cell.live.shuts.load(Relaxed)
    }

    fn record(&mut self, class: OutcomeClass) {
        self.finished = true;
        self.cell.leave();
        self.tell(class);
    }

    fn tell(&mut self, class: OutcomeClass) {
        match class {
            OutcomeClass::Success => self.counts().count(Tally::Success),
            OutcomeClass::Failure(_) | OutcomeClass::Overload if !self.tentative => {
                self.counts().count(Tally::Failed);
            }
            OutcomeClass::Failure(_) | OutcomeClass::Overload | OutcomeClass::ClientGone => {}
        }
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

/// A place in flight that outlasts the outcome.
#[derive(Debug)]
pub(crate) struct Stay(Arc<Cell>);

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.finished {
            self.record(OutcomeClass::ClientGone);
        }
    }
}
