//! What is reported when: outcomes in 20 ms slots, once a second when calm, ten
//! times when hot, and at once after a failure. Pure: time is an argument.

use std::{collections::VecDeque, time::Duration};

use breaker_core::{Counts, Timestamp, histogram::BUCKETS, window::SLOT};
use rampmeter_api::{
    convert::{duration, histogram},
    v1,
};

use crate::admit::recorder::{Counters, Tally};

/// Deltas older than this are dropped: the control plane's window does not
/// reach further back, and a buffer must end somewhere.
pub const MAX_AGE: Duration = Duration::from_secs(10);

/// Largest report, encoded (the wire's limit is 256 KiB; the rest is framing).
pub const MAX_REPORT_BYTES: usize = 255 * 1024;

/// After a failure, reports are hot for as long.
const HOT_FOR: Duration = Duration::from_secs(10);

/// After the control plane asked, reports are prompt for as long, one a slot,
/// whether or not there is something to say: silence would say too much.
const PROMPT_FOR: Duration = Duration::from_secs(1);

/// Expedited reports are never closer than a slot.
const MIN_GAP: Duration = SLOT;

/// Expedited reports a second, in the long run.
const URGENT_RATE: f64 = 10.0;

/// Expedited reports at once.
const URGENT_BURST: f64 = 5.0;

/// Latencies by bucket, since the start.
pub type Latencies = [u64; BUCKETS];

/// Counts that are not yet reported, by slot number, oldest first.
#[derive(Debug, Default)]
pub struct Slots(VecDeque<(u64, Counters)>);

impl Slots {
    /// Adds what was counted in the slot of `now`.
    pub fn add(&mut self, now: Timestamp, delta: &Counters) {
        let index = now.as_millis() / SLOT.as_millis() as u64;
        match self.0.back_mut() {
            Some((last, counters)) if *last == index => counters.add(delta),
            _ => self.0.push_back((index, *delta)),
        }
        self.expire(now);
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all of it, each slot with its age.
    pub fn take(&mut self, now: Timestamp) -> impl ExactSizeIterator<Item = (Duration, Counters)> {
        self.expire(now);
        let slots = std::mem::take(&mut self.0).into_iter();
        slots.map(move |(index, counters)| (now.since(start(index)), counters))
    }

    /// Drops what is too old to tell.
    fn expire(&mut self, now: Timestamp) {
        while let Some((index, _)) = self.0.front() {
            if now.since(start(*index)) <= MAX_AGE {
                break;
            }
            self.0.pop_front();
        }
    }
}

/// When something is reported: once a second when calm, ten times when hot, and
/// at once what cannot wait.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rhythm {
    urgent: bool,
    hot_until: Timestamp,
    prompt_until: Timestamp,
    sent: Timestamp,
}

impl Rhythm {
    /// Something went wrong: hot for a while.
    pub fn heat(&mut self, now: Timestamp) {
        self.hot_until = now + HOT_FOR;
    }

    /// Something went wrong lately.
    pub fn is_hot(&self, now: Timestamp) -> bool {
        now < self.hot_until
    }

    /// Tell at once.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Something waits to be told at once.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// The control plane asks: prompt from here on.
    pub fn asked(&mut self, now: Timestamp) {
        self.prompt_until = now + PROMPT_FOR;
        self.hot_until = now + HOT_FOR;
    }

    /// The control plane asked a moment ago.
    pub fn is_prompt(&self, now: Timestamp) -> bool {
        now < self.prompt_until
    }

    /// Whether the turn has come, urgency aside. `calm`: all is well.
    pub fn is_due(&self, now: Timestamp, calm: bool, intervals: (Duration, Duration)) -> bool {
        if self.is_prompt(now) {
            return now.since(self.sent) >= SLOT;
        }
        let interval = match calm && !self.is_hot(now) {
            true => intervals.0,
            false => intervals.1,
        };
        now.since(self.sent) >= interval
    }

    /// When it was last told.
    pub fn told_at(&self) -> Timestamp {
        self.sent
    }

    /// It is told.
    pub fn told(&mut self, now: Timestamp) {
        self.urgent = false;
        self.sent = now;
    }
}

/// What of one backend is not yet reported.
#[derive(Debug)]
pub struct Pending {
    slots: Slots,
    rhythm: Rhythm,
    max_retry_after: Duration,
    /// What was reported last, and when.
    latencies: Box<Latencies>,
    latencies_sent: Timestamp,
}

/// What is reported beside the counts.
#[derive(Debug, Clone, Copy)]
pub struct Gauges {
    /// Requests in flight.
    pub in_flight: u32,
    /// State of the local breaker.
    pub local_state: v1::BreakerState,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            rhythm: Rhythm::default(),
            max_retry_after: Duration::ZERO,
            latencies: Box::new([0; BUCKETS]),
            latencies_sent: Timestamp::default(),
        }
    }
}

impl Pending {
    /// Adds what was counted in the slot of `now`.
    pub fn add(&mut self, now: Timestamp, delta: &Counters, retry_after: Duration) {
        self.slots.add(now, delta);
        self.max_retry_after = self.max_retry_after.max(retry_after);
        if is_bad(delta) {
            self.rhythm.hurry();
            self.rhythm.heat(now);
        }
    }

    /// The state changed: tell at once.
    pub fn hurry(&mut self) {
        self.rhythm.hurry();
    }

    /// The control plane asks what was seen: told within a slot, and promptly from
    /// here on.
    pub fn asked(&mut self, now: Timestamp) {
        self.rhythm.asked(now);
    }

