//! Fleet quotas: each agent of this replica gets a part of the rate of each
//! service that has one, in proportion to its demand, as a lease that it must hear
//! renewed. Replicas split the rate between them by what they tell each other.
//!
//! The leases in force add up to the rate also while agents come, go and are cut
//! off. A lease runs out as soon as its agent was not heard of for [`VALID`], so
//! that both ends know it; from then on the agent sends what it may send alone, and
//! that is taken off before the rest is split. Who went away in order leaves its
//! part to the others at once. And a replica takes a larger part only when the
//! others have had time to see why.
//!
//! [`VALID`]: granting::VALID

mod granting;
mod shown;
mod slot;
mod telling;

pub use granting::run;
pub use shown::{Quotas, Views, status, write};
pub use slot::{Lease, Slot};
pub use telling::News;
