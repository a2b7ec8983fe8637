//! What makes the control side turn: a tick every slot, and every failure at once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use breaker_core::window::SLOT;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::fleet::control::Control;

/// Least time between two turns: a flood of failures must not become a busy
/// loop, and within it a local breaker loses nothing.
const MIN_TURN: Duration = Duration::from_millis(2);

/// The control side, shared by the tasks of its thread. Never held across an
/// await, never taken by a request.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<Control>>);

impl Shared {
    /// Shares it.
    pub fn new(control: Control) -> Self {
        Self(Arc::new(Mutex::new(control)))
    }

    /// Takes it. A panic of another task must not stop the agent.
    pub fn lock(&self) -> MutexGuard<'_, Control> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until it turns true. When its sender is gone, nobody is left to say so.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Turns until stopped.
pub async fn run(control: Shared, mut stop: watch::Receiver<bool>) {
    let wake = control.lock().wake.clone();
    let mut tick = interval(SLOT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = Instant::now();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = wake.notified() => sleep_until(last + MIN_TURN).await,
            () = stopped(&mut stop) => return,
        }
        last = Instant::now();
        let mut control = control.lock();
        let now = control.clock.now();
        control.turn(now);
    }
}