    /// Something waits to be told at once.
    pub fn is_urgent(&self) -> bool {
        self.rhythm.is_urgent()
    }

    /// Whether its turn has come, urgency aside. `closed`: its effective state
    /// is CLOSED with full admission.
    pub fn is_due(&self, now: Timestamp, closed: bool, calm: Duration, hot: Duration) -> bool {
        let anything = !self.slots.is_empty() || self.rhythm.is_prompt(now);
        anything && self.rhythm.is_due(now, closed, (calm, hot))
    }

    /// When it is time for a latency histogram again.
    pub fn wants_latencies(&self, now: Timestamp, calm: Duration) -> bool {
        now.since(self.latencies_sent) >= calm
    }

    /// Takes all of it as a report.
    pub fn take(
        &mut self,
        backend: &str,
        gauges: Gauges,
        latencies: Option<&Latencies>,
        now: Timestamp,
    ) -> v1::BackendReport {
        let mut sum = Counters::default();
        let taken = self.slots.take(now);
        let mut slots = Vec::with_capacity(taken.len());
        for (age, counters) in taken {
            sum.add(&counters);
            slots.extend(slot(age, &counters));
        }
        self.rhythm.told(now);
        let retry_after = std::mem::take(&mut self.max_retry_after);
        v1::BackendReport {
            backend: backend.to_owned(),
            slots,
            failures: Some(failures(&sum)),
            demand: sum.get(Tally::Demand),
            idempotent_demand: sum.get(Tally::IdempotentDemand),
            rejections: Some(rejections(&sum)),
            retries: 0,
            in_flight: gauges.in_flight,
            queue_depth: 0,
            max_retry_after: (!retry_after.is_zero()).then(|| duration(retry_after)),
            latency: latencies.and_then(|now_at| self.take_latencies(now_at, now)),
            local_state: gauges.local_state.into(),
            client_gone: sum.get(Tally::ClientGone),
            directed: Some(sum.wanted().into()),
        }
    }

    fn take_latencies(&mut self, latencies: &Latencies, now: Timestamp) -> Option<v1::Histogram> {
        let before = self.latencies.iter();
        let grown = latencies
            .iter()
            .zip(before)
            .enumerate()
            .filter_map(|(i, (now, then))| {
                let count = now.wrapping_sub(*then);
                (count > 0).then_some((i as u32, count))
            });
        let grown: histogram::Buckets = grown.collect();
        self.latencies.copy_from_slice(latencies);
        self.latencies_sent = now;
        let (index_deltas, counts) = histogram::sparse(&grown);
        (!counts.is_empty()).then_some(v1::Histogram {
            index_deltas,
            counts,
        })
    }
}

/// Outcomes as the breaker counts them.
pub fn outcomes(counters: &Counters) -> Counts {
    Counts {
        requests: counters.completed(),
        failures: counters.failed(),
        overloads: counters.get(Tally::Overload),
        slow: counters.get(Tally::Slow),
    }
}

fn is_bad(delta: &Counters) -> bool {
    let counts = outcomes(delta);
    counts.failures + counts.overloads + counts.slow > 0
}

fn start(index: u64) -> Timestamp {
    Timestamp::from_millis(index * SLOT.as_millis() as u64)
}

/// A slot, unless nothing completed in it.
fn slot(age: Duration, counters: &Counters) -> Option<v1::Slot> {
    let counts = outcomes(counters);
    let short = |count| u32::try_from(count).unwrap_or(u32::MAX);
    (counts.requests > 0).then(|| v1::Slot {
        age_ms: age.min(MAX_AGE).as_millis() as u32,
        requests: short(counts.requests),
        failures: short(counts.failures),
        overloads: short(counts.overloads),
        slow_calls: short(counts.slow),
    })
}

fn failures(sum: &Counters) -> v1::FailureCounts {
    v1::FailureCounts {
        connect: sum.get(Tally::Connect),
        timeout: sum.get(Tally::Timeout),
        reset: sum.get(Tally::Reset),
        http_5xx: sum.get(Tally::Http5xx),
        grpc: sum.get(Tally::Grpc),
    }
}

fn rejections(sum: &Counters) -> v1::Rejections {
    v1::Rejections {
        open: sum.get(Tally::RefusedOpen) + sum.get(Tally::RefusedHalfOpen),
        ramp: sum.get(Tally::RefusedRamp),
        local: sum.get(Tally::RefusedLocal),
        limit: sum.get(Tally::RefusedLimit),
        r#override: sum.get(Tally::RefusedOverride),
        throttle: sum.get(Tally::RefusedThrottle),
    }
}

/// The budget of expedited reports: a token bucket with a least distance.
#[derive(Debug)]
pub struct Pace {
    tokens: f64,
    filled: Timestamp,
    last: Option<Timestamp>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tokens: URGENT_BURST,
            filled: Timestamp::default(),
            last: None,
        }
    }
}

impl Pace {
    /// Whether an expedited report may go now; if so, it is paid for.
    pub fn allow(&mut self, now: Timestamp) -> bool {
        let earned = now.since(self.filled).as_secs_f64() * URGENT_RATE;
        self.tokens = (self.tokens + earned).min(URGENT_BURST);
        self.filled = self.filled.max(now);
        let apart = self.last.is_none_or(|last| now.since(last) >= MIN_GAP);
        let allowed = apart && self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
            self.last = Some(now);
        }
        allowed
    }
}
