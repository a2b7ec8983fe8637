//! What this host lets an agent have, and what an agent may take of it: told at
//! its start, before clients find out.

use std::fmt;

use fleet_config::HostLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    config::host::Host,
    limits::{
        H2_CONNECTION_WINDOW, H2_SEND_BUFFER, MAX_BUFFER_BYTES, REQUESTS_PER_CONNECTION,
        header_buffer_bytes,
    },
};

/// Descriptors that connections leave alone: for the control stream, the admin
/// port, files that are read again, and name resolution.
const RESERVE: u64 = 64;

/// Descriptors of a core's runtime, and of its listening socket on each address.
const PER_CORE: u64 = 4;

/// Raises the limit of descriptors as far as that needs no permission; what it is
/// now. `None`: it has no end.
pub(crate) fn raise_descriptors() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, all) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of descriptors cannot be raised");
            current
        }
    }
}

/// How many connections of clients descriptors are there for: each may need one
/// more, to a backend.
pub(crate) fn connections(descriptors: Option<u64>, cores: usize, listeners: usize) -> usize {
    let own = RESERVE + cores as u64 * (PER_CORE + listeners as u64);
    let left = descriptors.unwrap_or(u64::MAX).saturating_sub(own);
    usize::try_from(left / 2).unwrap_or(usize::MAX).max(1)
}

/// The most that an agent may hold in memory, in bytes. Everything that a client
/// or a backend can make it hold is one of these; what it needs for itself (its
/// tables, its code) is some ten MiB and grows with the fleet file only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) connections: u64,
    /// The buffer it is read into, and what all its HTTP/2 streams may have sent.
    pub(crate) per_connection: u64,
    pub(crate) requests: u64,
    /// Its header, what waits to be sent to its client, and the two buffers of its
    /// connection to a backend, which has a header as well.
    pub(crate) per_request: u64,
    pub(crate) cache: u64,
}

impl Memory {
    pub(crate) fn of(host: &Host, connections: usize) -> Self {
        let HostLimits {
            max_connections, ..
        } = host.limits;
        let connections = (max_connections as usize).min(connections) as u64;
        let buffer = header_buffer_bytes(&host.limits).max(MAX_BUFFER_BYTES) as u64;
        let header = header_buffer_bytes(&host.limits) as u64;
        Self {
            connections,
            per_connection: buffer + u64::from(H2_CONNECTION_WINDOW),
            requests: connections * u64::from(REQUESTS_PER_CONNECTION),
            per_request: 2 * header + H2_SEND_BUFFER as u64 + 2 * MAX_BUFFER_BYTES as u64,
            cache: host.config.cache_bytes.0,
        }
    }

    pub(crate) fn total(self) -> u64 {
        let connections = self.connections.saturating_mul(self.per_connection);
        let requests = self.requests.saturating_mul(self.per_request);
        connections
            .saturating_add(requests)
            .saturating_add(self.cache)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at most {} MiB: {} connections x {} KiB + {} requests x {} KiB + cache {} MiB",
            self.total() >> 20,
            self.connections,
            self.per_connection >> 10,
            self.requests,
            self.per_request >> 10,
            self.cache >> 20
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_a_reserve_of_descriptors() {
        for (descriptors, cores, expected) in [
            (Some(1024), 2, (1024 - 64 - 10) / 2),
            (Some(64), 2, 1),
            (Some(1 << 20), 8, ((1 << 20) - 64 - 40) / 2),
        ] {
            assert_eq!(connections(descriptors, cores, 1), expected);
            let left = descriptors.expect("some") - 2 * expected as u64;
            assert!(left >= RESERVE || expected == 1);
        }
        assert!(connections(None, 64, 100) > 1_000_000_000);
    }

    #[test]
    fn the_most_memory_is_told_with_what_it_is_made_of() {
        let memory = Memory::of(&Host::default(), 1_000);
        assert_eq!(
            memory.to_string(),
            "at most 1597 MiB: 1000 connections x 1088 KiB + 2000 requests x 240 KiB + cache 64 MiB"
        );
    }

    #[test]
    fn descriptors_are_raised_to_what_is_allowed() {
        let limit = raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current, limit);
    }
}
