//! Real probes of real servers on loopback.

use std::{net::SocketAddr, time::Duration};

use fleet_config::{Endpoint, HealthCheck, Probe, Scheme};
use rampmeter_api::v1::{connect_request::Message as Up, connect_response::Message as Down};
use tokio::{net::TcpListener, task::LocalSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;

use super::{Checked, fleet};
use crate::{
    probe::{ask::ask, prober},
    tests::{
        agent::{alone, eventually, get},
        stream::{Client, plane::Plane},
    },
};

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        scheme: Scheme::Http,
        host: address.ip().to_string(),
        port: address.port(),
    }
}

fn check(probe: Probe) -> HealthCheck {
    HealthCheck {
        probe,
        timeout: Duration::from_millis(500),
        ..HealthCheck::default()
    }
}

#[tokio::test]
async fn an_http_probe_wants_an_answer_of_200_to_399_in_time() {
    let server = Checked::start().await;
    let check = check(Probe::Http {
        path: "/ready".to_owned(),
    });
    let local = LocalSet::new();
    let ask = |address| {
        let check = check.clone();
        local.run_until(async move { ask(&endpoint(address), &check, None).await })
    };
    for (status, expected) in [
        (200, Ok(())),
        (204, Ok(())),
        (302, Ok(())),
        (404, Err("status 404")),
        (503, Err("status 503")),
        (0, Err("no answer within 500ms")),
    ] {
        server.answer(status);
        let answer = ask(server.address).await;
        assert_eq!(answer, expected.map_err(str::to_owned), "{status}");
    }
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = gone.local_addr().expect("bound");
    drop(gone);
    let refused = ask(address).await.expect_err("nobody listens");
    assert!(refused.starts_with("cannot connect: "), "{refused}");
}

#[tokio::test]
async fn a_grpc_probe_wants_serving_of_the_service_or_of_the_whole_server() {
    let (reporter, service) = tonic_health::server::health_reporter();
    let set = |name: &'static str, status| reporter.set_service_status(name, status);
    set("shop.v1.Up", ServingStatus::Serving).await;
    set("shop.v1.Down", ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = tonic::transport::Server::builder().add_service(service);
    let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let plain = Checked::start().await;
    let local = LocalSet::new();
    let ask = |address, service: &str| {
        let check = check(Probe::Grpc {
            service: service.to_owned(),
        });
        local.run_until(async move { ask(&endpoint(address), &check, None).await })
    };
    assert_eq!(ask(address, "").await, Ok(()));
    assert_eq!(ask(address, "shop.v1.Up").await, Ok(()));
    let down = ask(address, "shop.v1.Down").await;
    assert_eq!(down, Err("NOT_SERVING".to_owned()));
    let unknown = ask(address, "shop.v1.Nothing").await.expect_err("unknown");
    assert!(unknown.starts_with("gRPC status 5"), "{unknown}");
    ask(plain.address, "")
        .await
        .expect_err("it speaks HTTP/1.1");
    serving.abort();
}

#[tokio::test]
async fn alone_an_agent_leaves_out_what_its_own_probes_find_dead_but_never_all() {
    let (one, two) = (Checked::start().await, Checked::start().await);
    let settings = "path: /ready, interval: 100ms, timeout: 100ms, rise: 2, fall: 2";
    let dir = tempfile::tempdir().expect("a directory");
    let agent = alone(dir.path(), &fleet(&[one.address, two.address], settings));
    let unhealthy = async |count: usize| {
        eventually("endpoints out", &agent, |state| {
            let out = state["backends"][0]["unhealthy_endpoints"].as_array();
            out.is_some_and(|out| out.len() == count)
        })
        .await;
    };
    let share = async || {
        let before = (one.requests(), two.requests());
        for _ in 0..30 {
            assert_eq!(get(agent.listen, "GET", "/").await.0, 200);
        }
        (one.requests() - before.0, two.requests() - before.1)
    };
    unhealthy(0).await;
    one.answer(503);
    unhealthy(1).await;
    assert_eq!(share().await, (0, 30));
    two.answer(0);
    unhealthy(2).await;
    let (first, second) = share().await;
    assert!(first > 0 && second > 0, "{first} and {second}");
    one.answer(200);
    unhealthy(1).await;
    assert_eq!(share().await, (30, 0));
    let (_, page) = get(agent.admin, "GET", "/metrics").await;
    for line in [
        "rampmeter_agent_unhealthy_endpoints{service=\"pay\",backend=\"pay/us-east\"} 1",
        "rampmeter_agent_probes_total{service=\"pay\",backend=\"pay/us-east\",result=\"failed\"} ",
    ] {
        assert!(page.contains(line), "{page}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn in_a_fleet_an_agent_probes_what_it_is_assigned_and_reports_it() {
    let (one, two) = (Checked::start().await, Checked::start().await);
    let settings = "path: /ready, interval: 300ms, timeout: 100ms, rise: 1, fall: 1";
    let mut plane = Plane::start().await;
    let agent = Client::start(&[plane.address]);
    let local = LocalSet::new();
    let probing = prober::run(agent.control.clone(), agent.stop.subscribe());
    local.spawn_local(probing);
    let told = async {
        let mut call = plane.call().await;
        call.greet().await;
        call.configure(1, fleet(&[one.address, two.address], settings))
            .await;
        let target = rampmeter_api::v1::ProbeTarget {
            backend: "pay/us-east".to_owned(),
            endpoint: format!("http://{}", one.address),
        };
        call.say(Down::ProbeAssignment(rampmeter_api::v1::ProbeAssignment {
            targets: vec![target.clone()],
        }))
        .await;
        let mut report = async |healthy: bool| {
            let probe = call.find(|up| match up {
                Up::Report(report) => report.probes.iter().find(|p| p.healthy == healthy).cloned(),
                _ => None,
            });
            let probe = probe.await;
            assert_eq!(probe.endpoint, target.endpoint);
            probe.error
        };
        assert_eq!(report(true).await, "");
        one.answer(500);
        assert_eq!(report(false).await, "status 500");
    };
    local.run_until(told).await;
    assert_eq!(two.probes(), 0, "somebody else does");
}
