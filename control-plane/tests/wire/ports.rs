//! The ports, and what strangers throw at them.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{FLEET, Replica, SOON, eventually};

pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let read = timeout(SOON, stream.read_to_string(&mut answer)).await;
    read.expect("in time").expect("text");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_port_serves_its_pages() {
    let replica = Replica::alone(FLEET).await;
    eventually("ready", async || {
        get(replica.http, "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
            .then_some(())
    })
    .await;
    assert!(get(replica.http, "/healthz").await.ends_with("ok\n"));
    assert!(get(replica.http, "/").await.contains("/metrics"));
    assert!(
        get(replica.http, "/nothing")
            .await
            .starts_with("HTTP/1.1 404")
    );
    let metrics = get(replica.http, "/metrics").await;
    for line in [
        "rampmeter_control_backend_state{service=\"pay\",backend=\"us-east\",state=\"CLOSED\"} 1",
        "rampmeter_control_store_up 1",
        "rampmeter_control_config_revision 1",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line:?} is missing in\n{metrics}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_grpc_port_is_turned_away_and_hurts_nobody() {
    let replica = Replica::alone(FLEET).await;
    let tls: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let huge_frame: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x01";
    let half: &[u8] = b"PRI * HT";
    for garbage in [tls, huge_frame, half, &[0xff; 5000], b"\r\n\r\n"] {
        let mut stream = TcpStream::connect(replica.address)
            .await
            .expect("it listens");
        // It may be closed before all is written.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let read = timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "the port lets go of {garbage:?}");
    }
    let answer = get(replica.address, "/metrics").await;
    assert!(
        answer.starts_with("HTTP/1.1 505") && answer.contains("--http"),
        "{answer}"
    );
    replica.agent("a", "fra1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_by_service() {
    let replica = Replica::alone(FLEET).await;
    let url = format!("http://{}", replica.address);
    let endpoint = tonic::transport::Channel::from_shared(url).expect("a URL");
    let channel = endpoint
        .timeout(Duration::from_secs(5))
        .connect()
        .await
        .expect("it listens");
    let mut health = HealthClient::new(channel);
    for service in [
        "",
        "rampmeter.v1.AgentService",
        "rampmeter.v1.OperatorService",
    ] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = health.check(request).await.expect("known").into_inner();
        assert_eq!(status.status, 1, "{service:?}");
    }
}
