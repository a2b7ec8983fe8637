//! `OperatorService`: changes by people. Each is an event with who and why.

use std::{sync::Arc, time::Duration};

use breaker_core::{
    BackendName, Mode,
    breaker::{Input, Override},
};
use fleet_config::ConfigErrors;
use rampmeter_api::{
    convert::{timestamp, words},
    v1::{self, operator_service_server::OperatorService},
};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::status;
use crate::{
    commit::{ATTEMPTS, Attempt, Known},
    config::{self, ApplyError, Fleet},
    plane::Plane,
    store::SyncRequest,
};

/// Shortest and longest override: long enough to act, short enough that none is
/// forgotten.
const MIN_OVERRIDE: Duration = Duration::from_secs(1);
/// See [`MIN_OVERRIDE`].
const MAX_OVERRIDE: Duration = Duration::from_secs(24 * 3600);

/// Longest reason and actor, in bytes.
const TEXT_LIMIT: usize = 500;

/// Violations named in one answer: it travels in a header.
const VIOLATIONS: usize = 20;

/// Longest error text, for the same reason: HTTP/2 peers take 16 KiB of headers,
/// and the text is in them twice, percent-encoded.
const ERROR_LIMIT: usize = 2000;

/// The service.
#[derive(Clone)]
pub struct Operator {
    plane: Arc<Plane>,
}

impl Operator {
    /// Writes through this replica.
    pub fn new(plane: Arc<Plane>) -> Self {
        Self { plane }
    }

    fn target(&self, name: &str) -> Result<(Arc<Fleet>, BackendName), Status> {
        let fleet = self.plane.fleet().ok_or_else(status::no_config)?;
        let name = status::backend(&fleet, name)?;
        Ok((fleet, name))
    }

    /// Sets or clears an override by compare-and-swap.
    async fn put(
        &self,
        fleet: &Fleet,
        name: &BackendName,
        over: Option<Override>,
    ) -> Result<Known, Status> {
        let policy = fleet.config.policy(name).ok_or_else(status::no_config)?;
        let mut known = self.known(name).await?;
        if over.is_none() && known.breaker.over.is_none() {
            let message = format!("{name} has no override in force");
            return Err(status::precondition("NO_OVERRIDE", message));
        }
        for _ in 0..ATTEMPTS {
            let now = self.plane.clock.now();
            let input = Input::Override(over.clone());
            let attempt = known.attempt(&self.plane, policy, input, now).await;
            match attempt.map_err(|e| status::of_store(&e))? {
                Attempt::Done(_) | Attempt::Unchanged(_) => {
                    self.plane.mailbox.urge([name.clone()]);
                    return Ok(known);
                }
                Attempt::Lost => {}
            }
        }
        let message = format!("{name} changes too fast right now: try again");
        Err(Status::aborted(message))
    }

    async fn known(&self, name: &BackendName) -> Result<Known, Status> {
        let request = SyncRequest {
            read: vec![name.clone()],
            ..SyncRequest::default()
        };
        let reply = self
            .plane
            .sync(request)
            .await
            .map_err(|e| status::of_store(&e))?;
        let state = reply.backends.into_iter().find(|b| b.name == *name);
        state.map(Known::of).ok_or_else(|| {
            tracing::error!(backend = %name, "the store did not answer for a backend it was asked for");
            Status::internal("the store gave no answer for this backend")
        })
    }

    /// Forcing the last admitted region of a service open turns it off.
    fn check_last_region(&self, fleet: &Fleet, name: &BackendName) -> Result<(), Status> {
        let now = self.plane.clock.now();
        let siblings = fleet
            .config
            .backends()
            .filter(|(other, ..)| other.service() == name.service() && *other != name);
        let admitted = siblings.map(|(other, service, _)| {
            let seen = self.plane.board.get(other);
            seen.is_none_or(|s| s.breaker.admission(&service.breaker, None, now) > 0.0)
        });
        if admitted.into_iter().any(|admitted| admitted) {
            return Ok(());
        }
        let message = format!(
            "{name} is the last admitted region of {}: forcing it open turns the service off. \
             Set break_glass to do it anyway",
            name.service()
        );
        Err(status::precondition("LAST_ADMITTED_REGION", message))
    }
}

