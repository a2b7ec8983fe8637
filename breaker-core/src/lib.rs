//! Rampmeter's decisions, pure: state in, time in, decision out.
//!
//! Nothing here reads a clock, draws a random number, awaits, logs or
//! serialises. Time and randomness are arguments; the next deadline is a return
//! value. So every rule can be tested in virtual time, and every replica that
//! sees the same figures decides the same.

#![warn(missing_docs)]

pub mod blast;
pub mod breaker;
pub mod capacity;
pub mod evidence;
pub mod explain;
pub mod histogram;
pub mod ids;
pub mod outcome;
pub mod plan;
pub mod policy;
pub mod probing;
pub mod quota;
pub mod shed;
pub mod steering;
pub mod step;
pub mod throttle;
pub mod time;
pub mod trial;
pub mod vantage;
pub mod window;

pub use breaker::{Breaker, Circuit, Ramp, TrialLease, Version};
pub use evidence::{Baseline, Evidence, TripReason};
pub use ids::{AgentId, BackendName, PopId};
pub use outcome::{FailureKind, OutcomeClass};
pub use plan::Plan;
pub use policy::{BreakerPolicy, Mode};
pub use shed::{ByPriority, Mix, Priority};
pub use steering::Steering;
pub use throttle::{Load, Throttle};
pub use time::Timestamp;
pub use vantage::{FleetView, PopView, Verdict, Witness};
pub use window::{Counts, Window};
