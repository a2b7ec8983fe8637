//! The fleet file: applied whole or not at all.

use fleet_config::ConfigErrors;
use rampmeter_api::{convert::timestamp, v1};
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::fields;
use crate::{
    config::{self, ApplyError},
    events::Caller,
    plane::Plane,
    services::status,
};

/// Violations named in one answer: it travels in a header.
const VIOLATIONS: usize = 20;

/// Longest error text, for the same reason: HTTP/2 peers take 16 KiB of headers,
/// and the text is in them twice, percent-encoded.
const ERROR_LIMIT: usize = 2000;

pub(super) async fn apply(
    plane: &Plane,
    request: Request<v1::ApplyConfigRequest>,
) -> Result<v1::ApplyConfigResponse, Status> {
    let address = fields::address(&request);
    let request = request.into_inner();
    if request.yaml.len() > fleet_config::MAX_FILE_BYTES {
        let allowed = fleet_config::MAX_FILE_BYTES;
        let message = format!(
            "has {} bytes: at most {allowed} are allowed",
            request.yaml.len()
        );
        return Err(status::invalid("yaml", message));
    }
    let source = format!("ApplyConfig from {address}");
    let caller = Caller {
        actor: source.clone(),
        reason: String::new(),
        address,
        broke_glass: false,
    };
    let (yaml, expected) = (&request.yaml, request.expected_revision);
    let (check, address) = (request.validate_only, &caller.address);
    let applied = match request.candidate {
        true => config::set_candidate(plane, yaml, &source, address, expected, check).await,
        false => config::apply(plane, yaml, &source, address, expected, check).await,
    };
    let applied = applied.map_err(apply_status)?;
    if applied.applied {
        let subject = match request.candidate {
            true => format!("candidate beside revision {}", applied.revision),
            false => format!("revision {}", applied.revision),
        };
        fields::audit("ApplyConfig", &subject, &caller);
    }
    Ok(v1::ApplyConfigResponse {
        revision: applied.revision,
        changes: applied.changes,
        applied: applied.applied,
    })
}

pub(super) async fn drop_candidate(
    plane: &Plane,
    request: Request<v1::DropCandidateRequest>,
) -> Result<v1::DropCandidateResponse, Status> {
    let address = fields::address(&request);
    let request = request.into_inner();
    let caller = fields::caller(&request.actor, &request.reason, address)?;
    let dropped = config::drop_candidate(plane, &caller).await;
    dropped.map_err(apply_status)?;
    fields::audit("DropCandidate", "the candidate", &caller);
    Ok(v1::DropCandidateResponse {})
}

pub(super) fn get(plane: &Plane) -> Result<v1::GetConfigResponse, Status> {
    let fleet = plane.fleet().ok_or_else(status::no_config)?;
    Ok(v1::GetConfigResponse {
        revision: fleet.revision,
        yaml: fleet.yaml.clone(),
        apply_time: Some(timestamp(fleet.applied)),
        source: fleet.source.clone(),
    })
}

fn apply_status(error: ApplyError) -> Status {
    match error {
        ApplyError::Invalid(errors) => invalid_config(&errors),
        ApplyError::Conflict { .. } => {
            let message = format!("{error}: read it with GetConfig and try again");
            Status::with_error_details(
                Code::Aborted,
                message,
                ErrorDetails::with_error_info(
                    "REVISION_CONFLICT",
                    "rampmeter",
                    [] as [(String, String); 0],
                ),
            )
        }
        ApplyError::NothingLive => status::no_config(),
        ApplyError::OtherBackends(_) => status::invalid("yaml", error.to_string()),
        ApplyError::NoCandidate => {
            let message = format!("{error}: ApplyConfig with candidate sets one");
            status::precondition("NO_CANDIDATE", message)
        }
        ApplyError::Store(error) => status::of_store(&error),
    }
}

fn invalid_config(errors: &ConfigErrors) -> Status {
    let violations = errors.errors().iter().take(VIOLATIONS).map(|e| {
        let field = if e.key.is_empty() { "yaml" } else { &e.key };
        let message = match e.line {
            0 => e.message.clone(),
            line => format!("line {line}: {}", e.message),
        };
        FieldViolation::new(field, shorten(&message, 200))
    });
    let details = ErrorDetails::with_bad_request(violations.collect::<Vec<_>>());
    let text = shorten(&errors.to_string(), ERROR_LIMIT);
    Status::with_error_details(Code::InvalidArgument, text, details)
}

fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
