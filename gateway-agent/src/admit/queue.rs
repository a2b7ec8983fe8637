//! Where requests wait for one of a backend's places in flight, for services that
//! want that. All cores share it, as the limit is the agent's; it is bounded in
//! length and in time, so that a slow backend makes its own callers wait, and no
//! others, and never for long.
//!
//! The most important wait in front, and those alike in the order they came. As
//! long as anyone waits, who comes later waits, too.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use breaker_core::Priority;
use fleet_config::Limits;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::admit::{
    backend::{Backend, Live},
    gate::CoreGate,
    permit::Permit,
    recorder::Tally,
    refusal::{Denied, Refusal, RefusalReason},
    service::{Service, Wish},
};

/// The requests that wait for one backend.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Places; 0: nobody waits.
    max: AtomicU32,
    timeout_ms: AtomicU64,
    all: AtomicU32,
    /// In the order of [`Priority::ALL`].
    lines: [Line; 4],
}

#[derive(Debug, Default)]
struct Line {
    waiting: AtomicU32,
    freed: Notify,
}

/// A request's place in a queue.
#[derive(Debug)]
struct Waiting {
    live: Arc<Live>,
    priority: Priority,
}

impl Queue {
    pub(crate) fn configure(&self, limits: &Limits) {
        self.max.store(limits.max_queue, Relaxed);
        let timeout = limits.queue_timeout.as_millis() as u64;
        self.timeout_ms.store(timeout, Relaxed);
    }

    /// Requests may wait.
    pub(crate) fn is_on(&self) -> bool {
        self.max.load(Relaxed) > 0
    }

    /// How many wait.
    pub(crate) fn len(&self) -> u32 {
        self.all.load(SeqCst)
    }

    /// A place was freed: whoever is next may take it.
    pub(crate) fn freed(&self) {
        if self.len() > 0 {
            let mut lines = self.lines.iter();
            if let Some(line) = lines.find(|line| line.waiting.load(SeqCst) > 0) {
                line.freed.notify_one();
            }
        }
    }

    fn line(&self, priority: Priority) -> &Line {
        &self.lines[priority as usize]
    }
}

impl Waiting {
    /// At the end of its line; `None`: the queue is full.
    fn join(live: &Arc<Live>, priority: Priority) -> Option<Self> {
        let queue = &live.queue;
        queue.line(priority).waiting.fetch_add(1, SeqCst);
        let waiting = Self {
            live: live.clone(),
            priority,
        };
        let before = queue.all.fetch_add(1, SeqCst);
        (before < queue.max.load(Relaxed)).then_some(waiting)
    }
}

impl Drop for Waiting {
    /// It leaves, served or not. A place that it was told of and did not take is the
    /// next one's.
    fn drop(&mut self) {
        let queue = &self.live.queue;
        queue.line(self.priority).waiting.fetch_sub(1, SeqCst);
        queue.all.fetch_sub(1, SeqCst);
        if self.live.has_room() {
            queue.freed();
        }
    }
}

impl CoreGate {
    /// Waits for a place at the backend that was `full`.
    ///
    /// # Errors
    /// When the queue is full, too, when the wait is over, or when the backend
    /// refuses for another reason meanwhile.
    pub(crate) async fn wait(
        &self,
        service: &Service,
        wish: &Wish,
        full: Refusal,
    ) -> Result<Permit, Denied> {
        let mut regions = service.regions.iter();
        let Some(backend) = regions.find(|backend| backend.name == full.backend) else {
            return Err(Denied::Refused(full));
        };
        let live = &backend.live;
        let waited = match Waiting::join(live, wish.priority) {
            None => Err(full),
            Some(waiting) => {
                let timeout = Duration::from_millis(live.queue.timeout_ms.load(Relaxed));
                let deadline = Instant::now() + timeout;
                let waited = self
                    .wait_until(deadline, service, wish, backend, (&waiting, full))
                    .await;
                drop(waiting);
                waited
            }
        };
        waited.map_err(|refusal| {
            let cell = &backend.cells[self.core()];
            cell.recorder.count(Tally::of_refusal(refusal.reason));
            service.cells[self.core()].counts.count(Tally::Refused);
            Denied::Refused(refusal)
        })
    }

    async fn wait_until(
        &self,
        deadline: Instant,
        service: &Service,
        wish: &Wish,
        backend: &Arc<Backend>,
        (waiting, full): (&Waiting, Refusal),
    ) -> Result<Permit, Refusal> {
        let line = waiting.live.queue.line(waiting.priority);
        loop {
            let mut freed = pin!(line.freed.notified());
            // From here on, no place is freed unnoticed.
            freed.as_mut().enable();
            match self.admit_waiting(service, wish, backend) {
                Ok(permit) => return Ok(permit),
                Err(refusal) if refusal.reason != RefusalReason::Limit => return Err(refusal),
                Err(_) => {}
            }
            tokio::select! {
                biased;
                () = freed => {}
                () = sleep_until(deadline) => {
                    let reason = RefusalReason::QueueTimeout;
                    return Err(Refusal { reason, ..full });
                }
            }
        }
    }
}
