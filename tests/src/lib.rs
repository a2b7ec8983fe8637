//! What the end-to-end tests share: Rampmeter's own binaries as child
//! processes, a real Redis, clients of every port, and patience with a
//! deadline. Nothing here is mocked; backends are `rampmeter_demo`'s.

mod agent;
mod api;
mod cable;
mod control_plane;
mod fleet;
mod fleet_file;
mod grpcurl;
mod patience;
mod process;
mod redis_server;

pub use agent::{Agent, AgentStart, applied_version};
pub use api::{Api, state_name};
pub use cable::Cable;
pub use control_plane::ControlPlane;
pub use fleet::Fleet;
pub use fleet_file::FleetFile;
pub use grpcurl::grpcurl;
pub use patience::{alone, eventually, median, settled};
pub use process::{Process, binary};
pub use rampmeter_demo::http::{Reply, get, send};
pub use redis_server::RedisServer;
