//! Reports, bounded in what they may claim: only known backends, only counts that
//! an agent can have seen. Excess is cut and counted, the rest is kept.

use std::time::Duration;

use breaker_core::{AgentId, BackendName, Counts, PopId, Timestamp, Window, window::SLOT};
use rampmeter_api::{
    convert::{duration_up_to, histogram},
    v1,
};

use super::{Figures, OfAgent, OfBackend, Rates, SPAN, load::directed, rates::Demand, seconds};

/// Most requests of one agent for one backend in one slot: a million a second.
pub(super) const SLOT_LIMIT: u32 = 1_000_000 / 50;

/// Most requests of one agent for one backend over ten seconds: half a million a
/// second, more than a gateway with dozens of cores forwards.
pub(super) const BUDGET: u64 = 5_000_000;

/// Most requests of one agent in one report, over everything: ten seconds of a
/// million.
pub(super) const COUNT_LIMIT: u64 = 10_000_000;

/// Oldest slot that counts, in milliseconds.
pub(super) const AGE_LIMIT_MS: u32 = 10_000;

/// Slots of a backend in one report: every one that is young enough.
const SLOTS_LIMIT: usize = AGE_LIMIT_MS as usize / SLOT.as_millis() as usize + 1;

/// The backend's own Retry-After is believed up to here (decisions.md §4).
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(300);

/// What became of a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Intake {
    /// Backends that saw trouble: decide at once.
    pub urgent: Vec<BackendName>,
    /// Of those, backends that refused requests while a throttle may meter them:
    /// what others saw is needed, too.
    pub overloaded: Vec<BackendName>,
    /// Names that are no backends of ours.
    pub unknown: Noted,
    /// Figures that were cut.
    pub cut: Noted,
}

/// How often something happened, and the first case in words: a hostile report
/// can hold thousands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// How often.
    pub count: u64,
    /// The first case; empty if there was none.
    pub first: String,
}

impl Noted {
    pub(super) fn note(&mut self, words: impl FnOnce() -> String) {
        self.count += 1;
        if self.count == 1 {
            self.first = words();
        }
    }
}

impl Figures {
    /// Takes in one agent's report, received at `now`.
    pub fn record(
        &self,
        agent: &AgentId,
        pop: &PopId,
        report: &v1::Report,
        known: impl Fn(&BackendName) -> bool,
        now: Timestamp,
    ) -> Intake {
        let mut intake = Intake::default();
        let mut backends = self.lock();
        for wire in &report.backends {
            let name = BackendName::parse(&wire.backend).ok().filter(|n| known(n));
            let Some(name) = name else {
                intake
                    .unknown
                    .note(|| wire.backend.chars().take(80).collect());
                continue;
            };
            let of_backend = backends.entry(name.clone()).or_default();
            if of_backend.record(agent, pop, wire, now, &mut intake.cut) {
                if wire.slots.iter().any(|slot| slot.overloads > 0) {
                    intake.overloaded.push(name.clone());
                }
                intake.urgent.push(name);
            }
        }
        intake
    }
}

impl OfBackend {
    /// Whether there was trouble.
    fn record(
        &mut self,
        agent: &AgentId,
        pop: &PopId,
        wire: &v1::BackendReport,
        now: Timestamp,
        cut: &mut Noted,
    ) -> bool {
        let of_agent = self.agents.entry(agent.clone()).or_insert_with(|| OfAgent {
            pop: pop.clone(),
            window: Window::default(),
            metered: Window::default(),
            rates: Rates::default(),
            budget: (BUDGET, now),
            in_flight: 0,
            heard: now,
        });
        if of_agent.pop != *pop {
            of_agent.pop = pop.clone();
        }
        of_agent.heard = now;
        of_agent.in_flight = u64::from(wire.in_flight);
        of_agent.rates.record(now, demand(wire, cut));
        let trouble = of_agent.record_slots(wire, now, cut);
        of_agent.record_metered(wire, now, cut);
        self.record_latency(wire, now, cut);
        self.record_retry_after(wire, now);
        trouble
    }

