//! Everything the demonstration is made of, and the end-to-end tests too:
//! backends that do as they are told and traffic that keeps its schedule.

pub mod backend;
pub mod load;
pub mod random;
