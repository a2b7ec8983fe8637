//! The story, act by act: calm, outage, heal, half-open, ramp, calm; and what
//! it measures on the way.

use std::time::{Duration, Instant};

use rampmeter_api::v1::{BreakerState, EventKind};

use crate::{
    backend::Behaviour,
    load::Record,
    local::{Cost, Onset},
    scene::{BOUND_POP, PAYMENTS_RATE, RAMP, VICTIM},
    stage::Stage,
    verdict::Check,
    view::human,
};

/// A second of the ramp may hold so much more than its admission allows.
const RAMP_TOLERANCE: f64 = 0.2;

/// Admission at which every ramp starts.
const RAMP_FLOOR: f64 = 0.1;

const SECOND: Duration = Duration::from_secs(1);

/// What the fleet did.
#[derive(Debug, Clone)]
pub struct Figures {
    /// While the backend was dead.
    pub cost: Cost,
    /// Half-open rounds while it was dead.
    pub rounds: u64,
    /// Trials it got in them.
    pub trials: u64,
    /// Clients of payments that got an error from start to end.
    pub failed: u64,
    /// The same for POPs with another region, after every agent knew.
    pub failed_elsewhere: u64,
    /// Clients of search that got an error.
    pub search_failed: u64,
    /// Refusals, and their median wait.
    pub refusals: u64,
    /// See above.
    pub refusal_wait: Duration,
    /// Refusals without Retry-After.
    pub without_retry_after: u64,
    /// From the heal to the breaker's closing.
    pub heal_to_closed: Duration,
    /// From the heal to full admission.
    pub heal_to_full: Duration,
    /// The most by which a second of the ramp exceeded its admission, 0 for not at all.
    pub ramp_excess: f64,
}

/// When things happened.
struct Moments {
    onset: Onset,
    healed: Instant,
    closed: Instant,
    full: Instant,
}

/// Plays the whole story.
///
/// # Errors
/// An act does not come to its end.
pub async fn play(stage: &mut Stage) -> anyhow::Result<Figures> {
    let calm = 3 * PAYMENTS_RATE as u64;
    stage.view.tell(format!(
        "clients send {PAYMENTS_RATE:.0} requests/s for payments: calm"
    ));
    stage
        .until("calm traffic", |stage| {
            stage.backends.east.receipts().count() >= calm
        })
        .await?;

    stage
        .view
        .tell("payments/us-east starts to answer 503 to everything");
    let onset = Onset::now();
    let broken = onset.at;
    stage.backends.east.behave(Behaviour::status(503));
    stage
        .until("OPEN", |stage| {
            stage.reached(BreakerState::Open, broken).is_some()
        })
        .await?;
    stage
        .until("every agent refuses", |_| {
            Instant::now() >= onset.stopped_by()
        })
        .await?;
    let open_after = stage
        .fleet
        .agents
        .all_open_after(VICTIM, onset.wall)
        .await?;
    stage.view.tell(format!(
        "the last of {} agents stopped sending {} after the onset; {} requests had reached it",
        stage.fleet.agents.iter().count(),
        human(open_after),
        stage
            .backends
            .east
            .receipts()
            .between(broken, onset.stopped_by()),
    ));
    stage
        .until("a trial fails", |stage| {
            stage.happened(EventKind::TrialFailed, broken).is_some()
        })
        .await?;
    stage
        .until("the round is over", |_| Instant::now() > onset.tried_by())
        .await?;
    let cost = Cost::of(&stage.backends, &stage.fleet.agents, onset).await?;

    stage
        .view
        .tell("payments/us-east is healed, and nobody has told the fleet");
    let healed = Instant::now();
    stage.backends.east.behave(Behaviour::ok());
    stage
        .until("CLOSED", |stage| {
            stage.reached(BreakerState::Closed, healed).is_some()
        })
        .await?;
    let closed = stage
        .reached(BreakerState::Closed, healed)
        .unwrap_or(healed);
    stage.view.tell(format!(
        "admission rises from 10 % over {}, everywhere alike",
        human(RAMP)
    ));
    stage
        .until("full admission", |stage| {
            stage.happened(EventKind::RampFinished, closed).is_some()
        })
        .await?;
    let full = stage
        .happened(EventKind::RampFinished, closed)
        .unwrap_or(closed);
    stage
        .until("calm again", |_| full.elapsed() >= SECOND)
        .await?;
    stage.view.tell("calm again");
    Ok(figures(
        stage,
        cost,
        &Moments {
            onset,
            healed,
            closed,
            full,
        },
    ))
}