    fn record_latency(&mut self, wire: &v1::BackendReport, now: Timestamp, cut: &mut Noted) {
        let Some(sent) = &wire.latency else { return };
        let buckets = match histogram::from_histogram(sent) {
            Ok(buckets) => buckets,
            Err(error) => return cut.note(|| format!("{}: {error}", wire.backend)),
        };
        if self
            .latency
            .back()
            .is_none_or(|(second, _)| *second < seconds(now))
        {
            self.latency
                .push_back((seconds(now), histogram::Buckets::new()));
        }
        while self.latency.len() > SPAN.as_secs() as usize {
            self.latency.pop_front();
        }
        if let Some((_, sum)) = self.latency.back_mut() {
            for (bucket, count) in buckets {
                *sum.entry(bucket).or_default() += count.min(COUNT_LIMIT);
            }
        }
    }

    fn record_retry_after(&mut self, wire: &v1::BackendReport, now: Timestamp) {
        let sent = wire.max_retry_after.as_ref();
        let wait = match duration_up_to("max_retry_after", sent, RETRY_AFTER_LIMIT) {
            Ok(wait) => wait,
            // Longer than is believed.
            Err(_) if sent.is_some_and(|d| d.seconds > 0) => RETRY_AFTER_LIMIT,
            Err(_) => return,
        };
        let held = self
            .retry_after
            .filter(|(at, held)| *held > wait && now.since(*at) <= SPAN);
        self.retry_after = held.or((!wait.is_zero()).then_some((now, wait)));
    }
}

impl OfAgent {
    /// What the agent may still claim: [`BUDGET`] over [`SPAN`].
    pub(super) fn left(&mut self, now: Timestamp) -> u32 {
        let (left, at) = self.budget;
        let earned = now.since(at).as_millis() as u64 * BUDGET / SPAN.as_millis() as u64;
        self.budget = (left.saturating_add(earned).min(BUDGET), now);
        u32::try_from(self.budget.0).unwrap_or(u32::MAX)
    }

    fn record_slots(&mut self, wire: &v1::BackendReport, now: Timestamp, cut: &mut Noted) -> bool {
        let mut trouble = false;
        if wire.slots.len() > SLOTS_LIMIT {
            let slots = wire.slots.len();
            cut.note(|| {
                format!(
                    "{}: {slots} slots: at most {SLOTS_LIMIT} count",
                    wire.backend
                )
            });
        }
        for slot in wire.slots.iter().rev().take(SLOTS_LIMIT) {
            if slot.age_ms > AGE_LIMIT_MS {
                let age = slot.age_ms;
                cut.note(|| {
                    format!(
                        "{}: age_ms {age}: at most {AGE_LIMIT_MS} counts",
                        wire.backend
                    )
                });
                continue;
            }
            let left = self.left(now);
            let counts = counts(&wire.backend, slot, left, cut);
            self.budget.0 -= counts.requests;
            trouble |= counts.failures + counts.overloads + counts.slow > 0;
            let at = now - Duration::from_millis(u64::from(slot.age_ms));
            self.window.record(at, counts);
        }
        trouble
    }
}

/// Counts that can be true: failures and overloads are among the requests.
fn counts(backend: &str, slot: &v1::Slot, left: u32, cut: &mut Noted) -> Counts {
    let requests = slot.requests.min(SLOT_LIMIT).min(left);
    let failures = slot.failures.min(requests);
    let overloads = slot.overloads.min(requests - failures);
    let slow = slot.slow_calls.min(requests);
    let kept = (requests, failures, overloads, slow);
    let said = (
        slot.requests,
        slot.failures,
        slot.overloads,
        slot.slow_calls,
    );
    if kept != said {
        cut.note(|| format!(
            "{backend}: requests, failures, overloads, slow calls of one slot {said:?} cut to {kept:?}"
        ));
    }
    Counts {
        requests: u64::from(requests),
        failures: u64::from(failures),
        overloads: u64::from(overloads),
        slow: u64::from(slow),
    }
}

fn demand(wire: &v1::BackendReport, cut: &mut Noted) -> Demand {
    let refused = wire.rejections.unwrap_or_default();
    let reasons = [
        refused.open,
        refused.ramp,
        refused.local,
        refused.limit,
        refused.r#override,
        refused.throttle,
    ];
    let said = reasons.into_iter().fold(0, u64::saturating_add);
    let wanted = wire.demand.min(COUNT_LIMIT);
    let rejected = said.min(COUNT_LIMIT);
    if (wanted, rejected) != (wire.demand, said) {
        cut.note(|| {
            format!(
                "{}: demand {} and rejections {said} cut to {COUNT_LIMIT}",
                wire.backend, wire.demand
            )
        });
    }
    Demand {
        wanted,
        idempotent: wire.idempotent_demand.min(wanted),
        rejected,
        directed: directed(wire, wanted, cut),
    }
}
