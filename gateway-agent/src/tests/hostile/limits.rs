//! Each limit of HTTP/1 at its value, and one past it; both ways.

use std::sync::Arc;

use arc_swap::ArcSwap;
use fleet_config::HostLimits;
use tokio::time::Duration;

use super::{
    super::{
        GET, OK,
        rig::{Rig, Scripted, fleet, within},
    },
    recorder::Recorder,
};
use crate::{config::host::Host, serve::server::Edge};

/// A rig with limits of its own.
async fn limited(limits: HostLimits) -> (Rig, Recorder) {
    let backend = Recorder::start().await;
    let host = Host {
        limits,
        ..Host::default()
    };
    let edge = Edge {
        host: Arc::new(ArcSwap::from_pointee(host)),
        ..Edge::default()
    };
    let rig = Rig::on(&[([127, 0, 0, 1], 0).into()], &edge);
    rig.configure(&fleet(&[("r", backend.address)], ""));
    (rig, backend)
}

/// The status that a request gets, and whether a backend got it.
async fn status(rig: &Rig, backend: &Recorder, request: &str) -> (u16, bool) {
    let mut client = rig.client().await;
    client.write(request).await;
    let head = client.head().await;
    let status = head[9..12].parse().expect("a status");
    if status != 200 {
        assert!(head.contains("x-rampmeter: reason="), "{head}");
        assert!(head.contains("connection: close\r\n"), "{head}");
        client.rest().await;
    }
    (status, backend.requests() == 1)
}

#[tokio::test]
async fn sizes_of_a_request_at_the_limit_and_one_past_it() {
    let (rig, backend) = limited(HostLimits::default()).await;
    let target = |size: usize| {
        let rest = "x".repeat(size - 1);
        format!("GET /{rest} HTTP/1.1\r\nhost: a.example\r\n\r\n")
    };
    let field = |size: usize| {
        let value = "y".repeat(size - 1);
        format!("GET / HTTP/1.1\r\nhost: a.example\r\nx: {value}\r\n\r\n")
    };
    // `host` and `a.example` are 13 bytes, and the names two.
    let all = |size: usize| {
        let half = "y".repeat(8 << 10);
        let (first, rest) = (&half[1..], &half[14 + (16 << 10) - size..]);
        format!("GET / HTTP/1.1\r\nhost: a.example\r\na: {first}\r\nb: {rest}\r\n\r\n")
    };
    let number = |count: usize| {
        let fields: String = (1..count).map(|n| format!("x-{n}: 1\r\n")).collect();
        format!("GET / HTTP/1.1\r\nhost: a.example\r\n{fields}\r\n")
    };
    for (at_limit, past_it, refused) in [
        (target(8 << 10), target((8 << 10) + 1), 414),
        (field(8 << 10), field((8 << 10) + 1), 431),
        (all(16 << 10), all((16 << 10) + 1), 431),
        (number(100), number(101), 431),
    ] {
        let seen = status(&rig, &backend, &at_limit).await;
        assert_eq!(seen, (200, true), "{at_limit:.60}");
        let seen = status(&rig, &backend, &past_it).await;
        assert_eq!(seen, (refused, false), "{past_it:.60}");
    }
}

