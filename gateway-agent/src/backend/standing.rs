//! Clients that ask for a long response and then take none of it. Each keeps an
//! upstream connection, so a few of them could keep everybody else from the
//! backend. When no connection is left, the one that has stood still for longest
//! makes room.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use crate::backend::relay::{Relay, Shared};

/// For a slow link to take what is on its way; who takes nothing for longer makes
/// room if somebody waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// The long responses of one pool.
#[derive(Debug, Default)]
pub(crate) struct Responses(RefCell<Vec<Weak<RefCell<Relay>>>>);

impl Responses {
    pub(crate) fn add(&self, relay: &Shared) {
        self.0.borrow_mut().push(Rc::downgrade(relay));
    }

    /// Forgets those that are over.
    pub(crate) fn sweep(&self) {
        self.0.borrow_mut().retain(|relay| relay.strong_count() > 0);
    }

    /// Ends the one whose client has stood still for longest, if that is long.
    pub(crate) fn evict_one(&self, now: Instant) -> bool {
        self.sweep();
        let responses = self.0.borrow();
        let since = |relay: &Weak<RefCell<Relay>>| {
            let relay = relay.upgrade()?;
            let since = relay.try_borrow().ok()?.stands_since()?;
            (since + PATIENCE <= now).then_some((since, relay))
        };
        let longest = responses.iter().filter_map(since);
        let longest = longest.min_by_key(|(since, _)| *since);
        if let Some((_, relay)) = &longest {
            relay.borrow_mut().evict();
        }
        longest.is_some()
    }
}
