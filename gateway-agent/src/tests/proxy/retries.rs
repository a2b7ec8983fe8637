//! Attempts after the first: where they are made, and above all where not.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use breaker_core::{Timestamp, steering::Fault};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    GET, OK,
    rig::{Rig, Scripted, fleet, within},
};
use crate::admit::{
    recorder::Tally,
    refusal::RefusalReason,
    steer::Bands,
    way::{Course, Injection},
};

const RETRY: &str = "retry: {}";

/// Endpoints of region `r`.
fn endpoints(all: &[SocketAddr], settings: &str) -> String {
    let all: Vec<_> = all.iter().map(|at| format!("'http://{at}'")).collect();
    format!(
        "pops: {{p: {{region_order: [r]}}}}\nservices:\n  s:\n    routes: [{{path_prefix: /}}]\n    \
         backends: {{r: {{endpoints: [{}]}}}}\n    {settings}",
        all.join(", ")
    )
}

/// A port that nobody listens on.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    listener.local_addr().expect("an address")
}

/// A backend that closes the connection on every so many requests, and keeps a
/// receipt of each.
struct Flaky {
    address: SocketAddr,
    receipts: Arc<Mutex<Vec<String>>>,
}

impl Flaky {
    async fn start(every: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let receipts: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, count) = (receipts.clone(), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, every, kept.clone(), count.clone()));
            }
        });
        Self { address, receipts }
    }

    async fn serve(
        mut stream: TcpStream,
        every: usize,
        receipts: Arc<Mutex<Vec<String>>>,
        count: Arc<AtomicUsize>,
    ) {
        let mut seen = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => seen.extend_from_slice(&buffer[..read]),
            }
            if !seen.ends_with(b"\r\n\r\n") && !seen.ends_with(b"hi") {
                continue;
            }
            let text = String::from_utf8_lossy(&seen).into_owned();
            let line = text.lines().next().unwrap_or_default().to_owned();
            receipts.lock().expect("no panic").push(line);
            seen.clear();
            if count.fetch_add(1, SeqCst) % every == every - 1 {
                return;
            }
            if stream.write_all(OK.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn receipts(&self) -> Vec<String> {
        self.receipts.lock().expect("no panic").clone()
    }
}

#[tokio::test]
async fn of_a_backend_that_resets_one_in_ten_callers_see_nothing_and_it_gets_little_more() {
    const REQUESTS: usize = 2000;
    let flaky = Flaky::start(10).await;
    let rig = Rig::in_front_of(flaky.address, RETRY);
    let mut client = rig.client().await;
    let mut failed = 0;
    for at in 0..REQUESTS {
        client
            .write(&format!("GET /{at} HTTP/1.1\r\nhost: a\r\n\r\n"))
            .await;
        let head = client.head().await;
        match head.starts_with("http/1.1 200") {
            true => drop(client.until("ok").await),
            false => {
                failed += 1;
                client.until("}\n").await;
            }
        }
    }
    assert!(failed <= REQUESTS / 1000, "{failed} of {REQUESTS} failed");
    let asked = flaky.receipts().len();
    assert!(asked <= REQUESTS * 12 / 10, "{asked} for {REQUESTS}");
    assert_eq!(rig.served(Tally::Success) as usize, REQUESTS - failed);
    assert_eq!(rig.served(Tally::Failed) as usize, failed);
}

#[tokio::test]
async fn no_post_is_ever_sent_twice() {
    const REQUESTS: usize = 300;
    let flaky = Flaky::start(10).await;
    let rig = Rig::in_front_of(flaky.address, RETRY);
    let mut client = rig.client().await;
    for at in 0..REQUESTS {
        client
            .write(&format!(
                "POST /{at} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi"
            ))
            .await;
        match client.head().await.starts_with("http/1.1 200") {
            true => client.until("ok").await,
            false => client.until("}\n").await,
        };
    }
    let mut receipts = flaky.receipts();
    assert_eq!(receipts.len(), REQUESTS);
    receipts.sort();
    receipts.dedup();
    assert_eq!(receipts.len(), REQUESTS, "each arrived once");
    assert_eq!(rig.count("r", Tally::Retry), 0);
}

#[tokio::test]
async fn answers_are_retried_if_something_on_the_way_failed_and_not_if_there_is_too_much_to_do() {
    for (answer, retried) in [
        ("502 Bad\r\n", true),
        ("504 Late\r\n", true),
        ("503 Down\r\n", true),
        ("503 Busy\r\nretry-after: 0\r\n", false),
        ("429 Busy\r\n", false),
        ("500 Bug\r\n", false),
    ] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, RETRY);
        let mut client = rig.client().await;
        client.write(GET).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        let answer = format!("HTTP/1.1 {answer}content-length: 0\r\n\r\n");
        upstream.write(&answer).await;
        if retried {
            upstream.head().await;
            upstream.write(OK).await;
        }
        let head = client.head().await;
        assert_eq!(head.starts_with("http/1.1 200"), retried, "{answer}");
        assert_eq!(rig.count("r", Tally::Retry), u64::from(retried), "{answer}");
        assert_eq!(rig.served(Tally::Failed), u64::from(!retried), "{answer}");
    }
}

