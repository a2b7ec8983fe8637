//! Paced traffic: an open loop, because real clients do not wait for each
//! other. Requests leave on their schedule however slow the answers are, and
//! every one leaves a record.

mod client;
mod record;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::random::Random;
use client::Client;
pub use record::{Answered, Record, Tally};

/// Requests outstanding; above it a request is recorded as an overrun and not
/// sent. 4,096 are four seconds of the fastest load, and the usual limit of
/// descriptors allows them.
const MAX_IN_FLIGHT: u32 = 4096;

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Target {
    /// Named in records and in the requests' mark.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of the requests, relative to the other targets'.
    pub weight: f64,
}

impl Target {
    /// A target of weight 1.
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.into(),
            address,
            weight: 1.0,
        }
    }
}

/// Who sends requests: a user, or a kind of them.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Named in records.
    pub name: Arc<str>,
    /// Its share of the requests, relative to the other callers'.
    pub weight: f64,
    /// Header fields of its requests.
    pub fields: Vec<(http::HeaderName, http::HeaderValue)>,
}

impl Caller {
    /// A caller of weight 1 whose requests have this header field.
    ///
    /// # Panics
    /// The field cannot be sent.
    pub fn new(name: &str, field: &str, value: &str) -> Self {
        Self {
            name: name.into(),
            weight: 1.0,
            fields: Vec::new(),
        }
        .with(field, value)
    }

    /// Its requests have another header field.
    ///
    /// # Panics
    /// The field cannot be sent.
    #[must_use]
    pub fn with(mut self, field: &str, value: &str) -> Self {
        let name = field.parse().expect("the name of a header field");
        let value = value.parse().expect("the value of a header field");
        self.fields.push((name, value));
        self
    }

    /// Sends this share of the requests, relative to the other callers'.
    #[must_use]
    pub fn weighing(self, weight: f64) -> Self {
        Self { weight, ..self }
    }
}

/// How gaps between requests are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    /// All gaps alike, targets in turn by their weights.
    Even,
    /// Poisson arrivals, targets at random by their weights.
    Poisson,
}

/// Traffic to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub targets: Vec<Target>,
    /// Who sends, at random by weight; nobody in particular when empty.
    pub callers: Vec<Caller>,
    /// Requests a second over all targets.
    pub rate: f64,
    /// How they are spaced.
    pub pacing: Pacing,
    /// Repeats the schedule.
    pub seed: u64,
    /// Method of every request.
    pub method: http::Method,
    /// `Host` of every request; the target's address when `None`.
    pub host: Option<String>,
    /// Path of every request.
    pub path: String,
    /// When a client gives up.
    pub timeout: Duration,
    /// Stop after so many.
    pub count: Option<u64>,
    /// Stop after so long.
    pub duration: Duration,
}

impl Load {
    /// 200 GETs a second in Poisson arrivals, for five minutes at most.
    pub fn new(targets: Vec<Target>) -> Self {
        Self {
            targets,
            callers: Vec::new(),
            rate: 200.0,
            pacing: Pacing::Poisson,
            seed: 1,
            method: http::Method::GET,
            host: None,
            path: "/".to_owned(),
            timeout: Duration::from_secs(10),
            count: None,
            duration: Duration::from_secs(300),
        }
    }

    /// Starts sending on the caller's runtime.
    pub fn start(self) -> Running {
        let records = Arc::new(Records::default());
        let stop = watch::Sender::new(false);
        let sender = tokio::spawn(send_all(self, records.clone(), stop.subscribe()));
        Running {
            records,
            stop,
            sender,
        }
    }
}

/// Traffic on its way. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    records: Arc<Records>,
    stop: watch::Sender<bool>,
    sender: JoinHandle<()>,
}

impl Running {
    /// Requests sent at or after `start` and answered by now, in sending order.
    pub fn since(&self, start: Instant) -> Vec<Record> {
        let mut records = self.records.from(0).0;
        records.retain(|record| record.at >= start);
        records.sort_by_key(|record| record.at);
        records
    }

    /// Requests answered at or after `start`, in order of completion. Cheap for
    /// a recent `start`.
    pub fn lately(&self, start: Instant) -> Vec<Record> {
        let records = self.records.lock();
        let first = records.partition_point(|record| record.at + record.latency < start);
        records[first..].to_vec()
    }

