//! Every limit of the request path, with its reason. Together they bound what
//! one client, or one backend, can make an agent hold.

use std::time::Duration;

use fleet_config::HostLimits;

/// Requests at once for each connection that is allowed, all connections
/// together: HTTP/2 streams of one are places of others, as memory is.
pub(crate) const REQUESTS_PER_CONNECTION: u32 = 2;

/// Requests of a core at once, however few connections are allowed: one client
/// with all its streams.
pub(crate) const LEAST_REQUESTS: u32 = 1_000;

/// A request target, and one header field: 8 KiB, as nginx and Apache have it.
pub const MAX_FIELD_BYTES: usize = 8 << 10;

/// All fields of one header, both ways.
pub const MAX_HEADER_BYTES: usize = 16 << 10;

/// Fields of one header, both ways.
pub const MAX_HEADERS: usize = 100;

/// Read and write buffer of an HTTP/1 connection, at most. A header is refused
/// earlier; bodies want larger reads.
pub const MAX_BUFFER_BYTES: usize = 64 << 10;

/// What the kernel may hold of ours for a client that it has not begun to send:
/// enough that no link waits for us, and not the megabytes that it would take.
pub(crate) const MAX_UNSENT_BYTES: u32 = 128 << 10;

/// Time from the first byte of a header to its last; also from accepting a
/// connection to its first request. Slower is an attack or a dead link.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A client's connection without a request.
pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);

/// A body, either way, of which nothing arrives, and a client that reads
/// nothing of what we write.
pub const BODY_IDLE: Duration = Duration::from_secs(30);

/// The same for streams that are meant to pause: gRPC and server-sent events.
pub const STREAM_IDLE: Duration = Duration::from_secs(300);

/// An upstream connection without a request: shorter than the 60 s or more that
/// most servers keep one, so that we close first. A server that says
/// `Keep-Alive: timeout=…` is believed.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(55);

/// Open streams on one HTTP/2 connection, from clients and to endpoints.
pub const H2_STREAMS: u32 = 100;

/// What one HTTP/2 stream may send us unread.
pub const H2_STREAM_WINDOW: u32 = 64 << 10;

/// What all streams of an HTTP/2 connection may send us unread.
pub const H2_CONNECTION_WINDOW: u32 = 1 << 20;

/// What one HTTP/2 stream may hold of ours unsent.
pub const H2_SEND_BUFFER: usize = 64 << 10;

/// Streams that were reset and not yet forgotten; more closes the connection
/// (rapid reset, CVE-2023-44487).
pub const H2_PENDING_RESETS: usize = 20;

/// Pause after an accept that failed for want of descriptors or memory: long
/// enough for some to be freed, short enough not to be noticed after.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that the kernel may hold for us before we accept them.
pub const BACKLOG: i32 = 4_096;

/// The longest Retry-After of a backend that is believed, as in the breaker.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// How often idle upstream connections are looked for.
pub const LOOK_FOR_IDLE: Duration = Duration::from_secs(5);

/// What hyper needs for an HTTP/1 header that is not longer than allowed: beside
/// what counts, each line has its colon, a space and its end.
pub(crate) fn header_buffer_bytes(limits: &HostLimits) -> usize {
    let lines = 4 * (limits.max_headers as usize + 2) + 64;
    limits.max_target_bytes as usize + limits.max_header_bytes as usize + lines
}

/// The same for HTTP/2, which counts 32 bytes more for each field (RFC 9113
/// §6.5.2), and the target with them.
pub(crate) fn header_list_bytes(limits: &HostLimits) -> u32 {
    limits.max_target_bytes + limits.max_header_bytes + 32 * (limits.max_headers + 4)
}
