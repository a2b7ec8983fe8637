//! Errors as callers see them: a code, a sentence, and details for programs.
//! Internal detail goes to the log instead.

use std::{collections::HashMap, time::Duration};

use breaker_core::BackendName;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{config::Fleet, store::StoreError};

/// In `ErrorInfo.domain`.
const DOMAIN: &str = "rampmeter";

/// A field of the request is wrong.
pub fn invalid(field: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let details = ErrorDetails::with_bad_request_violation(field, message.clone());
    Status::with_error_details(
        Code::InvalidArgument,
        format!("{field}: {message}"),
        details,
    )
}

/// Too much at once.
pub fn try_later(message: impl Into<String>, wait: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(wait));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// Somebody else has the name.
pub fn already_exists(message: impl Into<String>, wait: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(wait));
    Status::with_error_details(Code::AlreadyExists, message, details)
}

/// The state of the fleet forbids it.
pub fn precondition(reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// There is no such thing; `known` are things there are, for a guess.
pub fn not_found<'a>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
    list: &str,
) -> Status {
    let shown: String = name.chars().take(80).collect();
    let guess = nearest(&shown, known)
        .map(|near| format!(": did you mean {near:?}?"))
        .unwrap_or_else(|| ":".to_owned());
    let message = format!("no {what} {shown:?}{guess} `{list}` lists all");
    let metadata = HashMap::from([("name".to_owned(), shown)]);
    let reason = format!("{}_NOT_FOUND", what.to_uppercase());
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(Code::NotFound, message, details)
}

/// There is no such region; `known` are all there are.
pub fn no_region<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Status {
    const NAMED: usize = 20;
    let all: Vec<_> = known.clone().take(NAMED).collect();
    let more = if known.clone().count() > NAMED {
        ", …"
    } else {
        ""
    };
    let list = format!("known are {}{more}; GetFleet", all.join(", "));
    not_found("region", name, known, &list)
}

/// Others change the same record again and again.
pub fn too_fast(name: &str) -> Status {
    Status::aborted(format!("{name} changes too fast right now: try again"))
}

/// The store failed.
pub fn of_store(error: &StoreError) -> Status {
    tracing::warn!(%error, "a call failed with the store");
    let mut details = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
    details.set_error_info("STORE_UNAVAILABLE", DOMAIN, HashMap::new());
    let message = "the store is unavailable: nothing can be changed until it is back; \
                   decisions in force stay in force";
    Status::with_error_details(Code::Unavailable, message, details)
}

/// There is no configuration yet.
pub fn no_config() -> Status {
    precondition(
        "NO_CONFIG",
        "the fleet has no configuration yet: start with --config FILE, or call OperatorService/ApplyConfig",
    )
}

/// Looks a service up.
pub fn known_service(fleet: &Fleet, name: &str) -> Result<(), Status> {
    if fleet.config.services.contains_key(name) {
        return Ok(());
    }
    let known = fleet.config.services.keys().map(|s| s.as_str());
    Err(not_found("service", name, known, "ListServices"))
}

/// Parses a backend's name and looks it up.
pub fn backend(fleet: &Fleet, name: &str) -> Result<BackendName, Status> {
    if name.is_empty() {
        let message = "must be set: SERVICE/REGION, for example \"payments/us-east\"";
        return Err(invalid("name", message));
    }
    let parsed = BackendName::parse(name).ok();
    parsed
        .filter(|name| fleet.config.backend(name).is_some())
        .ok_or_else(|| {
            let known = fleet.config.backends().map(|(name, ..)| name.as_str());
            not_found("backend", name, known, "ListBackends")
        })
}

/// The known name that is most alike, if any is alike at all.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = known.map(|k| (distance(name, k), k)).min()?;
    let limit = (name.len().max(alike.1.len()) / 3).max(1);
    (alike.0 <= limit).then_some(alike.1)
}

/// Edits from one name to the other (Levenshtein). Names are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_guessed_and_a_strange_one_is_not() {
        let known = || ["pay/us-east", "pay/us-west", "media/eu"].into_iter();
        let check = |name: &str| not_found("backend", name, known(), "ListBackends");
        assert_eq!(
            check("pay/us-eats").message(),
            "no backend \"pay/us-eats\": did you mean \"pay/us-east\"? `ListBackends` lists all"
        );
        assert_eq!(
            check("something/else").message(),
            "no backend \"something/else\": `ListBackends` lists all"
        );
        assert_eq!(check("x").code(), Code::NotFound);
    }

    #[test]
    fn distance_counts_edits() {
        let cases = [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 2),
            ("abc", "abcd", 1),
            ("", "xy", 2),
        ];
        for (a, b, expected) in cases {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
