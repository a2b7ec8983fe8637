//! Tests of several parts at once, through their doors.

pub(crate) mod agent;
mod apply;
pub(crate) mod control;
mod handover;
pub(crate) mod pki;
mod probing;
mod proxy;
mod stream;
mod telling;
