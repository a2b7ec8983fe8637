//! Active health checks. The control plane says which endpoints this agent
//! probes, a few of all, and what the fleet's probers found together; an agent
//! alone probes every endpoint itself and believes itself. It all runs on the
//! control thread; a request only reads which endpoints to leave out.

pub mod ask;
pub(crate) mod control;
pub(crate) mod findings;
pub mod prober;

use std::collections::BTreeSet;

/// Endpoints of one backend that take no requests, as the fleet file writes them.
/// Swapped whole.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unhealthy(pub(crate) BTreeSet<String>);
