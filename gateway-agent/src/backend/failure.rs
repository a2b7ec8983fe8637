//! Why an endpoint gave no response, and what follows: for its backend, for the
//! client, and for the request.

use breaker_core::outcome::FailureKind;

use crate::{
    backend::{pool::ConnectError, upload::UploadFault},
    request::answer::Fault,
};

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    Connect(ConnectError),
    Upload(UploadFault),
    Reset(hyper::Error),
    Upgraded,
    /// `per_try`: that is the time-out that ran out.
    Timeout {
        per_try: bool,
    },
}

impl Failure {
    /// `None`: it says nothing about the backend.
    pub(crate) fn held_against_backend(&self) -> Option<FailureKind> {
        match self {
            Self::Connect(ConnectError::Limit) | Self::Upload(_) => None,
            Self::Connect(_) => Some(FailureKind::Connect),
            Self::Reset(_) | Self::Upgraded => Some(FailureKind::Reset),
            Self::Timeout { .. } => Some(FailureKind::Timeout),
        }
    }

    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Connect(ConnectError::Limit) => Fault::Limit,
            Self::Connect(ConnectError::Timeout(_)) => Fault::ConnectTimeout,
            Self::Connect(_) => Fault::Connect,
            Self::Upload(UploadFault::TooLarge) => Fault::BodyTooLarge,
            Self::Upload(UploadFault::Stalled | UploadFault::Gone) => Fault::BodyStalled,
            Self::Reset(_) | Self::Upload(UploadFault::Superseded) => Fault::Reset,
            Self::Upgraded => Fault::Upgraded,
            Self::Timeout { .. } => Fault::Timeout,
        }
    }

    /// Whether a request that may be done twice is worth another attempt. A time-out
    /// is not, as what is slow is only made slower, unless it was set for one attempt
    /// of several.
    pub(crate) fn is_worth_it(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Limit) | Self::Upload(_) | Self::Upgraded => false,
            Self::Connect(_) | Self::Reset(_) => true,
            Self::Timeout { per_try } => *per_try,
        }
    }
}
