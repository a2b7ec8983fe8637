//! Spans at a collector that speaks with OpenTelemetry's own types.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::{
    super::{
        GET, OK,
        rig::{Rig, Scripted, field, within},
    },
    desk, tracing, until,
};
use crate::{admit::refusal::RefusalReason, sight::setup::QUEUE};

/// What came, and how it is answered.
#[derive(Clone)]
struct Collector {
    came: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    /// Calls that fail first.
    failing: Arc<Mutex<Vec<Status>>>,
    /// Calls that may end.
    open: Arc<Semaphore>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let passed = self.open.acquire().await;
        passed.map_err(|_| Status::internal("closed"))?.forget();
        if let Some(status) = self.failing.lock().expect("a lock").pop() {
            return Err(status);
        }
        self.came.lock().expect("a lock").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(calls: usize) -> (Self, SocketAddr) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        let collector = Self {
            came: Arc::default(),
            failing: Arc::default(),
            open: Arc::new(Semaphore::new(calls)),
        };
        let service = TraceServiceServer::new(collector.clone());
        let serving = Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    fn spans(&self) -> Vec<Span> {
        let came = self.came.lock().expect("a lock");
        let resources = came.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// So many spans, once they are there: servers' first.
    async fn collected(&self, count: usize) -> Vec<Span> {
        until(|| self.spans().len() >= count).await;
        let mut spans = self.spans();
        spans.sort_by_key(|span| (span.kind, span.start_time_unix_nano));
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

fn attributes(attributes: &[KeyValue]) -> HashMap<&str, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    let pair = |pair| Some((KeyValue::key(pair), text(pair)?));
    attributes.iter().filter_map(pair).collect()
}

trait Key {
    fn key(&self) -> &str;
}

impl Key for KeyValue {
    fn key(&self) -> &str {
        &self.key
    }
}

fn check(span: &Span, expected: &[(&str, &str)]) {
    let attributes = attributes(&span.attributes);
    for (key, value) in expected {
        assert_eq!(
            attributes.get(key).map(|v| &**v),
            Some(*value),
            "{key} of {attributes:?}"
        );
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn a_request_is_a_server_s_span_with_a_client_s_under_it() {
    let (collector, address) = Collector::start(1).await;
    let endpoint = Scripted::start().await;
    let rig = Rig::in_front_of(endpoint.address, "");
    let mut desk = desk(&rig.sight);
    desk.apply(None, Some(&tracing(address, 0.0)));
    let mut client = rig.client().await;
    client
        .write(&format!(
            "GET /x?token=secret HTTP/1.1\r\nhost: a.example:81\r\nuser-agent: me\r\n\
             traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1\r\n\r\n"
        ))
        .await;
    let mut upstream = endpoint.accept().await;
    let head = upstream.head().await;
    upstream.write(OK).await;
    client.until("ok").await;

    let spans = collector.collected(2).await;
    let [server, attempt] = &spans[..] else {
        unreachable!()
    };
    assert_eq!(
        (server.kind(), attempt.kind()),
        (SpanKind::Server, SpanKind::Client)
    );
    for span in &spans {
        assert_eq!(
            (hex(&span.trace_id), &*span.trace_state),
            (TRACE.into(), "a=1")
        );
        assert_eq!(span.name, "GET");
        assert_eq!(span.status, None);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        let told = attributes(&span.attributes);
        assert!(
            told.values().all(|value| !value.contains("secret")),
            "{told:?}"
        );
    }
    assert_eq!(hex(&server.parent_span_id), SPAN);
    assert_eq!(attempt.parent_span_id, server.span_id);
    // What the backend does hangs under the attempt.
    let seen = field(&head, "traceparent");
    assert_eq!(seen, format!("00-{TRACE}-{}-01", hex(&attempt.span_id)));
    assert!(server.start_time_unix_nano <= attempt.start_time_unix_nano);
    assert!(attempt.end_time_unix_nano <= server.end_time_unix_nano);
    assert_eq!((server.flags, attempt.flags), (0x301, 0x101));
    check(
        server,
        &[
            ("http.request.method", "GET"),
            ("url.path", "/x"),
            ("url.scheme", "http"),
            ("server.address", "a.example"),
            ("server.port", "81"),
            ("client.address", "127.0.0.1"),
            ("user_agent.original", "me"),
            ("http.response.status_code", "200"),
            ("http.response.body.size", "2"),
            ("network.protocol.version", "1.1"),
            ("rampmeter.service", "s"),
            ("rampmeter.backend", "s/r"),
            ("rampmeter.decision", "0.0"),
        ],
    );
    check(
        attempt,
        &[
            ("server.address", "127.0.0.1"),
            ("server.port", &endpoint.address.port().to_string()),
            ("http.response.status_code", "200"),
            ("rampmeter.service", "s"),
            ("rampmeter.backend", "s/r"),
        ],
    );
    let came = collector.came.lock().expect("a lock");
    let resource = came[0].resource_spans[0].resource.as_ref();
    let resource = attributes(&resource.expect("a resource").attributes);
    assert_eq!(
        (
            &*resource["service.name"],
            &*resource["service.instance.id"]
        ),
        ("edge", "a1")
    );
}

#[tokio::test]
async fn what_we_refuse_or_cannot_forward_is_an_error_with_its_reason() {
    let (collector, address) = Collector::start(10).await;
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let rig = Rig::in_front_of(nobody, "");
    let mut desk = desk(&rig.sight);
    desk.apply(None, Some(&tracing(address, 1.0)));
    let mut client = rig.client().await;
    client.write(GET).await;
    client.until("}\n").await;
    let spans = collector.collected(2).await;
    let reasons = [("error.type", "connect"), ("rampmeter.backend", "s/r")];
    for span in &spans {
        let status = span.status.as_ref().expect("a status");
        assert_eq!(status.code(), StatusCode::Error);
        check(span, &reasons);
    }
    check(
        &spans[0],
        &[
            ("http.response.status_code", "502"),
            ("rampmeter.reason", "connect"),
        ],
    );
    assert!(spans[0].parent_span_id.is_empty(), "the trace begins here");
    assert_eq!(spans[0].flags, 0x103);

    collector.came.lock().expect("a lock").clear();
    rig.refuse(
        "r",
        RefusalReason::HalfOpen,
        Duration::from_secs(3600 * 24 * 3),
    );
    client.write(GET).await;
    client.until("}\n").await;
    let spans = collector.collected(1).await;
    check(
        &spans[0],
        &[
            ("http.response.status_code", "503"),
            ("rampmeter.reason", "half_open"),
            ("rampmeter.decision", "3.42"),
            ("error.type", "half_open"),
        ],
    );
}

#[tokio::test]
async fn a_span_ends_with_the_response_or_with_its_client() {
    let (collector, address) = Collector::start(10).await;
    let endpoint = Scripted::start().await;
    let rig = Rig::in_front_of(endpoint.address, "");
    let mut desk = desk(&rig.sight);
    desk.apply(None, Some(&tracing(address, 1.0)));
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = endpoint.accept().await;
    upstream.head().await;
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\nhalf";
    upstream.write(half).await;
    client.until("half").await;
    assert!(collector.spans().is_empty(), "it is not over");
    drop(client);
    for span in collector.collected(2).await {
        check(&span, &[("error.type", "client_gone")]);
    }
}

#[tokio::test]
async fn a_collector_that_fails_for_a_while_gets_the_spans_all_the_same() {
    let (collector, address) = Collector::start(10).await;
    let passing = [
        Status::unavailable("soon"),
        Status::deadline_exceeded("soon"),
    ];
    collector.failing.lock().expect("a lock").extend(passing);
    let rig = Rig::unconfigured();
    let mut desk = desk(&rig.sight);
    desk.apply(None, Some(&tracing(address, 1.0)));
    let mut client = rig.client().await;
    client.write(GET).await;
    client.until("}\n").await;
    collector.collected(1).await;
    until(|| rig.sight.counts.spans_exported.get() == 1).await;

    // One that will not take them is not asked again.
    let never = Status::invalid_argument("never");
    collector.failing.lock().expect("a lock").push(never);
    client.write(GET).await;
    client.until("}\n").await;
    until(|| rig.sight.counts.spans_dropped.get() == 1).await;
    assert_eq!(collector.spans().len(), 1);
}

#[tokio::test]
async fn a_collector_that_is_down_or_hangs_costs_spans_and_no_request() {
    // Down; and one that takes no call to its end.
    let down = SocketAddr::from(([127, 0, 0, 1], 1));
    let (_hanging, hangs) = Collector::start(0).await;
    for collector in [down, hangs] {
        let rig = Rig::unconfigured();
        let mut desk = desk(&rig.sight);
        desk.apply(None, Some(&tracing(collector, 1.0)));
        let asked = QUEUE as u64 + 2000;
        let mut client = rig.client().await;
        let pipelined = GET.repeat(20);
        for _ in 0..asked.div_ceil(20) {
            client.write(&pipelined).await;
            for _ in 0..20 {
                client.until("}\n").await;
            }
        }
        // Everything that is not still waiting was counted.
        let counts = rig.sight.counts.clone();
        until(|| counts.spans_dropped.get() > 0).await;
        assert_eq!(counts.spans_exported.get(), 0);
        rig.drain();
        within(rig.ended()).await;
    }
}

#[tokio::test]
async fn a_share_of_requests_without_a_context_is_traced() {
    let (collector, address) = Collector::start(1000).await;
    let rig = Rig::unconfigured();
    let mut desk = desk(&rig.sight);
    desk.apply(None, Some(&tracing(address, 0.25)));
    let mut client = rig.client().await;
    for _ in 0..400 {
        client.write(GET).await;
        client.until("}\n").await;
    }
    rig.drain();
    drop(client);
    rig.ended().await;
    tokio::task::spawn_blocking(|| desk.close())
        .await
        .expect("no panic");
    let spans = collector.spans().len();
    assert!((50..150).contains(&spans), "{spans}");
}

#[tokio::test]
async fn every_attempt_is_a_span_that_its_backend_sees_as_its_parent() {
    let (collector, address) = Collector::start(10).await;
    let endpoint = Scripted::start().await;
    let rig = Rig::in_front_of(endpoint.address, "retry: {}");
    let mut desk = desk(&rig.sight);
    desk.apply(None, Some(&tracing(address, 1.0)));
    let mut client = rig.client().await;
    client.write(GET).await;
    // The first one breaks off, the second one answers.
    let mut first = endpoint.accept().await;
    let mut heads = vec![first.head().await];
    drop(first);
    let mut second = endpoint.accept().await;
    heads.push(second.head().await);
    second.write(OK).await;
    client.until("ok").await;

    let spans = collector.collected(3).await;
    let server = &spans[0];
    assert_eq!((server.kind(), &server.status), (SpanKind::Server, &None));
    for (attempt, head) in spans[1..].iter().zip(&heads) {
        assert_eq!(attempt.kind(), SpanKind::Client);
        assert_eq!(attempt.trace_id, server.trace_id);
        assert_eq!(attempt.parent_span_id, server.span_id);
        let (trace, span) = (hex(&attempt.trace_id), hex(&attempt.span_id));
        assert_eq!(field(head, "traceparent"), format!("00-{trace}-{span}-03"));
    }
    let (first, second) = (&spans[1], &spans[2]);
    assert!(first.end_time_unix_nano <= second.start_time_unix_nano);
    check(first, &[("error.type", "reset")]);
    check(
        second,
        &[
            ("http.request.resend_count", "1"),
            ("http.response.status_code", "200"),
        ],
    );
    let again = attributes(&first.attributes);
    assert!(!again.contains_key("http.request.resend_count"));
}
