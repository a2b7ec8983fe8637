//! The context that backends see.

use std::net::SocketAddr;

use super::{
    super::{
        OK,
        http2::{backend, client, full, grpc, with_trailers},
        rig::{Rig, Scripted, field, within},
    },
    desk, tracing,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A collector that nobody listens on: spans are lost, contexts are not.
const NOBODY: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(
    std::net::Ipv4Addr::LOCALHOST,
    1,
));

/// The header that a backend sees of a request with these fields, while a share
/// of requests is traced, or none.
async fn seen(fields: &str, sample: Option<f64>) -> String {
    let endpoint = Scripted::start().await;
    let rig = Rig::in_front_of(endpoint.address, "");
    let mut desk = desk(&rig.sight);
    let tracing = sample.map(|sample| tracing(NOBODY, sample));
    desk.apply(None, tracing.as_ref());
    let mut client = rig.client().await;
    client
        .write(&format!(
            "GET / HTTP/1.1\r\nhost: a.example\r\n{fields}\r\n"
        ))
        .await;
    let mut upstream = endpoint.accept().await;
    let head = upstream.head().await;
    upstream.write(OK).await;
    client.until("ok").await;
    head
}

/// Trace id, span id, flags.
fn parts(head: &str) -> (String, String, String) {
    let value = field(head, "traceparent");
    let parts: Vec<_> = value.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{head}");
    (
        parts[1].to_owned(),
        parts[2].to_owned(),
        parts[3].to_owned(),
    )
}

#[tokio::test]
async fn without_tracing_a_context_passes_untouched_and_none_is_made() {
    let odd = "traceparent: 00-odd\r\ntracestate: =\r\n";
    let head = seen(odd, None).await;
    assert_eq!(field(&head, "traceparent"), "00-odd");
    assert_eq!(field(&head, "tracestate"), "=");
    assert!(!seen("", None).await.contains("traceparent"));
}

#[tokio::test]
async fn a_sampled_caller_s_trace_goes_on_with_our_span_as_its_parent() {
    let sent = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1, b=2\r\n");
    // The caller decides, not our sample.
    let head = seen(&sent, Some(0.0)).await;
    let (trace, span, flags) = parts(&head);
    assert_eq!((&*trace, &*flags), (TRACE, "01"));
    assert_ne!(span, SPAN);
    assert_eq!(field(&head, "tracestate"), "a=1, b=2");
}

#[tokio::test]
async fn a_caller_that_does_not_sample_is_passed_on_as_it_is() {
    let sent = format!("traceparent: 00-{TRACE}-{SPAN}-00\r\ntracestate: a=1\r\n");
    let head = seen(&sent, Some(1.0)).await;
    assert_eq!(parts(&head), (TRACE.into(), SPAN.into(), "00".into()));
    assert_eq!(field(&head, "tracestate"), "a=1");
}

#[tokio::test]
async fn an_invalid_context_is_as_good_as_none() {
    for sent in [
        String::new(),
        format!("traceparent: 00-{TRACE}-{SPAN}-1\r\ntracestate: a=1\r\n"),
        format!("traceparent: ff-{TRACE}-{SPAN}-01\r\ntracestate: a=1\r\n"),
        format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n").repeat(2),
        "tracestate: a=1\r\n".to_owned(),
    ] {
        for (sample, expected) in [(1.0, "03"), (0.0, "02")] {
            let head = seen(&sent, Some(sample)).await;
            let (trace, _, flags) = parts(&head);
            assert_ne!(trace, TRACE, "{sent}");
            assert_eq!(flags, expected, "{sent}");
            assert!(!head.contains("tracestate"), "{head}");
        }
    }
}

#[tokio::test]
async fn a_state_that_is_invalid_goes_and_its_parent_stays() {
    let sent = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1,a=2\r\n");
    let head = seen(&sent, Some(1.0)).await;
    assert_eq!(parts(&head).0, TRACE);
    assert!(!head.contains("tracestate"), "{head}");
}

#[tokio::test]
async fn a_later_version_is_continued_in_ours() {
    let sent = format!("traceparent: cc-{TRACE}-{SPAN}-ff-more\r\n");
    let head = seen(&sent, Some(0.0)).await;
    let (trace, _, flags) = parts(&head);
    assert_eq!((&*trace, &*flags), (TRACE, "03"));
}

#[tokio::test]
async fn grpc_metadata_carry_the_context_as_well() {
    let address = backend(async |request| {
        let parent = request.headers()["traceparent"].clone();
        let parent = parent.to_str().expect("text");
        assert!(parent.starts_with(&format!("00-{TRACE}-")), "{parent}");
        assert!(
            !parent.contains(SPAN) && parent.ends_with("-01"),
            "{parent}"
        );
        http::Response::builder()
            .header("content-type", "application/grpc")
            .body(with_trailers("", &[("grpc-status", "0")]))
            .expect("a response")
    })
    .await;
    let rig = Rig::in_front_of(address, "");
    let mut desk = desk(&rig.sight);
    desk.apply(None, Some(&tracing(NOBODY, 0.0)));
    let mut client = client(rig.address).await;
    let mut request = grpc(full(""));
    let value = format!("00-{TRACE}-{SPAN}-01");
    let headers = request.headers_mut();
    headers.insert("traceparent", value.parse().expect("a value"));
    let response = within(client.send_request(request)).await;
    assert_eq!(response.expect("an answer").status(), 200);
}
