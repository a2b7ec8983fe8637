//! Which of a backend's endpoints requests go to, and which not.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    GET,
    rig::{Rig, within},
};
use crate::admit::recorder::Tally;

/// An endpoint that answers everything alike.
pub(super) struct Same {
    pub(super) address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Same {
    pub(super) async fn on(address: SocketAddr, status: StatusCode, after: Duration) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (count, answer) = (count.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        count.fetch_add(1, SeqCst);
                        tokio::time::sleep(after).await;
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    pub(super) async fn start(status: StatusCode) -> Self {
        Self::on(([127, 0, 0, 1], 0).into(), status, Duration::ZERO).await
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

fn fleet(endpoints: &[String], settings: &str) -> String {
    format!(
        "pops: {{p: {{region_order: [r]}}}}\nservices:\n  s:\n    routes: [{{path_prefix: /}}]\n    \
         backends: {{r: {{endpoints: {endpoints:?}}}}}\n    {settings}"
    )
}

fn url(endpoint: &Same) -> String {
    format!("http://{}", endpoint.address)
}

/// Makes requests one after another on one connection, and counts good answers.
async fn ask(rig: &Rig, requests: usize) -> usize {
    let mut client = rig.client().await;
    let mut good = 0;
    for _ in 0..requests {
        client.write(GET).await;
        let head = client.head().await;
        good += usize::from(head.starts_with("http/1.1 200"));
        let end = if head.contains("x-rampmeter") {
            "}\n"
        } else {
            "ok"
        };
        client.until(end).await;
    }
    good
}

#[tokio::test]
async fn an_endpoint_that_fails_five_times_in_a_row_is_left_out() {
    let bad = Same::start(StatusCode::INTERNAL_SERVER_ERROR).await;
    let good = Same::start(StatusCode::OK).await;
    let rig = Rig::start(&fleet(&[url(&bad), url(&good)], ""));
    let answered = ask(&rig, 200).await;
    assert_eq!(bad.requests(), 5);
    assert_eq!((answered, good.requests()), (195, 195));
    assert_eq!(rig.count("r", Tally::Http5xx), 5);
}

#[tokio::test]
async fn a_backend_whose_endpoints_all_fail_is_left_to_its_breaker() {
    let bad = Same::start(StatusCode::INTERNAL_SERVER_ERROR).await;
    let worse = Same::start(StatusCode::BAD_GATEWAY).await;
    let rig = Rig::start(&fleet(&[url(&bad), url(&worse)], ""));
    assert_eq!(ask(&rig, 100).await, 0);
    assert_eq!(bad.requests() + worse.requests(), 100, "all were asked");
    let alone = Rig::start(&fleet(&[url(&bad)], ""));
    assert_eq!(ask(&alone, 20).await, 0);
    assert_eq!(alone.count("r", Tally::Http5xx), 20);
}

#[tokio::test]
async fn an_overload_ejects_nobody_and_neither_does_zero() {
    for (status, settings) in [
        (StatusCode::SERVICE_UNAVAILABLE, ""),
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            "ejection: {consecutive_failures: 0}",
        ),
    ] {
        let bad = Same::start(status).await;
        let good = Same::start(StatusCode::OK).await;
        let rig = Rig::start(&fleet(&[url(&bad), url(&good)], settings));
        ask(&rig, 100).await;
        assert!(bad.requests() > 10, "{status}: {}", bad.requests());
    }
}

#[tokio::test]
async fn an_endpoint_that_comes_back_gets_requests_again() {
    let bad = Same::start(StatusCode::INTERNAL_SERVER_ERROR).await;
    let good = Same::start(StatusCode::OK).await;
    let settings = "ejection: {base_ejection_time: 1s}";
    let rig = Rig::start(&fleet(&[url(&bad), url(&good)], settings));
    ask(&rig, 50).await;
    assert_eq!(bad.requests(), 5);
    within(async {
        while bad.requests() < 6 {
            ask(&rig, 20).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    ask(&rig, 100).await;
    assert_eq!(bad.requests(), 6, "the first failure was enough");
}

#[tokio::test]
async fn a_slow_endpoint_gets_clearly_fewer_requests() {
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let slow = Same::on(here, StatusCode::OK, Duration::from_millis(150)).await;
    let quick = Same::on(here, StatusCode::OK, Duration::ZERO).await;
    let rig = Rig::start(&fleet(&[url(&slow), url(&quick)], ""));
    assert_eq!(ask(&rig, 100).await, 100);
    assert!(slow.requests() <= 20, "{}", slow.requests());
}

#[tokio::test]
async fn a_name_is_served_by_whichever_of_its_addresses_listens() {
    // `localhost` has two addresses on most hosts; only one of them listens here.
    let good = Same::start(StatusCode::OK).await;
    let url = format!("http://localhost:{}", good.address.port());
    let rig = Rig::start(&fleet(&[url], ""));
    rig.resolved("r").await;
    assert_eq!(ask(&rig, 50).await, 50);
    assert_eq!(rig.count("r", Tally::Connect), 0);
}

#[tokio::test]
async fn a_black_holed_endpoint_costs_few_requests() {
    // A full backlog: it takes no connection and refuses none.
    let hole = tokio::net::TcpSocket::new_v4().expect("a socket");
    hole.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let hole = hole.listen(1).expect("it listens");
    let address = hole.local_addr().expect("an address");
    let mut fill = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(
        Duration::from_millis(200),
        tokio::net::TcpStream::connect(address),
    )
    .await
    {
        fill.push(stream);
    }
    let good = Same::start(StatusCode::OK).await;
    let settings = "timeouts: {connect: 50ms}\n    retry: {}";
    let rig = Rig::start(&fleet(&[format!("http://{address}"), url(&good)], settings));
    assert_eq!(ask(&rig, 200).await, 200, "nobody noticed");
    assert_eq!(rig.count("r", Tally::Connect), 5);
}
