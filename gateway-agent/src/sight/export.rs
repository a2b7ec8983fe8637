//! Spans on their way to a collector, OTLP over gRPC, in batches. A collector
//! that is down or slow costs spans, which are counted: this holds one batch, and
//! what waits behind it is bounded by the queues.

use std::time::{Duration, Instant};

use fleet_config::Tracing;
use http::uri::PathAndQuery;
use tokio::time::{interval, sleep, timeout};
use tonic::{
    Code, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    dice::uniform,
    sight::{
        otlp::{
            EXPORT, ExportRequest, ExportResponse, KeyValue, Resource, ResourceSpans, Scope,
            ScopeSpans, Span,
        },
        record::MAX_ATTEMPTS,
        setup::{Queues, Sight},
        spans,
    },
};

/// Spans of one call, as the SDKs have it.
const BATCH: usize = 512;

/// When things happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Between looks into the queues.
    pub(crate) look: Duration,
    /// A batch that is not full goes out after this.
    pub(crate) batch: Duration,
    /// For one call.
    pub(crate) call: Duration,
    /// Before the second call; before each later one it doubles. Less up to a
    /// half, at random.
    pub(crate) backoff: Duration,
    /// Calls for one batch.
    pub(crate) calls: u32,
}

/// A batch may take a minute and a half; a collector is restarted in less.
pub(crate) const PACE: Pace = Pace {
    look: Duration::from_millis(50),
    batch: Duration::from_secs(5),
    call: Duration::from_secs(10),
    backoff: Duration::from_millis(500),
    calls: 6,
};

/// Exports until every core has let go of its queue.
pub(crate) struct Exporter {
    pub(crate) collector: Endpoint,
    pub(crate) service_name: String,
    pub(crate) agent: String,
    pub(crate) sight: Sight,
    pub(crate) pace: Pace,
}

/// Where the collector is.
///
/// # Errors
/// In a sentence for the operator.
pub(crate) fn collector(tracing: &Tracing) -> Result<Endpoint, String> {
    let url = &tracing.otlp_endpoint;
    let endpoint = Endpoint::from_shared(url.clone());
    let endpoint = endpoint.map_err(|error| format!("otlp_endpoint {url}: {error}"))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(3)))
}

impl Exporter {
    pub(crate) async fn run(self, mut queues: Queues) {
        let channel = self.collector.connect_lazy();
        let mut client = Grpc::new(channel);
        let mut tick = interval(self.pace.look);
        let mut spans: Vec<Span> = Vec::new();
        let mut oldest = None;
        let mut lost = false;
        loop {
            let mut full = false;
            let more = queues.drain(|record| {
                spans::add(&record, &mut spans);
                oldest = oldest.or(Some(Instant::now()));
                full = spans.len() + 1 + MAX_ATTEMPTS > BATCH;
                !full
            });
            let overdue = oldest.is_some_and(|at| at.elapsed() >= self.pace.batch);
            if full || overdue || !(more || spans.is_empty()) {
                oldest = None;
                let exported = self.export(&mut client, std::mem::take(&mut spans)).await;
                if let (Err(status), false) = (&exported, lost) {
                    let (code, why) = (status.code(), status.message());
                    tracing::warn!("the collector does not take spans: {code:?}: {why}");
                }
                if exported.is_ok() && lost {
                    tracing::info!("the collector takes spans again");
                }
                lost = exported.is_err();
            }
            if !more {
                return;
            }
            if !full {
                tick.tick().await;
            }
        }
    }

    /// Calls until the collector has them, or has had its chances.
    async fn export(&self, client: &mut Grpc<Channel>, spans: Vec<Span>) -> Result<(), Status> {
        let count = spans.len() as u64;
        let counts = &self.sight.counts;
        let request = self.request(spans);
        let mut wait = self.pace.backoff;
        for calls_left in (0..self.pace.calls).rev() {
            let called = timeout(self.pace.call, call(client, request.clone())).await;
            let called = called.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
            match called {
                Ok(response) => {
                    let rejected = response
                        .partial_success
                        .map_or(0, |some| some.rejected_spans);
                    let rejected = u64::try_from(rejected).unwrap_or(0).min(count);
                    counts.spans_exported.add(count - rejected);
                    counts.spans_dropped.add(rejected);
                    return Ok(());
                }
                Err(status) if calls_left == 0 || !is_passing(status.code()) => {
                    counts.spans_dropped.add(count);
                    return Err(status);
                }
                Err(_) => sleep(wait.mul_f64(1.0 - uniform() / 2.0)).await,
            }
            wait *= 2;
        }
        Ok(())
    }

    fn request(&self, spans: Vec<Span>) -> ExportRequest {
        let version = env!("CARGO_PKG_VERSION");
        let attributes = vec![
            KeyValue::text("service.name", &*self.service_name),
            KeyValue::text("service.version", version),
            KeyValue::text("service.instance.id", &*self.agent),
        ];
        ExportRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource { attributes }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(Scope {
                        name: "rampmeter".to_owned(),
                        version: version.to_owned(),
                    }),
                    spans,
                }],
            }],
        }
    }
}

async fn call(
    client: &mut Grpc<Channel>,
    request: ExportRequest,
) -> Result<ExportResponse, Status> {
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<ExportRequest, ExportResponse>::default();
    let path = PathAndQuery::from_static(EXPORT);
    let response = client
        .unary(tonic::Request::new(request), path, codec)
        .await;
    Ok(response?.into_inner())
}

/// The codes after which OTLP wants another call. RESOURCE_EXHAUSTED is not one of
/// them without a word on when, and then it is as good as a drop.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}
