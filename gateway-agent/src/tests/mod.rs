//! Tests of several parts at once, through their doors.

mod agent;
mod apply;
pub(crate) mod control;
mod proxy;
mod stream;
