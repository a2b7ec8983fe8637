//! The data plane on real sockets: a server on a free port, scripted backends,
//! and clients that read every byte.

mod answers;
mod connections;
mod edge;
mod endpoints;
mod fallback;
mod fresh;
mod grpc;
#[path = "../hostile/mod.rs"]
mod hostile;
mod http2;
mod lifecycle;
mod outcomes;
mod passing;
mod queue;
mod renewal;
mod retries;
mod rig;
mod routing;
mod sight;
mod steering;
mod tls;
mod upgrades;
mod upstream_tls;
mod websocket;

/// A request without a body.
const GET: &str = "GET / HTTP/1.1\r\nhost: a.example\r\n\r\n";

/// A response that leaves its connection open.
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
