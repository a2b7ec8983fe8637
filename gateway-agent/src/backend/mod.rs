//! The other side: connections to endpoints, one request's exchange with one of
//! them, and what its outcome says about the backend.

pub(crate) mod classify;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod kept;
pub(crate) mod lent;
pub(crate) mod pool;
pub(crate) mod relay;
pub(crate) mod retry;
pub(crate) mod upload;
pub(crate) mod upstream;
pub(crate) mod watchdog;
