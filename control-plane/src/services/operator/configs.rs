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
    let applied = config::apply(
        plane,
        &request.yaml,
        &source,
        &caller.address,
        request.expected_revision,
        request.validate_only,
    );
    let applied = applied.await.map_err(apply_status)?;
    if applied.applied {
        let subject = format!("revision {}", applied.revision);
        fields::audit("ApplyConfig", &subject, &caller);
    }
    Ok(v1::ApplyConfigResponse {
        revision: applied.revision,
        changes: applied.changes,
        applied: applied.applied,
    })
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
