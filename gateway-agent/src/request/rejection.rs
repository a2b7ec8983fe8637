//! Why a request gets an answer of ours, and which.

use breaker_core::ids::BackendName;
use http::Response;

use crate::{
    admit::refusal::{Denied, OverQuota, Refusal, Shed},
    request::{
        answer::{self, Fault},
        body::Body,
    },
};

/// Why a request gets an answer of ours.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// It failed before it got to a backend.
    Fault(Fault),
    /// It failed at this backend, admitted under this decision.
    FaultAt(Fault, BackendName, breaker_core::Version),
    /// It is over its quota.
    OverQuota(OverQuota),
    /// No backend takes it.
    Refused(Refusal),
    /// No region has room for it.
    Shed(Shed),
}

impl From<Denied> for Rejection {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::OverQuota(over) => Self::OverQuota(over),
            Denied::Refused(refusal) | Denied::Full(refusal) => Self::Refused(refusal),
            Denied::Shed(shed) => Self::Shed(shed),
            Denied::NoRegion => Self::Fault(Fault::NoRegion),
        }
    }
}

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Rejection {
    /// The answer.
    pub(crate) fn answer(&self, grpc: bool) -> Response<Body> {
        match self {
            Self::Refused(refusal) => answer::refused(refusal, grpc),
            Self::OverQuota(over) => answer::over_quota(over, grpc),
            Self::Shed(shed) => answer::shed(shed, grpc),
            Self::Fault(fault) => answer::fault(*fault, None, grpc),
            Self::FaultAt(fault, backend, version) => {
                answer::fault(*fault, Some((backend.as_str(), *version)), grpc)
            }
        }
    }
}
