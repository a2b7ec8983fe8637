//! What became of a request. Every forwarded request has exactly one class.

/// Class of a forwarded request's outcome. Requests we refuse ourselves have
/// none: they say nothing about the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeClass {
    /// The backend answered, other than below.
    Success,
    /// The backend, or the path to it, failed.
    Failure(FailureKind),
    /// The backend refused: 503, 429, gRPC `RESOURCE_EXHAUSTED`, or
    /// `UNAVAILABLE` with pushback.
    Overload,
    /// The client went away first: neither for nor against the backend.
    ClientGone,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No connection could be made.
    Connect,
    /// One of our timeouts ran out.
    Timeout,
    /// The connection ended, or spoke nonsense, before the response did.
    Reset,
    /// A 5xx other than 503.
    Http5xx,
    /// gRPC `UNKNOWN`, `DEADLINE_EXCEEDED`, `INTERNAL`, `UNAVAILABLE` or
    /// `DATA_LOSS`.
    Grpc,
}

impl OutcomeClass {
    /// Class of an HTTP status from the backend.
    pub const fn of_http_status(status: u16) -> Self {
        match status {
            429 | 503 => Self::Overload,
            500..=599 => Self::Failure(FailureKind::Http5xx),
            _ => Self::Success,
        }
    }

    /// Class of a `grpc-status`; `pushback` tells whether
    /// `grpc-retry-pushback-ms` came with it.
    pub const fn of_grpc_status(status: u32, pushback: bool) -> Self {
        match status {
            8 => Self::Overload,
            14 if pushback => Self::Overload,
            2 | 4 | 13 | 14 | 15 => Self::Failure(FailureKind::Grpc),
            _ => Self::Success,
        }
    }
}
