//! Hints that something changed.

use breaker_core::{BackendName, ids::ServiceName};
use tokio::sync::broadcast;

use super::About;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// This backend's record, or its events.
    Backend(BackendName),
    /// This service's record, or its events.
    Service(ServiceName),
    /// The fleet file.
    Config,
    /// The fleet's own events.
    Events,
    /// Hints were missed: look at everything.
    Everything,
}

impl From<About> for Hint {
    fn from(about: About) -> Self {
        match about {
            About::Fleet => Self::Events,
            About::Backend(name) => Self::Backend(name),
            About::Service(name) => Self::Service(name),
        }
    }
}

/// A subscription to hints.
#[derive(Debug)]
pub struct Hints(pub(super) broadcast::Receiver<Hint>);

impl Hints {
    /// The next hint; waits for ever once the store is gone. Cancel safe.
    pub async fn next(&mut self) -> Hint {
        match self.0.recv().await {
            Ok(hint) => hint,
            Err(broadcast::error::RecvError::Lagged(_)) => Hint::Everything,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