#[tokio::test]
async fn limits_of_the_host_file_are_the_ones_in_force() {
    let limits = HostLimits {
        max_target_bytes: 300,
        max_field_bytes: 400,
        max_header_bytes: 1000,
        max_headers: 10,
        ..HostLimits::default()
    };
    let (rig, backend) = limited(limits).await;
    for (size, expected) in [(300, (200, true)), (301, (414, false))] {
        let rest = "x".repeat(size - 1);
        let request = format!("GET /{rest} HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(status(&rig, &backend, &request).await, expected);
    }
    for (size, expected) in [(400, (200, true)), (401, (431, false))] {
        let value = "y".repeat(size - 1);
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {value}\r\n\r\n");
        assert_eq!(status(&rig, &backend, &request).await, expected);
    }
    let (rig, backend) = limited(HostLimits {
        max_target_bytes: 64 << 10,
        max_field_bytes: 64 << 10,
        max_header_bytes: 256 << 10,
        max_headers: 1000,
        ..HostLimits::default()
    })
    .await;
    let long = "y".repeat((64 << 10) - 3);
    let fields: String = (0..3).map(|n| format!("x-{n}: {long}\r\n")).collect();
    let rest = "x".repeat(60 << 10);
    let request = format!("GET /{rest} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    assert_eq!(status(&rig, &backend, &request).await, (200, true));
}

#[tokio::test]
async fn a_header_that_never_ends_is_refused_as_soon_as_it_is_too_long() {
    for (start, more, status) in [
        ("GET /", "x", "414"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: ", "y", "431"),
        ("GET / HTTP/1.1\r\nhost: a\r\n", "x: y\r\n", "431"),
        ("GET / HTTP/1.1\r\nhost: a\r\n", "x: y\n", "400"),
        ("\r\n\r\n", "\r\n", "400"),
        ("\u{16}\u{3}\u{1}", "\u{1}", "400"),
    ] {
        let (rig, _backend) = limited(HostLimits::default()).await;
        let mut client = rig.client().await;
        client.write(start).await;
        client.write(&more.repeat(20_000 / more.len())).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
    }
}

#[tokio::test]
async fn chunk_extensions_and_trailers_are_bounded() {
    let (rig, backend) = limited(HostLimits::default()).await;
    let post = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let flood = format!("1;{}\r\nx\r\n", "e".repeat(100));
    let trailers: String = (0..2000).map(|n| format!("t-{n}: {n}\r\n")).collect();
    for body in [
        flood.repeat(1000),
        format!("1;{}", "e".repeat(100_000)),
        format!("0\r\n{trailers}\r\n"),
        format!("0\r\nx: {}\r\n\r\n", "y".repeat(100_000)),
        "1\r\nx\n0\r\n\r\n".to_owned(),
        "1\nx\r\n0\r\n\r\n".to_owned(),
        "1;a\nb\r\nx\r\n0\r\n\r\n".to_owned(),
        "01x\r\nx\r\n0\r\n\r\n".to_owned(),
        "-1\r\nx\r\n0\r\n\r\n".to_owned(),
        "11111111111111111\r\nx\r\n0\r\n\r\n".to_owned(),
        "2\r\nxGET /smuggled".to_owned(),
    ] {
        let mut client = rig.client().await;
        // What it does not want, it need not take.
        let request = format!("{post}{body}\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n");
        let sent = async {
            use tokio::io::AsyncWriteExt;
            let _ = client.0.write_all(request.as_bytes()).await;
        };
        within(sent).await;
        client.rest().await;
        for record in backend.take() {
            let text = record.text();
            let second = text.matches(" HTTP/1.1\r\n").count() > 1;
            assert!(!second, "{body:.40}: {text:.300}");
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_one_that_is_refused_ends_them() {
    let (rig, backend) = limited(HostLimits::default()).await;
    let mut client = rig.client().await;
    let bad = "GET / HTTP/1.1\r\nhost: a\r\nx: 1\n\r\n";
    client.write(&[GET, GET, bad, GET].concat()).await;
    for _ in 0..2 {
        assert!(client.head().await.starts_with("http/1.1 200"));
        client.until("ok").await;
    }
    let rest = client.rest().await;
    assert!(rest.starts_with("HTTP/1.1 400"), "{rest}");
    assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "{rest}");
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn a_pipeline_is_read_no_faster_than_it_is_answered() {
    use tokio::io::AsyncWriteExt;
    let silent = Scripted::start().await;
    let rig = Rig::in_front_of(silent.address, "");
    let mut client = rig.client().await;
    let many = GET.repeat(1000);
    let flood = async {
        let mut sent = 0_usize;
        loop {
            let written = client.0.write_all(many.as_bytes());
            match tokio::time::timeout(Duration::from_millis(500), written).await {
                Ok(written) => written.expect("it is open"),
                Err(_) => return sent,
            }
            sent += many.len();
        }
    };
    // Sockets hold megabytes of their own, and nothing is read past some KiB.
    assert!(within(flood).await < 16 << 20);
}

#[tokio::test]
async fn responses_have_the_same_limits_and_past_them_are_a_bad_gateway() {
    let field = |size: usize| format!("x: {}\r\n", "y".repeat(size - 1));
    let number = |count: usize| -> String { (0..count).map(|n| format!("x-{n}: 1\r\n")).collect() };
    for (fields, status) in [
        (field(8 << 10), 200),
        (field((16 << 10) + 1), 502),
        (number(90), 200),
        (number(101), 502),
    ] {
        let backend = Scripted::start().await;
        let rig = Rig::in_front_of(backend.address, "");
        let mut client = rig.client().await;
        client.write(GET).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        let answer = OK.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
        upstream.write(&answer).await;
        let head = client.head().await;
        let expected = format!("http/1.1 {status}");
        assert!(head.starts_with(&expected), "{head:.200}");
    }
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_then_they_are_closed_at_once() {
    let (rig, _backend) = limited(HostLimits {
        max_connections_per_address: 3,
        ..HostLimits::default()
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = rig.client().await;
        client.write(GET).await;
        client.until("ok").await;
        clients.push(client);
    }
    assert_eq!(rig.client().await.rest().await, "", "one too many");
    clients[0]
        .write("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    clients.remove(0).rest().await;
    within(async {
        loop {
            let mut client = rig.client().await;
            use tokio::io::AsyncWriteExt;
            let _ = client.0.write_all(GET.as_bytes()).await;
            if client.0.readable().await.is_ok() && client.0.peek(&mut [0]).await.unwrap_or(0) > 0 {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn all_addresses_together_have_so_many_connections() {
    let (rig, _backend) = limited(HostLimits {
        max_connections: 2,
        ..HostLimits::default()
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = rig.client().await;
        client.write(GET).await;
        client.until("ok").await;
        clients.push(client);
    }
    assert_eq!(rig.client().await.rest().await, "", "one too many");
}

#[tokio::test]
async fn slow_clients_are_gone_when_their_time_is_over() {
    const LIMIT: Duration = Duration::from_secs(1);
    let backend = Scripted::start().await;
    let host = Host {
        limits: HostLimits {
            header_read_timeout: LIMIT,
            body_idle_timeout: LIMIT,
            keep_alive_timeout: LIMIT,
            ..HostLimits::default()
        },
        ..Host::default()
    };
    let edge = Edge {
        host: Arc::new(ArcSwap::from_pointee(host)),
        ..Edge::default()
    };
    let rig = Rig::on(&[([127, 0, 0, 1], 0).into()], &edge);
    rig.configure(&fleet(&[("r", backend.address)], ""));
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n";
    for (start, drip) in [
        ("", ""),
        ("GET / HTTP/1.1\r\n", "x: y\r\n"),
        ("GET / HT", ""),
        (post, ""),
        (post, "x"),
        ("PRI * HT", ""),
    ] {
        let mut client = rig.client().await;
        let started = tokio::time::Instant::now();
        client.write(start).await;
        let dripping = async {
            use tokio::io::AsyncWriteExt;
            let (mut reading, mut writing) = client.0.split();
            let drips = async {
                loop {
                    tokio::time::sleep(LIMIT / 4).await;
                    if writing.write_all(drip.as_bytes()).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let mut told = Vec::new();
            tokio::select! {
                _ = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut told) => {}
                () = drips => {}
            }
        };
        within(dripping).await;
        let waited = started.elapsed();
        let allowed = LIMIT..LIMIT + Duration::from_secs(1);
        assert!(allowed.contains(&waited), "{start:?}: {waited:?}");
    }
}
