//! A control plane with canned answers, in this process.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use rampmeter_api::v1::{
    fleet_service_server::{FleetService, FleetServiceServer},
    operator_service_server::{OperatorService, OperatorServiceServer},
    *,
};
use tokio::net::TcpListener;
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What was asked, for tests to look at.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) backends: Vec<ListBackendsRequest>,
    pub(crate) applied: Vec<ApplyConfigRequest>,
    pub(crate) overrides: Vec<OverrideBackendRequest>,
    pub(crate) cleared: Vec<ClearOverrideRequest>,
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) asked: Arc<Mutex<Asked>>,
}

impl Fake {
    fn asked(&self) -> std::sync::MutexGuard<'_, Asked> {
        self.asked.lock().expect("no test panicked with it")
    }

    /// Serves until the test's runtime ends.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let fake = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let router = tonic::transport::Server::builder()
            .add_service(FleetServiceServer::new(fake.clone()))
            .add_service(OperatorServiceServer::new(fake.clone()));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        (fake, address)
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn backend(name: &str) -> Backend {
    Backend {
        name: name.into(),
        state: BreakerState::Open.into(),
        ..Backend::default()
    }
}

fn event(id: &str) -> Event {
    Event {
        id: id.into(),
        summary: format!("event {id}"),
        ..Event::default()
    }
}

#[tonic::async_trait]
impl FleetService for Fake {
    type WatchBackendsStream = Streamed<WatchBackendsResponse>;
    type WatchEventsStream = Streamed<WatchEventsResponse>;

    async fn get_fleet(&self, _: Request<GetFleetRequest>) -> Answer<GetFleetResponse> {
        Ok(Response::new(GetFleetResponse {
            config_revision: 7,
            store: "memory".into(),
            ..GetFleetResponse::default()
        }))
    }

    async fn list_drills(
        &self,
        _: Request<rampmeter_api::v1::ListDrillsRequest>,
    ) -> Answer<rampmeter_api::v1::ListDrillsResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn get_drill(
        &self,
        _: Request<rampmeter_api::v1::GetDrillRequest>,
    ) -> Answer<rampmeter_api::v1::GetDrillResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn get_candidate(
        &self,
        _: Request<rampmeter_api::v1::GetCandidateRequest>,
    ) -> Answer<rampmeter_api::v1::GetCandidateResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn list_services(&self, _: Request<ListServicesRequest>) -> Answer<ListServicesResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn get_service(&self, _: Request<GetServiceRequest>) -> Answer<GetServiceResponse> {
        Err(Status::unimplemented("not faked"))
    }

    /// Two pages.
    async fn list_backends(
        &self,
        request: Request<ListBackendsRequest>,
    ) -> Answer<ListBackendsResponse> {
        let request = request.into_inner();
        let (name, next) = match request.page_token.as_str() {
            "" => ("pay/first", "more"),
            _ => ("pay/second", ""),
        };
        self.asked().backends.push(request);
        Ok(Response::new(ListBackendsResponse {
            backends: vec![backend(name)],
            next_page_token: next.into(),
        }))
    }

    async fn get_backend(&self, _: Request<GetBackendRequest>) -> Answer<GetBackendResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn explain_backend(
        &self,
        request: Request<ExplainBackendRequest>,
    ) -> Answer<ExplainBackendResponse> {
        match request.into_inner().name.as_str() {
            "slow/one" => std::future::pending().await,
            "broken/one" => Err(Status::internal("the disk is on fire")),
            "pay/first" => Ok(Response::new(ExplainBackendResponse {
                summary: "all is well".into(),
                ..ExplainBackendResponse::default()
            })),
            _ => Err(Status::not_found(
                "no backend \"pay/moon\": there are pay/first, pay/second",
            )),
        }
    }

