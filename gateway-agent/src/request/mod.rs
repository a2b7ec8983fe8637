//! One request's way on our side: read one way only, routed, passed on to a
//! backend or answered by us. `proxy.rs` is the thread through it.

pub(crate) mod answer;
pub(crate) mod attempts;
pub(crate) mod body;
mod deadline;
mod drill;
pub(crate) mod headers;
pub(crate) mod intake;
pub(crate) mod path;
pub(crate) mod proxy;
pub(crate) mod ranking;
pub(crate) mod rejection;
pub(crate) mod retries;
pub(crate) mod router;
pub(crate) mod upgrade;