#[tokio::test]
async fn without_the_setting_nothing_is_retried() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream
        .write("HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("http/1.1 502"));
}

#[tokio::test]
async fn the_backend_s_own_answer_is_the_last_word_when_retries_are_used_up() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(
        backend.address,
        "retry: {max_retries: 2, base_backoff: 1ms}",
    );
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    for attempt in 0..3 {
        upstream.head().await;
        upstream
            .write(&format!(
                "HTTP/1.1 502 Bad\r\nx-attempt: {attempt}\r\ncontent-length: 0\r\n\r\n"
            ))
            .await;
    }
    let head = client.head().await;
    assert!(head.contains("x-attempt: 2"), "{head}");
    assert!(!head.contains("x-rampmeter"), "{head}");
    assert_eq!(rig.count("r", Tally::Http5xx), 3, "each is an outcome");
    assert_eq!(rig.served(Tally::Failed), 1, "the caller saw one");
}

#[tokio::test]
async fn a_post_that_was_never_sent_goes_to_another_endpoint() {
    let backend = Scripted::start().await;
    let rig = Rig::start(&endpoints(&[nobody().await, backend.address], RETRY));
    let mut sent = 0;
    while rig.count("r", Tally::Retry) == 0 {
        sent += 1;
        let mut client = rig.client().await;
        client
            .write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi")
            .await;
        let mut upstream = backend.accept().await;
        upstream.until("hi").await;
        upstream
            .write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
            .await;
        client.until("ok").await;
    }
    assert!(rig.count("r", Tally::Connect) > 0);
    assert_eq!(rig.served(Tally::Success), sent);
    assert_eq!(rig.served(Tally::Failed), 0);
}

#[tokio::test]
async fn another_region_helps_out_when_there_is_no_other_endpoint() {
    let (near, far) = (nobody().await, Scripted::start().await);
    let rig = Rig::start(&fleet(&[("near", near), ("far", far.address)], RETRY));
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = far.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    client.until("ok").await;
    assert_eq!(rig.count("near", Tally::Connect), 1);
    assert_eq!(rig.count("far", Tally::Retry), 1);
}

#[tokio::test]
async fn a_breaker_that_opens_meanwhile_refuses_the_retry_and_the_first_answer_stands() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, RETRY);
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    rig.refuse("r", RefusalReason::Open, Duration::from_secs(3600 * 24 * 9));
    upstream
        .write("HTTP/1.1 502 Bad\r\nx-own: 1\r\ncontent-length: 0\r\n\r\n")
        .await;
    assert!(client.head().await.contains("x-own: 1"));
    assert_eq!(rig.count("r", Tally::RetryRefused), 1);
}

#[tokio::test]
async fn a_small_body_is_sent_again_and_a_large_one_is_not() {
    for (size, retried) in [(3, true), (64 << 10, true), ((64 << 10) + 1, false)] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, RETRY);
        let mut client = rig.client().await;
        let body = "x".repeat(size);
        client
            .write(&format!(
                "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n{body}"
            ))
            .await;
        let mut upstream = backend.accept().await;
        let head = upstream.head().await;
        upstream.fill(&mut vec![0; size]).await;
        drop(upstream);
        if retried {
            let mut upstream = backend.accept().await;
            assert_eq!(upstream.head().await, head);
            let mut seen = vec![0; size];
            upstream.fill(&mut seen).await;
            assert!(seen == body.as_bytes());
            upstream.write(OK).await;
        }
        let head = client.head().await;
        assert_eq!(head.starts_with("http/1.1 200"), retried, "{size}: {head}");
    }
}

#[tokio::test]
async fn a_body_that_is_still_coming_is_sent_again_from_its_start() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, RETRY);
    let mut client = rig.client().await;
    client
        .write("PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        .await;
    let mut upstream = backend.accept().await;
    upstream.until("half").await;
    drop(upstream);
    let mut upstream = backend.accept().await;
    upstream.until("half").await;
    client.write("5\r\nother\r\n0\r\n\r\n").await;
    upstream.until("other").await;
    upstream.until("0\r\n\r\n").await;
    upstream.write(OK).await;
    client.until("ok").await;
    rig.in_flight(0).await;
    assert_eq!(rig.served(Tally::Success), 1);
}