#[tonic::async_trait]
impl OperatorService for Operator {
    async fn apply_config(
        &self,
        request: Request<v1::ApplyConfigRequest>,
    ) -> Result<Response<v1::ApplyConfigResponse>, Status> {
        let from = request
            .remote_addr()
            .map_or_else(|| "unknown".to_owned(), |a| a.to_string());
        let request = request.into_inner();
        if request.yaml.len() > fleet_config::MAX_FILE_BYTES {
            let allowed = fleet_config::MAX_FILE_BYTES;
            let message = format!(
                "has {} bytes: at most {allowed} are allowed",
                request.yaml.len()
            );
            return Err(status::invalid("yaml", message));
        }
        let source = format!("ApplyConfig from {from}");
        let (yaml, expected) = (&request.yaml, request.expected_revision);
        let check = request.validate_only;
        let applied = match request.candidate {
            true => config::set_candidate(&self.plane, yaml, &source, expected, check).await,
            false => config::apply(&self.plane, yaml, &source, expected, check).await,
        };
        let applied = applied.map_err(apply_status)?;
        Ok(Response::new(v1::ApplyConfigResponse {
            revision: applied.revision,
            changes: applied.changes,
            applied: applied.applied,
        }))
    }

    async fn get_config(
        &self,
        _: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::GetConfigResponse>, Status> {
        let fleet = self.plane.fleet().ok_or_else(status::no_config)?;
        Ok(Response::new(v1::GetConfigResponse {
            revision: fleet.revision,
            yaml: fleet.yaml.clone(),
            apply_time: Some(timestamp(fleet.applied)),
            source: fleet.source.clone(),
        }))
    }

    async fn override_backend(
        &self,
        request: Request<v1::OverrideBackendRequest>,
    ) -> Result<Response<v1::OverrideBackendResponse>, Status> {
        let request = request.into_inner();
        let (fleet, name) = self.target(&request.name)?;
        let mode = words::mode("mode", request.mode)
            .ok()
            .filter(|mode| *mode != Mode::Enforce)
            .ok_or_else(|| {
                let allowed = "allowed are MODE_FORCED_OPEN, MODE_FORCED_CLOSED, MODE_DISABLED and MODE_SHADOW";
                status::invalid("mode", allowed)
            })?;
        if mode == Mode::ForcedOpen && !request.break_glass {
            self.check_last_region(&fleet, &name)?;
        }
        let now = self.plane.clock.now();
        let over = Override {
            mode,
            actor: actor(&request.actor)?,
            reason: reason(&request.reason)?,
            created: now,
            expires: now + expiry(request.expires_in.as_ref())?,
        };
        let known = self.put(&fleet, &name, Some(over)).await?;
        Ok(Response::new(v1::OverrideBackendResponse {
            r#override: known.breaker.over.as_ref().map(v1::Override::from),
            version: Some(known.breaker.version.into()),
        }))
    }

    async fn clear_override(
        &self,
        request: Request<v1::ClearOverrideRequest>,
    ) -> Result<Response<v1::ClearOverrideResponse>, Status> {
        let request = request.into_inner();
        let (fleet, name) = self.target(&request.name)?;
        let (actor, reason) = (actor(&request.actor)?, reason(&request.reason)?);
        let known = self.put(&fleet, &name, None).await?;
        tracing::info!(backend = %name, actor, reason, "an override was cleared");
        Ok(Response::new(v1::ClearOverrideResponse {
            version: Some(known.breaker.version.into()),
        }))
    }

    async fn drain_region(
        &self,
        _: Request<v1::DrainRegionRequest>,
    ) -> Result<Response<v1::DrainRegionResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn clear_drain(
        &self,
        _: Request<v1::ClearDrainRequest>,
    ) -> Result<Response<v1::ClearDrainResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn approve_plan(
        &self,
        _: Request<v1::ApprovePlanRequest>,
    ) -> Result<Response<v1::ApprovePlanResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn start_drill(
        &self,
        _: Request<v1::StartDrillRequest>,
    ) -> Result<Response<v1::StartDrillResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn stop_drill(
        &self,
        _: Request<v1::StopDrillRequest>,
    ) -> Result<Response<v1::StopDrillResponse>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn drop_candidate(
        &self,
        request: Request<v1::DropCandidateRequest>,
    ) -> Result<Response<v1::DropCandidateResponse>, Status> {
        let request = request.into_inner();
        let (actor, reason) = (actor(&request.actor)?, reason(&request.reason)?);
        let dropped = config::drop_candidate(&self.plane, &actor, &reason).await;
        dropped.map_err(apply_status)?;
        Ok(Response::new(v1::DropCandidateResponse {}))
    }
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

fn expiry(value: Option<&prost_types::Duration>) -> Result<Duration, Status> {
    let allowed = "allowed are 1 s to 24 h (as JSON: \"600s\")";
    let Some(value) = value else {
        return Err(status::invalid(
            "expires_in",
            format!("must be set: {allowed}"),
        ));
    };
    let parsed = Duration::try_from(*value).ok();
    parsed
        .filter(|d| (MIN_OVERRIDE..=MAX_OVERRIDE).contains(d))
        .ok_or_else(|| {
            let message = format!("is {} s: {allowed}", value.seconds);
            status::invalid("expires_in", message)
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
