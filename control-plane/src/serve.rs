//! One replica from start to end. The caller owns the sockets, the store and the
//! end, so tests and the demo come in by the same door as `main`.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use rampmeter_api::v1::{
    fleet_service_server::FleetServiceServer, operator_service_server::OperatorServiceServer,
};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::transport::Server;

use crate::{
    accept, config,
    coordinator::Coordinator,
    health, http, peers,
    plane::{Plane, until_set},
    probes, quota,
    services::{fleet::Reader, operator::Operator},
    settle,
    store::{ReplicaId, Store},
    wire::AgentServer,
};

/// HTTP/2 pings on a quiet connection, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// See [`KEEPALIVE`].
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(10);

/// Calls at a time on one connection: an agent needs one, a dashboard a few.
const STREAMS: u32 = 16;

/// Largest header list: errors of a configuration travel in it.
const HEADERS: u32 = 16 << 10;

/// Largest call of an operator: a fleet file at its cap, with actor and reason.
/// The default of 4 MiB for the whole message is just too small.
const OPERATOR_MESSAGE: usize = fleet_config::MAX_FILE_BYTES + (64 << 10);

/// How long streams may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// What a replica needs.
pub struct Options {
    /// Its name, unique for each start of a process.
    pub name: ReplicaId,
    /// The fleet file; `None` waits for `ApplyConfig`.
    pub config: Option<config::ConfigFile>,
    /// Where replicas meet.
    pub store: Arc<dyn Store>,
    /// The store's address for people, without credentials.
    pub store_name: String,
}

/// Bound sockets.
#[derive(Debug)]
pub struct Listeners {
    /// For agents, readers and operators.
    pub grpc: TcpListener,
    /// For Prometheus and probes.
    pub http: TcpListener,
}

/// Serves until `shutdown`, then sends the agents away and waits for them.
///
/// # Errors
/// The reflection service cannot be built, or the server fails.
pub async fn serve(
    options: Options,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let plane = Arc::new(Plane::new(options.name, options.store, options.store_name));
    let mut tasks = JoinSet::new();
    spawn(&mut tasks, &plane, options.config, listeners.http);
    let server = grpc(plane.clone(), listeners.grpc)?;
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.context("the gRPC server ended"),
        () = shutdown => plane.ending.send_replace(true),
    };
    tracing::info!(
        agents = plane.agents.connected().len(),
        "sending the agents away"
    );
    match tokio::time::timeout(DRAIN, server).await {
        Ok(ended) => ended.context("the gRPC server ended")?,
        Err(_) => tracing::warn!(
            seconds = DRAIN.as_secs(),
            "some streams did not end in time"
        ),
    }
    tasks.shutdown().await;
    Ok(())
}

fn spawn(
    tasks: &mut JoinSet<()>,
    plane: &Arc<Plane>,
    file: Option<config::ConfigFile>,
    listener: TcpListener,
) {
    tasks.spawn(Coordinator::new(plane.clone()).run());
    let of = |plane: &Arc<Plane>| plane.clone();
    let shared = of(plane);
    tasks.spawn(async move { peers::run(&shared).await });
    let shared = of(plane);
    tasks.spawn(async move { config::watch(&shared, file).await });
    let shared = of(plane);
    tasks.spawn(async move { settle::run(&shared).await });
    let shared = of(plane);
    tasks.spawn(async move { probes::run(&shared).await });
    tasks.spawn(quota::run(of(plane)));
    tasks.spawn(http::serve(of(plane), listener));
}

fn grpc(
    plane: Arc<Plane>,
    listener: TcpListener,
) -> anyhow::Result<impl Future<Output = Result<(), tonic::transport::Error>>> {
    let descriptors = rampmeter_api::DESCRIPTOR_SET;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let (reporter, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(health::run(plane.clone(), reporter));
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_WITHIN))
        .http2_max_header_list_size(HEADERS)
        .max_concurrent_streams(STREAMS)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(AgentServer(plane.clone()))
        .add_service(
            OperatorServiceServer::new(Operator::new(plane.clone()))
                .max_decoding_message_size(OPERATOR_MESSAGE),
        )
        .add_service(FleetServiceServer::new(Reader::new(plane.clone())));
    let incoming = accept::accept(plane.clone(), listener);
    Ok(
        router
            .serve_with_incoming_shutdown(incoming, async move { until_set(&plane.ending).await }),
    )
}