    /// Records in order of completion from `cursor` on, and the next cursor.
    pub fn next(&self, cursor: usize) -> (Vec<Record>, usize) {
        self.records.from(cursor)
    }

    /// Stops sending; the records stay.
    pub fn end(&self) {
        self.stop.send_replace(true);
    }

    /// Stops sending, waits for the outstanding and returns all records in
    /// sending order.
    pub async fn stop(self) -> Vec<Record> {
        self.end();
        self.finish().await
    }

    /// Waits until count or duration is reached and all are answered.
    pub async fn finish(mut self) -> Vec<Record> {
        // A panic of the sender shows in the records it did not make.
        let _ = (&mut self.sender).await;
        let mut records = std::mem::take(&mut *self.records.lock());
        records.sort_by_key(|record| record.at);
        records
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.sender.abort();
    }
}

/// Records so far, in order of completion. Bounded by [`Load`]'s own limits.
#[derive(Debug, Default)]
struct Records(Mutex<Vec<Record>>);

impl Records {
    fn push(&self, record: Record) {
        self.lock().push(record);
    }

    fn from(&self, cursor: usize) -> (Vec<Record>, usize) {
        let records = self.lock();
        (records[cursor.min(records.len())..].to_vec(), records.len())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send_all(load: Load, records: Arc<Records>, mut stop: watch::Receiver<bool>) {
    let clients: Vec<_> = load
        .targets
        .iter()
        .map(|target| Arc::new(Client::new(target, &load)))
        .collect();
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize));
    let mut schedule = Schedule::new(&load);
    let mut callers = Callers::new(&load);
    let end = Instant::now() + load.duration;
    for _ in 0..load.count.unwrap_or(u64::MAX) {
        let (due, target) = schedule.next();
        let caller = callers.pick();
        if due >= end {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            // Also when the handle is gone.
            _ = stop.changed() => break,
        }
        let client = clients[target].clone();
        let records = records.clone();
        match in_flight.clone().try_acquire_owned() {
            Ok(permit) => drop(tokio::spawn(async move {
                records.push(client.send(caller.as_ref()).await);
                drop(permit);
            })),
            Err(_) => records.push(client.overrun(caller.as_ref())),
        }
    }
    // Every client gives up by itself, so this ends.
    let _ = in_flight.acquire_many(MAX_IN_FLIGHT).await;
}

/// Who sends the next request.
struct Callers {
    callers: Vec<Arc<Caller>>,
    weights: Vec<f64>,
    random: Random,
}

impl Callers {
    fn new(load: &Load) -> Self {
        Self {
            callers: load.callers.iter().cloned().map(Arc::new).collect(),
            weights: load.callers.iter().map(|caller| caller.weight).collect(),
            // Not the schedule's: the same callers meet other gaps.
            random: Random::new(load.seed ^ 0x0CA1_1E25),
        }
    }

    fn pick(&mut self) -> Option<Arc<Caller>> {
        if self.callers.is_empty() {
            return None;
        }
        Some(self.callers[self.random.pick(&self.weights)].clone())
    }
}

/// When the next request leaves, and where to.
struct Schedule {
    due: Instant,
    gap: Duration,
    pacing: Pacing,
    random: Random,
    weights: Vec<f64>,
    /// What each target is owed, for even pacing.
    owed: Vec<f64>,
}

impl Schedule {
    fn new(load: &Load) -> Self {
        let weights: Vec<_> = load.targets.iter().map(|target| target.weight).collect();
        Self {
            due: Instant::now(),
            gap: Duration::from_secs_f64(1.0 / load.rate),
            pacing: load.pacing,
            random: Random::new(load.seed),
            owed: vec![0.0; weights.len()],
            weights,
        }
    }

    fn next(&mut self) -> (Instant, usize) {
        let (gap, target) = match self.pacing {
            Pacing::Even => (self.gap, self.most_owed()),
            Pacing::Poisson => (
                self.gap.mul_f64(self.random.exponential()),
                self.random.pick(&self.weights),
            ),
        };
        self.due += gap;
        (self.due, target)
    }

    /// Smooth weighted round robin.
    fn most_owed(&mut self) -> usize {
        let mut best = 0;
        for (index, weight) in self.weights.iter().enumerate() {
            self.owed[index] += weight;
            if self.owed[index] > self.owed[best] {
                best = index;
            }
        }
        self.owed[best] -= self.weights.iter().sum::<f64>();
        best
    }
}

#[cfg(test)]
mod tests;
