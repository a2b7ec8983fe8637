//! The connection to a control plane.

use std::time::Duration;

use rampmeter_api::v1::{
    fleet_service_client::FleetServiceClient, operator_service_client::OperatorServiceClient,
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::failure::{Failure, root_cause};

/// Largest answer: a fleet file of 4 MiB, or a page of 1000 backends, and room.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Between two pings on a stream, so that one to a host that vanished ends.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A connection.
pub(crate) struct Client {
    address: String,
    timeout: Duration,
    channel: Channel,
}

impl Client {
    pub(crate) async fn connect(address: &str, timeout: Duration) -> Result<Self, Failure> {
        let unreachable = |error: tonic::transport::Error| Failure::Unreachable {
            address: address.to_owned(),
            reason: root_cause(&error),
        };
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(unreachable)?
            .connect_timeout(timeout)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(timeout);
        Ok(Self {
            address: address.to_owned(),
            timeout,
            channel: endpoint.connect().await.map_err(unreachable)?,
        })
    }

    pub(crate) fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A request that must be answered within the time-out.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// The answer, or what its status means.
    pub(crate) fn answer<T>(&self, result: Result<Response<T>, Status>) -> Result<T, Failure> {
        let answer = result.map(Response::into_inner);
        answer.map_err(|status| self.failure(&status))
    }

    pub(crate) fn failure(&self, status: &Status) -> Failure {
        Failure::of(status, &self.address)
    }

    /// A stream ended that should go on.
    pub(crate) fn ended(&self) -> Failure {
        Failure::Unreachable {
            address: self.address.clone(),
            reason: "it ended the stream, as when it stops".to_owned(),
        }
    }
}