#[tokio::test]
async fn retries_end_with_their_budget() {
    let dead = nobody().await;
    let rig = Rig::in_front_of(dead, "retry: {max_retries: 10, base_backoff: 1ms}");
    for _ in 0..10 {
        let mut client = rig.client().await;
        client.write(GET).await;
        assert!(client.head().await.starts_with("http/1.1 502"));
    }
    // Three a second over ten seconds, whatever the share of ten requests is.
    assert_eq!(rig.count("r", Tally::Retry), 30);
    assert_eq!(rig.count("r", Tally::RetryBudget), 7);
    assert_eq!(rig.count("r", Tally::Connect), 40);
    assert_eq!(rig.served(Tally::Failed), 10);
}

#[tokio::test]
async fn one_attempt_may_be_given_up_for_another_within_the_total() {
    let backend = Scripted::start().await;
    let settings = "retry: {base_backoff: 1ms}\n    timeouts: {per_try: 50ms, total: 5s}";
    let rig = Rig::in_front_of(backend.address, settings);
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut hung = backend.accept().await;
    hung.head().await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    client.until("ok").await;
    assert_eq!(rig.count("r", Tally::Timeout), 1);
    // Without a limit of its own, what is slow is not asked twice.
    let plain = "retry: {base_backoff: 1ms}\n    timeouts: {response_headers: 50ms, total: 5s}";
    let rig = Rig::in_front_of(backend.address, plain);
    let mut client = rig.client().await;
    client.write(GET).await;
    assert!(client.head().await.starts_with("http/1.1 504"));
    assert_eq!(rig.count("r", Tally::Retry), 0);
}

#[tokio::test]
async fn all_attempts_together_take_no_longer_than_the_total() {
    let backend = Scripted::start().await;
    let settings =
        "retry: {max_retries: 10, base_backoff: 1ms}\n    timeouts: {per_try: 60ms, total: 150ms}";
    let rig = Rig::in_front_of(backend.address, settings);
    let started = std::time::Instant::now();
    let mut client = rig.client().await;
    client.write(GET).await;
    let head = within(client.head()).await;
    assert!(head.starts_with("http/1.1 504"), "{head}");
    assert!(started.elapsed() < Duration::from_secs(2));
    let attempts = rig.count("r", Tally::Timeout);
    assert!((2..=4).contains(&attempts), "{attempts}");
}

/// Every request to region `r` meets this drill.
fn drill(rig: &Rig, fault: Fault) {
    rig.steer(|service, way| {
        way.drill = Some(Injection {
            id: "1".to_owned(),
            backend: service.regions[0].index,
            fault,
            share: 1.0,
            until: Timestamp::from_millis(u64::MAX),
        });
    });
}

#[tokio::test]
async fn what_a_drill_fails_is_retried_as_if_a_backend_had() {
    const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    for (fault, request, retried) in [
        (Fault::Dead, GET, true),
        (Fault::Dead, POST, true),
        (Fault::Error, GET, true),
        (Fault::Error, POST, false),
        (Fault::Delay(Duration::from_secs(60)), GET, false),
    ] {
        let (near, far) = (Scripted::start().await, Scripted::start().await);
        let settings = "retry: {}\n    timeouts: {response_headers: 50ms}";
        let regions = [("r", near.address), ("far", far.address)];
        let rig = Rig::start(&fleet(&regions, settings));
        drill(&rig, fault);
        let mut client = rig.client().await;
        client.write(request).await;
        if retried {
            let mut upstream = far.accept().await;
            let body = if request == POST { "hi" } else { "\r\n\r\n" };
            upstream.until(body).await;
            upstream.write(OK).await;
        }
        let head = client.head().await;
        assert_eq!(
            head.starts_with("http/1.1 200"),
            retried,
            "{fault:?}: {head}"
        );
        assert_eq!(rig.served(Tally::Failed), u64::from(!retried), "{fault:?}");
        assert_eq!(rig.served(Tally::Drilled), 1);
    }
}

#[tokio::test]
async fn a_plan_says_whether_another_region_has_room_for_a_retry() {
    for (headroom, region) in [(1.0, "far"), (0.0, "near")] {
        let near = Scripted::start().await;
        let far = Scripted::start().await;
        let regions = [("near", near.address), ("far", far.address)];
        let rig = Rig::start(&fleet(&regions, RETRY));
        rig.steer(|_, way| way.course = Course::Planned(Bands::new([(1.0, 0.0), (0.0, headroom)])));
        let mut client = rig.client().await;
        client.write(GET).await;
        let mut first = near.accept().await;
        first.head().await;
        drop(first);
        let endpoint = if region == "near" { &near } else { &far };
        let mut upstream = endpoint.accept().await;
        upstream.head().await;
        upstream.write(OK).await;
        client.until("ok").await;
        assert_eq!(rig.count(region, Tally::Retry), 1, "{region}");
    }
}
