//! Answers as people read them. Pure: what is shown depends on the message, the
//! time and whether there is colour.

pub(crate) mod agents;
pub(crate) mod backends;
pub(crate) mod candidate;
pub(crate) mod changes;
pub(crate) mod drills;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod plans;
pub(crate) mod services;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

/// What a view needs besides its message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Eye {
    pub(crate) now: SystemTime,
    pub(crate) colour: bool,
}
