//! The other side: connections to endpoints, one request's exchange with one of
//! them, and what its outcome says about the backend.

pub(crate) mod classify;
pub(crate) mod cost;
pub(crate) mod dial;
pub(crate) mod ejection;
pub(crate) mod endpoints;
pub(crate) mod exchange;
pub(crate) mod failure;
pub(crate) mod forward;
pub(crate) mod kept;
pub(crate) mod lent;
pub(crate) mod patience;
pub(crate) mod pool;
pub(crate) mod reach;
pub(crate) mod relay;
pub(crate) mod retry;
pub(crate) mod standing;
pub(crate) mod tls;
pub(crate) mod upkeep;
pub(crate) mod upload;
pub(crate) mod upstream;
pub(crate) mod watchdog;
