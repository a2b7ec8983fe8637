//! `AgentService` over bytes that are already encoded, so that one change is
//! encoded once and shared by all streams. The generated server would encode
//! the same message again for each of them.

use std::{convert::Infallible, sync::Arc, task};

use bytes::{Buf, BufMut, Bytes};
use futures_util::future::BoxFuture;
use prost::Message;
use rampmeter_api::v1;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{NamedService, StreamingService},
};

use crate::{plane::Plane, stream};

/// Largest message of an agent. A report may have [`REPORT_LIMIT`]; a hello
/// carries every decision that the agent holds.
const MESSAGE_LIMIT: usize = 4 << 20;

/// Largest report: some thousand backends with a full window each second.
pub const REPORT_LIMIT: usize = 256 << 10;

/// An agent's message and its size in bytes.
#[derive(Debug)]
pub struct Inbound {
    /// Bytes on the wire.
    pub size: usize,
    /// The message.
    pub message: Option<v1::connect_request::Message>,
}

/// What goes to an agent: an encoded `ConnectResponse`, or the end.
pub type Outbound = Result<Bytes, Status>;

/// The service, as tonic routes it.
#[derive(Clone)]
pub struct AgentServer(pub Arc<Plane>);

impl NamedService for AgentServer {
    const NAME: &'static str = "rampmeter.v1.AgentService";
}

impl tower::Service<http::Request<tonic::body::Body>> for AgentServer {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let plane = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != "/rampmeter.v1.AgentService/Connect" {
                return Ok(Status::unimplemented("AgentService has one call: Connect").into_http());
            }
            let mut grpc = tonic::server::Grpc::new(SharedCodec)
                .apply_max_message_size_config(Some(MESSAGE_LIMIT), None);
            Ok(grpc.streaming(Connect(plane), request).await)
        })
    }
}

struct Connect(Arc<Plane>);

impl StreamingService<Inbound> for Connect {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Outbound>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Inbound>>) -> Self::Future {
        let plane = self.0.clone();
        Box::pin(async move { stream::connect(plane, request.into_inner()).await })
    }
}

struct SharedCodec;

impl Codec for SharedCodec {
    type Encode = Bytes;
    type Decode = Inbound;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for SharedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(frame);
        Ok(())
    }
}

impl Decoder for SharedCodec {
    type Item = Inbound;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Inbound>, Status> {
        let size = from.remaining();
        let request = v1::ConnectRequest::decode(from)
            .map_err(|e| Status::invalid_argument(format!("not a ConnectRequest: {e}")))?;
        Ok(Some(Inbound {
            size,
            message: request.message,
        }))
    }
}
