//! `OperatorService`: changes by people. Each is an event with who, why and from
//! where, and a line in the audit log.

mod configs;
mod drains;
mod drills;
mod fields;
mod overrides;
mod plans;
mod standing;

use std::sync::Arc;

use rampmeter_api::v1::{self, operator_service_server::OperatorService};
use tonic::{Request, Response, Status};

use crate::plane::Plane;

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
}

#[tonic::async_trait]
impl OperatorService for Operator {
    async fn apply_config(
        &self,
        request: Request<v1::ApplyConfigRequest>,
    ) -> Result<Response<v1::ApplyConfigResponse>, Status> {
        let applied = configs::apply(&self.plane, request).await;
        applied.map(Response::new)
    }

    async fn get_config(
        &self,
        _: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::GetConfigResponse>, Status> {
        configs::get(&self.plane).map(Response::new)
    }

    async fn override_backend(
        &self,
        request: Request<v1::OverrideBackendRequest>,
    ) -> Result<Response<v1::OverrideBackendResponse>, Status> {
        let set = overrides::set(&self.plane, request).await;
        set.map(Response::new)
    }

    async fn clear_override(
        &self,
        request: Request<v1::ClearOverrideRequest>,
    ) -> Result<Response<v1::ClearOverrideResponse>, Status> {
        let cleared = overrides::clear(&self.plane, request).await;
        cleared.map(Response::new)
    }

    async fn drain_region(
        &self,
        request: Request<v1::DrainRegionRequest>,
    ) -> Result<Response<v1::DrainRegionResponse>, Status> {
        let drained = drains::set(&self.plane, request).await;
        drained.map(Response::new)
    }

    async fn clear_drain(
        &self,
        request: Request<v1::ClearDrainRequest>,
    ) -> Result<Response<v1::ClearDrainResponse>, Status> {
        let cleared = drains::clear(&self.plane, request).await;
        cleared.map(Response::new)
    }

    async fn approve_plan(
        &self,
        request: Request<v1::ApprovePlanRequest>,
    ) -> Result<Response<v1::ApprovePlanResponse>, Status> {
        let approved = plans::approve(&self.plane, request).await;
        approved.map(Response::new)
    }

    async fn start_drill(
        &self,
        request: Request<v1::StartDrillRequest>,
    ) -> Result<Response<v1::StartDrillResponse>, Status> {
        let started = drills::start(&self.plane, request).await;
        started.map(Response::new)
    }

    async fn stop_drill(
        &self,
        request: Request<v1::StopDrillRequest>,
    ) -> Result<Response<v1::StopDrillResponse>, Status> {
        let stopped = drills::stop(&self.plane, request).await;
        stopped.map(Response::new)
    }

    async fn drop_candidate(
        &self,
        request: Request<v1::DropCandidateRequest>,
    ) -> Result<Response<v1::DropCandidateResponse>, Status> {
        let dropped = configs::drop_candidate(&self.plane, request).await;
        dropped.map(Response::new)
    }
}
