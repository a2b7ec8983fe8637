//! Clients that mean harm: requests that are two, floods, bombs, and people who
//! hold on to what they have. Each accident that others had is a test of its name.

mod accidents;
mod desync;
mod downgrade;
mod floods;
mod limits;
mod raw_h2;
mod recorder;
