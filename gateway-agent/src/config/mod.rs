//! Where an agent's configuration comes from, and what it keeps on disk to start
//! without the control plane.

pub mod alone;
pub mod configuration;
pub mod host;
pub mod memory;
pub mod state_dir;
