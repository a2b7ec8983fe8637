//! `FleetService`: reads, answered from the board and the replicas' presence.
//! Only events are read from the store.

mod candidate;
mod explain;
mod render;
mod services;
mod watching;

use std::{pin::Pin, sync::Arc};

use breaker_core::{AgentId, BackendName, breaker::StateName, ids::ServiceName, steering::Drill};
use prost::Message;
use rampmeter_api::{
    convert::steering,
    v1::{self, fleet_service_server::FleetService},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{paging, status};
use crate::{
    config::Fleet,
    drills,
    plane::Plane,
    store::{EventCursor, EventQuery},
};

/// The service.
#[derive(Clone)]
pub struct Reader {
    plane: Arc<Plane>,
    watchers: watching::Watchers,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Reader {
    /// Reads from this replica.
    pub fn new(plane: Arc<Plane>) -> Self {
        Self {
            plane,
            watchers: watching::Watchers::default(),
        }
    }

    fn fleet(&self) -> Result<Arc<Fleet>, Status> {
        self.plane.fleet().ok_or_else(status::no_config)
    }

    /// The drill that runs, or the last one, of each service.
    fn drills(&self, fleet: &Fleet) -> Vec<Drill> {
        let services = self.plane.board.services.all().into_iter();
        services
            .filter_map(|(_, seen)| drills::shown(&self.plane, fleet, &seen))
            .collect()
    }

    /// Only backends of this service; all when empty.
    fn backends(&self, fleet: &Fleet, service: &str) -> Result<Vec<v1::Backend>, Status> {
        if !service.is_empty() {
            status::known_service(fleet, service)?;
        }
        let names = fleet.config.backends().map(|(name, ..)| name);
        let names = names.filter(|n| service.is_empty() || n.service() == service);
        let mut names: Vec<&BackendName> = names.collect();
        names.sort();
        Ok(names
            .into_iter()
            .filter_map(|n| render::backend(&self.plane, fleet, n))
            .collect())
    }
}

#[tonic::async_trait]
impl FleetService for Reader {
    async fn get_fleet(
        &self,
        _: Request<v1::GetFleetRequest>,
    ) -> Result<Response<v1::GetFleetResponse>, Status> {
        Ok(Response::new(render::fleet(&self.plane)))
    }

    async fn list_services(
        &self,
        _: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let fleet = self.fleet()?;
        let services = fleet.config.services.iter();
        let services = services
            .map(|(name, service)| render::service(name, service))
            .collect();
        Ok(Response::new(v1::ListServicesResponse { services }))
    }

    async fn get_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::GetServiceResponse>, Status> {
        let fleet = self.fleet()?;
        let name = &request.get_ref().name;
        status::known_service(&fleet, name)?;
        Ok(Response::new(services::service(
            &self.plane,
            &fleet,
            name,
            self.backends(&fleet, name)?,
        )))
    }

    async fn list_backends(
        &self,
        request: Request<v1::ListBackendsRequest>,
    ) -> Result<Response<v1::ListBackendsResponse>, Status> {
        let request = request.into_inner();
        let fleet = self.fleet()?;
        for state in &request.states {
            if v1::BreakerState::try_from(*state).is_err() {
                let message =
                    format!("{state} is no state: allowed are CLOSED, OPEN and HALF_OPEN");
                return Err(status::invalid("states", message));
            }
        }
        let backends = self.backends(&fleet, &request.service)?.into_iter();
        let wanted =
            |b: &v1::Backend| request.states.is_empty() || request.states.contains(&b.state);
        let (backends, next_page_token) = paging::page(
            backends.filter(wanted),
            |b| &b.name,
            request.page_size,
            &request.page_token,
        )?;
        Ok(Response::new(v1::ListBackendsResponse {
            backends,
            next_page_token,
        }))
    }

    async fn get_backend(
        &self,
        request: Request<v1::GetBackendRequest>,
    ) -> Result<Response<v1::GetBackendResponse>, Status> {
        let fleet = self.fleet()?;
        let name = status::backend(&fleet, &request.get_ref().name)?;
        let backend = render::backend(&self.plane, &fleet, &name);
        Ok(Response::new(v1::GetBackendResponse { backend }))
    }

    async fn explain_backend(
        &self,
        request: Request<v1::ExplainBackendRequest>,
    ) -> Result<Response<v1::ExplainBackendResponse>, Status> {
        let fleet = self.fleet()?;
        let name = status::backend(&fleet, &request.get_ref().name)?;
        explain::explain(&self.plane, &fleet, &name)
            .await
            .map(Response::new)
    }

    type WatchBackendsStream = Streamed<v1::WatchBackendsResponse>;

    async fn watch_backends(
        &self,
        request: Request<v1::WatchBackendsRequest>,
    ) -> Result<Response<Self::WatchBackendsStream>, Status> {
        let service = request.into_inner().service;
        if !service.is_empty() {
            status::known_service(&*self.fleet()?, &service)?;
        }
        let watcher = self.watchers.enter()?;
        Ok(Response::new(watching::backends(
            self.plane.clone(),
            service,
            watcher,
        )))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        if let (false, Ok(fleet)) = (request.pop.is_empty(), self.fleet()) {
            let known = fleet.config.pops.keys().map(|p| p.as_str());
            if !fleet.config.pops.contains_key(request.pop.as_str()) {
                return Err(status::not_found("POP", &request.pop, known, "GetFleet"));
            }
        }
        let agents = render::agents(&self.plane).into_iter();
        let agents = agents.filter(|a| request.pop.is_empty() || a.pop == request.pop);
        let (agents, next_page_token) =
            paging::page(agents, |a| &a.name, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListAgentsResponse {
            agents,
            next_page_token,
        }))
    }

    async fn get_agent(
        &self,
        request: Request<v1::GetAgentRequest>,
    ) -> Result<Response<v1::GetAgentResponse>, Status> {
        let name = request.into_inner().name;
        AgentId::new(&name).map_err(|e| status::invalid("name", e.to_string()))?;
        let agents = render::agents(&self.plane);
        let known = agents.iter().map(|a| a.name.as_str());
        let missing = || status::not_found("agent", &name, known.clone(), "ListAgents");
        let agent = agents
            .iter()
            .find(|a| a.name == name)
            .cloned()
            .ok_or_else(missing)?;
        Ok(Response::new(v1::GetAgentResponse { agent: Some(agent) }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let before: Option<EventCursor> = match request.page_token.as_str() {
            "" => None,
            token => Some(
                token
                    .parse()
                    .map_err(|e| status::invalid("page_token", format!("{e}")))?,
            ),
        };
        let (backend, service) = event_filter(&request.backend, &request.service)?;
        let query = EventQuery {
            backend,
            service,
            limit: paging::size(request.page_size)?,
            before,
        };
        let page = self.plane.events(query).await;
        let page = page.map_err(|e| status::of_store(&e))?;
        Ok(Response::new(v1::ListEventsResponse {
            events: decode(&page.events),
            next_page_token: page.next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn list_drills(
        &self,
        request: Request<v1::ListDrillsRequest>,
    ) -> Result<Response<v1::ListDrillsResponse>, Status> {
        let service = request.into_inner().service;
        let fleet = self.fleet()?;
        if !service.is_empty() {
            status::known_service(&fleet, &service)?;
        }
        let drills = self.drills(&fleet).into_iter();
        let of = |drill: &Drill| service.is_empty() || drill.backend.service() == service;
        let drills = drills.filter(of).map(|drill| steering::drill(&drill));
        Ok(Response::new(v1::ListDrillsResponse {
            drills: drills.collect(),
        }))
    }

    async fn get_drill(
        &self,
        request: Request<v1::GetDrillRequest>,
    ) -> Result<Response<v1::GetDrillResponse>, Status> {
        let id = request.into_inner().id;
        let drills = self.drills(&*self.fleet()?);
        let drill = drills.iter().find(|drill| drill.id == id);
        let drill = drill.map(steering::drill).ok_or_else(|| {
            let known = drills.iter().map(|drill| drill.id.as_str());
            status::not_found("drill", &id, known, "ListDrills")
        })?;
        Ok(Response::new(v1::GetDrillResponse { drill: Some(drill) }))
    }

    async fn get_candidate(
        &self,
        request: Request<v1::GetCandidateRequest>,
    ) -> Result<Response<v1::GetCandidateResponse>, Status> {
        let service = request.into_inner().service;
        let fleet = self.fleet()?;
        if !service.is_empty() {
            status::known_service(&fleet, &service)?;
        }
        let candidate = candidate::render(&self.plane, &fleet, &service);
        Ok(Response::new(candidate))
    }

    type WatchEventsStream = Streamed<v1::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let request = request.into_inner();
        let (backend, service) = event_filter(&request.backend, &request.service)?;
        let query = EventQuery {
            backend,
            service,
            ..EventQuery::default()
        };
        let watcher = self.watchers.enter()?;
        let stream = watching::events(self.plane.clone(), query, watcher).await;
        stream.map(Response::new).map_err(|e| status::of_store(&e))
    }
}

/// Events outlive what they are about, so the name need not be configured.
fn event_filter(
    backend: &str,
    service: &str,
) -> Result<(Option<BackendName>, Option<ServiceName>), Status> {
    match (backend, service) {
        ("", "") => Ok((None, None)),
        ("", service) => ServiceName::new(service)
            .map(|name| (None, Some(name)))
            .map_err(|e| status::invalid("service", e.to_string())),
        (backend, "") => BackendName::parse(backend)
            .map(|name| (Some(name), None))
            .map_err(|e| status::invalid("backend", e.to_string())),
        (_, _) => {
            let message = "must be empty where a backend is named: its events are its own";
            Err(status::invalid("service", message))
        }
    }
}

fn decode(events: &[bytes::Bytes]) -> Vec<v1::Event> {
    let decoded = events.iter().map(|bytes| v1::Event::decode(bytes.clone()));
    // An event that cannot be read is one of a newer version.
    decoded.filter_map(Result::ok).collect()
}

/// A state's name as people read it.
fn state_word(state: StateName) -> &'static str {
    match state {
        StateName::Closed => "CLOSED",
        StateName::Open => "OPEN",
        StateName::HalfOpen => "HALF_OPEN",
    }
}
