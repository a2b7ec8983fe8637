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
    pub(crate) drains: Vec<DrainRegionRequest>,
    pub(crate) undrained: Vec<ClearDrainRequest>,
    pub(crate) approved: Vec<ApprovePlanRequest>,
    pub(crate) drills: Vec<StartDrillRequest>,
    pub(crate) stopped: Vec<StopDrillRequest>,
    pub(crate) dropped: Vec<DropCandidateRequest>,
    pub(crate) events: Vec<ListEventsRequest>,
    /// How the drill ends, once it was looked at twice; `None`: only when stopped.
    pub(crate) drill_ends: Option<DrillState>,
    looks: u32,
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
        service: if id == "3" { "pay" } else { "" }.into(),
        summary: format!("event {id}"),
        ..Event::default()
    }
}

/// Any clock: seconds since 1970.
fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn plan(revision: u64) -> Plan {
    Plan {
        version: Some(Version { epoch: 1, revision }),
        summary: format!("plan {revision}"),
        create_time: at(0),
        ..Plan::default()
    }
}

fn drill(state: DrillState) -> Drill {
    Drill {
        id: "d1".into(),
        backend: "pay/first".into(),
        fault: DrillFault::Dead.into(),
        share: 1.0,
        state: state.into(),
        actor: "ana".into(),
        reason: "game day".into(),
        start_time: at(0),
        end_time: at(60),
        report: Some(DrillReport {
            detected: true,
            summary: "all is told".into(),
            ..DrillReport::default()
        }),
        ..Drill::default()
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

    async fn list_drills(&self, _: Request<ListDrillsRequest>) -> Answer<ListDrillsResponse> {
        Ok(Response::new(ListDrillsResponse {
            drills: vec![drill(DrillState::Passed)],
        }))
    }

    async fn get_drill(&self, request: Request<GetDrillRequest>) -> Answer<GetDrillResponse> {
        let id = request.into_inner().id;
        if id != "d1" {
            return Err(Status::not_found(format!("no drill {id:?}")));
        }
        let mut asked = self.asked();
        asked.looks += 1;
        let state = match asked.drill_ends {
            _ if !asked.stopped.is_empty() => DrillState::Stopped,
            Some(state) if asked.looks > 2 => state,
            _ => DrillState::Running,
        };
        Ok(Response::new(GetDrillResponse {
            drill: Some(drill(state)),
        }))
    }

    async fn get_candidate(&self, _: Request<GetCandidateRequest>) -> Answer<GetCandidateResponse> {
        Ok(Response::new(GetCandidateResponse {
            summary: "there is no candidate".into(),
            ..GetCandidateResponse::default()
        }))
    }

    async fn list_services(&self, _: Request<ListServicesRequest>) -> Answer<ListServicesResponse> {
        let service = Service {
            name: "pay".into(),
            backends: vec!["pay/first".into(), "pay/second".into()],
            routes: vec!["path_prefix /".into()],
        };
        Ok(Response::new(ListServicesResponse {
            services: vec![service],
        }))
    }

    async fn get_service(&self, request: Request<GetServiceRequest>) -> Answer<GetServiceResponse> {
        let name = request.into_inner().name;
        let proposed_plan = match name.as_str() {
            "pay" => Some(plan(8)),
            "calm" => None,
            _ => return Err(Status::not_found(format!("no service {name:?}"))),
        };
        Ok(Response::new(GetServiceResponse {
            service: Some(Service {
                name: name.clone(),
                ..Service::default()
            }),
            plan: Some(plan(7)),
            proposed_plan,
            summary: format!("{name} is served where it should be"),
            ..GetServiceResponse::default()
        }))
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

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Answer<ListEventsResponse> {
        self.asked().events.push(request.into_inner());
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
        request: Request<DrainRegionRequest>,
    ) -> Answer<DrainRegionResponse> {
        let request = request.into_inner();
        if request.region == "mars" {
            return Err(Status::not_found(
                "no region \"mars\": there are first, second",
            ));
        }
        self.asked().drains.push(request);
        Ok(Response::new(DrainRegionResponse {
            services: vec!["pay".into(), "search".into()],
            drain: Some(Drain {
                expire_time: at(600),
                ..Drain::default()
            }),
        }))
    }

    async fn clear_drain(&self, request: Request<ClearDrainRequest>) -> Answer<ClearDrainResponse> {
        self.asked().undrained.push(request.into_inner());
        Ok(Response::new(ClearDrainResponse {
            services: vec!["pay".into()],
        }))
    }

    async fn approve_plan(
        &self,
        request: Request<ApprovePlanRequest>,
    ) -> Answer<ApprovePlanResponse> {
        self.asked().approved.push(request.into_inner());
        Ok(Response::new(ApprovePlanResponse {
            plan: Some(plan(9)),
        }))
    }

    async fn start_drill(&self, request: Request<StartDrillRequest>) -> Answer<StartDrillResponse> {
        self.asked().drills.push(request.into_inner());
        Ok(Response::new(StartDrillResponse {
            drill: Some(drill(DrillState::Running)),
        }))
    }

    async fn stop_drill(&self, request: Request<StopDrillRequest>) -> Answer<StopDrillResponse> {
        self.asked().stopped.push(request.into_inner());
        Ok(Response::new(StopDrillResponse {
            drill: Some(drill(DrillState::Stopped)),
        }))
    }

    async fn drop_candidate(
        &self,
        request: Request<DropCandidateRequest>,
    ) -> Answer<DropCandidateResponse> {
        self.asked().dropped.push(request.into_inner());
        Ok(Response::new(DropCandidateResponse {}))
    }
}
