//! Clients of a replica's gRPC services.

use std::{net::SocketAddr, time::Duration};

use rampmeter_api::v1::{
    self, Agent, Backend, BreakerState, Event, agent_service_client::AgentServiceClient,
    fleet_service_client::FleetServiceClient, operator_service_client::OperatorServiceClient,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Longer than any answer of a healthy replica takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection to one replica.
#[derive(Debug, Clone)]
pub struct Api {
    /// Questions.
    pub fleet: FleetServiceClient<Channel>,
    /// Changes.
    pub operator: OperatorServiceClient<Channel>,
    /// What agents use.
    pub agents: AgentServiceClient<Channel>,
}

impl Api {
    /// Connects.
    ///
    /// # Errors
    /// Nobody accepts the connection.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(PATIENCE);
        let channel = endpoint.connect().await?;
        Ok(Self {
            fleet: FleetServiceClient::new(channel.clone()),
            operator: OperatorServiceClient::new(channel.clone()),
            agents: AgentServiceClient::new(channel),
        })
    }

    /// A backend by name.
    ///
    /// # Errors
    /// The replica's own.
    pub async fn backend(&self, name: &str) -> Result<Backend, Status> {
        let request = v1::GetBackendRequest {
            name: name.to_owned(),
        };
        let response = self.fleet.clone().get_backend(request).await?.into_inner();
        response
            .backend
            .ok_or_else(|| Status::internal("no backend in the answer"))
    }

    /// Why a backend is in its state.
    ///
    /// # Errors
    /// The replica's own.
    pub async fn explain(&self, name: &str) -> Result<v1::ExplainBackendResponse, Status> {
        let request = v1::ExplainBackendRequest {
            name: name.to_owned(),
        };
        Ok(self
            .fleet
            .clone()
            .explain_backend(request)
            .await?
            .into_inner())
    }

    /// Every agent.
    ///
    /// # Errors
    /// The replica's own.
    pub async fn agents(&self) -> Result<Vec<Agent>, Status> {
        let request = v1::ListAgentsRequest {
            page_size: 1000,
            ..Default::default()
        };
        Ok(self
            .fleet
            .clone()
            .list_agents(request)
            .await?
            .into_inner()
            .agents)
    }

    /// A backend's events, oldest first.
    ///
    /// # Errors
    /// The replica's own.
    pub async fn events(&self, backend: &str) -> Result<Vec<Event>, Status> {
        let request = v1::ListEventsRequest {
            backend: backend.to_owned(),
            page_size: 1000,
            ..Default::default()
        };
        let mut events = self
            .fleet
            .clone()
            .list_events(request)
            .await?
            .into_inner()
            .events;
        events.reverse();
        Ok(events)
    }

    /// A service: where its traffic goes.
    ///
    /// # Errors
    /// The replica's own.
    pub async fn service(&self, name: &str) -> Result<v1::GetServiceResponse, Status> {
        let request = v1::GetServiceRequest {
            name: name.to_owned(),
        };
        Ok(self.fleet.clone().get_service(request).await?.into_inner())
    }

    /// Events of a service as a whole, oldest first.
    ///
    /// # Errors
    /// The replica's own.
    pub async fn service_events(&self, service: &str) -> Result<Vec<Event>, Status> {
        let request = v1::ListEventsRequest {
            service: service.to_owned(),
            page_size: 1000,
            ..Default::default()
        };
        let page = self.fleet.clone().list_events(request).await?;
        let mut events = page.into_inner().events;
        events.reverse();
        Ok(events)
    }

    /// The state a backend is in.
    ///
    /// # Errors
    /// The replica's own.
    pub async fn breaker(&self, name: &str) -> Result<BreakerState, Status> {
        Ok(self.backend(name).await?.state())
    }
}

/// A state without its prefix: `OPEN`.
pub fn state_name(state: BreakerState) -> &'static str {
    state.as_str_name().trim_start_matches("BREAKER_STATE_")
}