fn figures(stage: &Stage, cost: Cost, moments: &Moments) -> Figures {
    let payments = stage.payments.since(moments.onset.at);
    let search = stage.search.since(moments.onset.at);
    let knew = moments.onset.stopped_by();
    let elsewhere = payments
        .iter()
        .filter(|r| r.at >= knew && !r.target.starts_with(BOUND_POP));
    let mut waits: Vec<_> = payments
        .iter()
        .filter(|r| r.is_refused())
        .map(|r| r.latency)
        .collect();
    waits.sort();
    let failed = |records: &[Record]| records.iter().filter(|r| r.is_failed()).count() as u64;
    let rounds = stage
        .events
        .iter()
        .filter(|(at, event)| *at < moments.healed && event.to_state() == BreakerState::HalfOpen);
    Figures {
        cost,
        rounds: rounds.count() as u64,
        trials: stage.backends.east.receipts().between(knew, moments.healed) as u64,
        failed: failed(&payments),
        failed_elsewhere: elsewhere.filter(|r| !r.is_served()).count() as u64,
        search_failed: search.iter().filter(|r| !r.is_served()).count() as u64,
        refusals: waits.len() as u64,
        refusal_wait: waits.get(waits.len() / 2).copied().unwrap_or_default(),
        without_retry_after: payments
            .iter()
            .filter(|r| r.is_refused() && r.retry_after.is_none())
            .count() as u64,
        heal_to_closed: moments.closed - moments.healed,
        heal_to_full: moments.full - moments.healed,
        ramp_excess: ramp_excess(stage, &payments, moments.closed),
    }
}

/// Over every second of the ramp, a tenth apart: how much more reached the
/// backend than the admission at the second's end allows.
fn ramp_excess(stage: &Stage, payments: &[Record], closed: Instant) -> f64 {
    let excess = |tenth: u64| {
        let start = closed + Duration::from_millis(tenth * 100);
        let wanted = payments
            .iter()
            .filter(|r| r.at >= start && r.at < start + SECOND)
            .count() as f64;
        let end = (tenth as f64 / 10.0 + 1.0) / RAMP.as_secs_f64();
        let allowed = wanted * end.clamp(RAMP_FLOOR, 1.0);
        stage
            .backends
            .east
            .receipts()
            .between(start, start + SECOND) as f64
            / allowed.max(1.0)
            - 1.0
    };
    (0..RAMP.as_secs() * 10).map(excess).fold(0.0, f64::max)
}

impl Figures {
    /// The promises, each with its limit. `alone` is what local breakers did.
    pub fn checks(&self, alone: &Cost) -> Vec<Check> {
        let ms = Duration::from_millis;
        vec![
            Check::at_most(
                "requests that reached the dead backend",
                self.cost.reached,
                25,
            ),
            Check::within(
                "from the onset to the last agent's opening",
                self.cost.open_after,
                ms(250),
            ),
            Check {
                limit: format!("< {}", alone.reached),
                ..Check::at_most(
                    "fewer than with local breakers",
                    self.cost.reached,
                    alone.reached.saturating_sub(1),
                )
            },
            Check::exactly(
                "trials it got while dead, one for each round",
                self.trials,
                self.rounds,
            ),
            Check::at_most(
                "clients that noticed where another region could serve (trials)",
                self.failed_elsewhere,
                self.trials,
            ),
            Check::exactly(
                "clients of the other service that noticed",
                self.search_failed,
                0,
            ),
            Check::within(
                "wait of a refused client (median)",
                self.refusal_wait,
                ms(2),
            ),
            Check::exactly("refusals without Retry-After", self.without_retry_after, 0),
            Check::share_at_most(
                "excess over the ramp in any second",
                self.ramp_excess,
                RAMP_TOLERANCE,
            ),
        ]
    }
}