    /// One backend, then the end.
    async fn watch_backends(
        &self,
        _: Request<WatchBackendsRequest>,
    ) -> Answer<Self::WatchBackendsStream> {
        let change = watch_backends_response::Change::Backend(backend("pay/first"));
        let response = WatchBackendsResponse {
            change: Some(change),
        };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(response)))))
    }

    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Answer<ListAgentsResponse> {
        Ok(Response::new(ListAgentsResponse::default()))
    }

    async fn get_agent(&self, _: Request<GetAgentRequest>) -> Answer<GetAgentResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn list_events(&self, _: Request<ListEventsRequest>) -> Answer<ListEventsResponse> {
        Ok(Response::new(ListEventsResponse {
            events: vec![event("2"), event("1")],
            next_page_token: String::new(),
        }))
    }

    /// One event that is also in the list, and a new one, then the end.
    async fn watch_events(
        &self,
        _: Request<WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let events = ["2", "3"].map(|id| {
            Ok(WatchEventsResponse {
                event: Some(event(id)),
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }
}

#[tonic::async_trait]
impl OperatorService for Fake {
    async fn apply_config(
        &self,
        request: Request<ApplyConfigRequest>,
    ) -> Answer<ApplyConfigResponse> {
        let request = request.into_inner();
        if request.yaml.contains("teleport") {
            let mut details = ErrorDetails::new();
            details.add_bad_request_violation("yaml", "line 1: there are no teleporters");
            return Err(Status::with_error_details(
                tonic::Code::InvalidArgument,
                "the fleet file is wrong",
                details,
            ));
        }
        let response = ApplyConfigResponse {
            revision: 7,
            changes: vec!["~ services.pay.breaker.open_duration: 30s → 2s".into()],
            applied: !request.validate_only,
        };
        self.asked().applied.push(request);
        Ok(Response::new(response))
    }

    async fn get_config(&self, _: Request<GetConfigRequest>) -> Answer<GetConfigResponse> {
        Ok(Response::new(GetConfigResponse {
            revision: 7,
            yaml: "pops: {}\n".into(),
            source: "file:/etc/fleet.yaml".into(),
            ..GetConfigResponse::default()
        }))
    }

    async fn override_backend(
        &self,
        request: Request<OverrideBackendRequest>,
    ) -> Answer<OverrideBackendResponse> {
        let request = request.into_inner();
        let response = OverrideBackendResponse {
            r#override: Some(Override {
                mode: request.mode,
                ..Override::default()
            }),
            version: Some(Version {
                epoch: 1,
                revision: 2,
            }),
        };
        self.asked().overrides.push(request);
        Ok(Response::new(response))
    }

    async fn clear_override(
        &self,
        request: Request<ClearOverrideRequest>,
    ) -> Answer<ClearOverrideResponse> {
        self.asked().cleared.push(request.into_inner());
        Err(Status::failed_precondition("pay/first has no override"))
    }

    async fn drain_region(
        &self,
        _: Request<rampmeter_api::v1::DrainRegionRequest>,
    ) -> Answer<rampmeter_api::v1::DrainRegionResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn clear_drain(
        &self,
        _: Request<rampmeter_api::v1::ClearDrainRequest>,
    ) -> Answer<rampmeter_api::v1::ClearDrainResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn approve_plan(
        &self,
        _: Request<rampmeter_api::v1::ApprovePlanRequest>,
    ) -> Answer<rampmeter_api::v1::ApprovePlanResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn start_drill(
        &self,
        _: Request<rampmeter_api::v1::StartDrillRequest>,
    ) -> Answer<rampmeter_api::v1::StartDrillResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn stop_drill(
        &self,
        _: Request<rampmeter_api::v1::StopDrillRequest>,
    ) -> Answer<rampmeter_api::v1::StopDrillResponse> {
        Err(Status::unimplemented("not faked"))
    }

    async fn drop_candidate(
        &self,
        _: Request<rampmeter_api::v1::DropCandidateRequest>,
    ) -> Answer<rampmeter_api::v1::DropCandidateResponse> {
        Err(Status::unimplemented("not faked"))
    }
}
