//! The same outage with local breakers only: the same agents, told nothing by
//! anyone, as gateways without a control plane are.

use std::time::{Duration, Instant, SystemTime};

use crate::{
    backend::Behaviour,
    fleet::Agents,
    patience::until,
    scene::{self, Backends, OPEN, PAYMENTS_RATE, VICTIM},
};

/// What an outage cost while its backend stayed dead.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Requests that reached it before the agents stopped sending.
    pub reached: u64,
    /// From the onset to the moment when the last agent stopped.
    pub open_after: Duration,
    /// Requests that reached it in the first round of trials.
    pub trials: u64,
}

/// The moment when a backend broke, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Onset {
    /// For receipts and records.
    pub at: Instant,
    /// For what agents tell.
    pub wall: SystemTime,
}

impl Onset {
    /// Now.
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// By when every agent has stopped sending, and none has sent a trial: the
    /// first open period lasts [`OPEN`] ± 20 %.
    pub fn stopped_by(&self) -> Instant {
        self.at + OPEN.mul_f64(0.75)
    }

    /// By when every agent that tries has tried, and none twice.
    pub fn tried_by(&self) -> Instant {
        self.at + OPEN.mul_f64(1.5)
    }
}

impl Cost {
    /// Reads it from the backend's receipts and the agents' own account, after
    /// the first round of trials.
    ///
    /// # Errors
    /// An agent never stopped.
    pub async fn of(backends: &Backends, agents: &Agents, onset: Onset) -> anyhow::Result<Self> {
        let receipts = backends.east.receipts();
        Ok(Self {
            reached: receipts.between(onset.at, onset.stopped_by()) as u64,
            open_after: agents.all_open_after(VICTIM, onset.wall).await?,
            trials: receipts.between(onset.stopped_by(), onset.tried_by()) as u64,
        })
    }
}

/// Calm, outage, one round of trials.
///
/// # Errors
/// An agent does not start or does not serve.
pub async fn outage() -> anyhow::Result<Cost> {
    let backends = Backends::start().await?;
    let agents = Agents::alone(&backends.fleet_file())?;
    let traffic = scene::load(&agents.addresses(), "payments", PAYMENTS_RATE, 1).start();
    let calm = 2 * PAYMENTS_RATE as u64;
    until("calm traffic", || backends.east.receipts().count() >= calm).await?;
    let onset = Onset::now();
    backends.east.behave(Behaviour::status(503));
    until("a round of trials", || Instant::now() > onset.tried_by()).await?;
    drop(traffic);
    Cost::of(&backends, &agents, onset).await
}
