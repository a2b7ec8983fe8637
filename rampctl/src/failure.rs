//! What can go wrong, by what the operator can do about it.

use std::io;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody answers.
    #[error(
        "cannot reach a control plane at {address}: {reason}\n\
         check that it runs there, or give another with --control-plane URL (or \
         RAMPMETER_CONTROL_PLANE)"
    )]
    Unreachable {
        /// Where it was tried.
        address: String,
        /// What happened.
        reason: String,
    },
    /// What was asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The file or the request is wrong, or it is not the time for it.
    #[error("refused: {0}")]
    Refused(String),
    /// The control plane failed.
    #[error("the control plane failed ({code:?}): {message}")]
    Server {
        /// The gRPC status.
        code: Code,
        /// What it said.
        message: String,
    },
    /// A drill ended, and not well.
    #[error("the drill did not pass: {0}")]
    NotPassed(String),
    /// A drill runs that cannot be watched any more.
    #[error("{why}\nthe drill goes on by itself, and ends at {until} UTC at the latest")]
    LeftAlone {
        /// When it ends by itself.
        until: String,
        /// What happened.
        why: String,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// As given.
        path: String,
        /// Why.
        reason: String,
    },
    /// The result could not be printed.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl Failure {
    /// The process's exit code, as `--help` lists them; 2 is the argument
    /// parser's.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Server { .. } | Self::File { .. } => 1,
            Self::Unreachable { .. } | Self::LeftAlone { .. } => 3,
            Self::NotFound(_) => 4,
            Self::Refused(_) => 5,
            Self::NotPassed(_) => 6,
            // As if killed by SIGPIPE, when a pipe's reader has seen enough.
            Self::Print(_) if self.is_closed_pipe() => 141,
            Self::Print(_) => 1,
        }
    }

    /// Whoever read the output went away: nothing to complain about.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Print(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// From what a call to `address` returned.
    pub(crate) fn of(status: &Status, address: &str) -> Self {
        let message = explain(status);
        match status.code() {
            Code::NotFound => Self::NotFound(message),
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated => Self::Refused(message),
            // The client's own deadline comes as CANCELLED.
            Code::DeadlineExceeded | Code::Cancelled if !is_foreign(status) => Self::Unreachable {
                address: address.to_owned(),
                reason: "no answer within --timeout".to_owned(),
            },
            Code::Unavailable if is_foreign(status) => Self::Unreachable {
                address: address.to_owned(),
                reason: message,
            },
            _ if is_foreign(status) => Self::Unreachable {
                address: address.to_owned(),
                reason: format!("what answers there does not speak Rampmeter's API ({message})"),
            },
            code => Self::Server { code, message },
        }
    }
}

/// The connection broke, or what answered was no control plane.
fn is_foreign(status: &Status) -> bool {
    let mut causes = std::iter::successors(std::error::Error::source(status), |e| e.source());
    let broke = std::error::Error::source(status).is_some();
    let late = causes.any(|cause| cause.is::<tonic::TimeoutExpired>());
    broke && !late || status.code() == Code::Unimplemented
}

/// The message and, a line each, the fields it is about, unless it names them.
fn explain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let source = std::error::Error::source(status);
    if let Some(cause) = source.map(root_cause).filter(|cause| !text.contains(cause)) {
        text = format!("{text}: {cause}");
    }
    let bad_request = status.get_details_bad_request();
    for violation in bad_request.into_iter().flat_map(|bad| bad.field_violations) {
        if !text.contains(&violation.description) {
            text += &format!("\n  {}: {}", violation.field, violation.description);
        }
    }
    text
}

/// What the innermost error says: "Connection refused", and not "transport error".
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
