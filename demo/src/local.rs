//! The same outage with local breakers only: the same agents, told nothing by
//! anyone, as gateways without a control plane are.

use std::time::{Duration, Instant};

use crate::{
    backend::Behaviour,
    fleet::Alone,
    patience::until,
    scene::{self, Backends, OPEN, PAYMENTS_RATE},
};

/// What an outage cost while its backend stayed dead.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Requests that reached it before the agents stopped sending.
    pub reached: u64,
    /// From the first of them to the last.
    pub spread: Duration,
    /// Requests that reached it in the first round of trials.
    pub trials: u64,
}

impl Cost {
    /// Reads it from the backend's receipts. The first open period lasts
    /// [`OPEN`] ± 20 %: what came before three quarters of it came before the
    /// agents stopped, what came in the time of another was a trial.
    pub fn of(backends: &Backends, broken: Instant) -> Self {
        let early = backends.east.receipts().between(broken, stopped_by(broken));
        let receipts = &backends.east.receipts().since(broken)[..];
        let spread = match &receipts[..early.min(receipts.len())] {
            [first, .., last] => last.at - first.at,
            _ => Duration::ZERO,
        };
        let trials = backends
            .east
            .receipts()
            .between(stopped_by(broken), tried_by(broken));
        Self {
            reached: early as u64,
            spread,
            trials: trials as u64,
        }
    }
}

/// By when every agent has stopped sending, and none has sent a trial.
pub fn stopped_by(broken: Instant) -> Instant {
    broken + OPEN.mul_f64(0.75)
}

/// By when every agent that tries has tried, and none twice.
fn tried_by(broken: Instant) -> Instant {
    broken + OPEN.mul_f64(1.5)
}

/// Calm, outage, one round of trials.
///
/// # Errors
/// An agent does not start or does not serve.
pub async fn outage() -> anyhow::Result<Cost> {
    let backends = Backends::start().await?;
    let fleet = Alone::start(&backends.fleet_file()).await?;
    let traffic = scene::load(&fleet.addresses(), "payments", PAYMENTS_RATE, 1).start();
    let calm = 2 * PAYMENTS_RATE as u64;
    until("calm traffic", || backends.east.receipts().count() >= calm).await?;
    let broken = Instant::now();
    backends.east.behave(Behaviour::status(503));
    until("a round of trials", || Instant::now() > tried_by(broken)).await?;
    drop(traffic);
    Ok(Cost::of(&backends, broken))
}
