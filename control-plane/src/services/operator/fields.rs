//! Fields that calls of operators share: who, why, for how long.

use std::time::Duration;

use tonic::{Request, Status};

use crate::{events::Caller, services::status};

/// Shortest and longest override or drain: long enough to act, short enough that
/// none is forgotten.
const MIN_LASTING: Duration = Duration::from_secs(1);
/// See [`MIN_LASTING`].
const MAX_LASTING: Duration = Duration::from_secs(24 * 3600);

/// Longest reason and actor, in bytes.
const TEXT_LIMIT: usize = 500;

/// Where a call came from.
pub(super) fn address<T>(request: &Request<T>) -> String {
    let address = request.remote_addr();
    address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}

/// Who asks, why, and from where.
pub(super) fn caller(who: &str, why: &str, address: String) -> Result<Caller, Status> {
    Ok(Caller {
        actor: actor(who)?,
        reason: reason(why)?,
        address,
        broke_glass: false,
    })
}

fn reason(text: &str) -> Result<String, Status> {
    if text.trim().is_empty() {
        return Err(status::invalid(
            "reason",
            "must say why, for whoever looks at 3 a.m.",
        ));
    }
    bounded("reason", text)
}

fn actor(text: &str) -> Result<String, Status> {
    match text.trim() {
        "" => Ok("unnamed operator".to_owned()),
        text => bounded("actor", text),
    }
}

fn bounded(field: &str, text: &str) -> Result<String, Status> {
    if text.len() > TEXT_LIMIT {
        let message = format!("has {} bytes: at most {TEXT_LIMIT} are allowed", text.len());
        return Err(status::invalid(field, message));
    }
    Ok(text.to_owned())
}

pub(super) fn expiry(value: Option<&prost_types::Duration>) -> Result<Duration, Status> {
    let allowed = "allowed are 1 s to 24 h (as JSON: \"600s\")";
    let Some(value) = value else {
        return Err(status::invalid(
            "expires_in",
            format!("must be set: {allowed}"),
        ));
    };
    let parsed = Duration::try_from(*value).ok();
    parsed
        .filter(|d| (MIN_LASTING..=MAX_LASTING).contains(d))
        .ok_or_else(|| {
            let message = format!("is {} s: {allowed}", value.seconds);
            status::invalid("expires_in", message)
        })
}

/// One line for each write, apart from the rest of the log.
pub(super) fn audit(call: &str, subject: &str, caller: &Caller) {
    let Caller {
        actor,
        reason,
        address,
        broke_glass,
    } = caller;
    tracing::info!(
        target: "audit", call, subject, actor, address, reason, broke_glass,
        "a write by an operator"
    );
}
