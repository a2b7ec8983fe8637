//! What an operator sees with the real grpcurl.

use std::{net::SocketAddr, time::Duration};

use e2e::{Fleet, FleetFile, eventually, grpcurl, settled};
use rampmeter_api::v1::BreakerState;
use rampmeter_demo::backend::{Behaviour, ScriptedBackend};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const FLEET: &str = "rampmeter.v1.FleetService";

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_lists_describes_and_explains_an_outage() {
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let file = FleetFile::new(2, &["us-east"]).service("pay", &[("us-east", backend.address())]);
    let fleet = Fleet::start(&file, 2).await.expect("a fleet");
    let address = fleet.control_planes[0].address;

    let services = text(address, &[], &["list"]).await;
    for service in [
        "rampmeter.v1.AgentService",
        FLEET,
        "rampmeter.v1.OperatorService",
        "grpc.health.v1.Health",
    ] {
        assert!(
            services.lines().any(|line| line == service),
            "{service} in {services}"
        );
    }
    let described = text(address, &[], &["describe", FLEET]).await;
    assert!(described.contains("rpc ExplainBackend"), "{described}");
    let health = call(address, &[], "grpc.health.v1.Health/Check").await;
    assert_eq!(health["status"], "SERVING", "{health}");

    let traffic = fleet.load("pay", 100.0).start();
    eventually("calm", SOON, || async {
        settled(backend.receipts().count() >= 200)
    })
    .await;
    backend.behave(Behaviour::status(503));
    let api = fleet.control_planes[0].api().await.expect("a replica");
    eventually("open", SOON, || async {
        settled(api.breaker("pay/us-east").await.ok()? == BreakerState::Open)
    })
    .await;

    let listed = call(address, &[], &format!("{FLEET}/ListBackends")).await;
    assert_eq!(listed["backends"][0]["name"], "pay/us-east", "{listed:#}");
    assert_eq!(
        listed["backends"][0]["state"], "BREAKER_STATE_OPEN",
        "{listed:#}"
    );

    let named = &["-d", r#"{"name":"pay/us-east"}"#];
    let got = call(address, named, &format!("{FLEET}/GetBackend")).await;
    assert_eq!(got["backend"]["state"], "BREAKER_STATE_OPEN", "{got:#}");
    assert!(got["backend"]["retryTime"].is_string(), "{got:#}");

    let why = call(address, named, &format!("{FLEET}/ExplainBackend")).await;
    println!("{why:#}");
    let summary = why["summary"].as_str().unwrap_or_default();
    assert!(
        summary.contains("pay/us-east") && summary.to_uppercase().contains("OPEN"),
        "{summary}"
    );
    assert_eq!(why["lastTransition"]["scope"], "SCOPE_FLEET", "{why:#}");
    let evidence = &why["lastTransition"]["evidence"];
    assert!(
        evidence["score"].as_f64() >= evidence["scoreThreshold"].as_f64(),
        "{evidence:#}"
    );
    assert!(
        evidence["bad"]
            .as_str()
            .and_then(|bad| bad.parse::<u64>().ok())
            >= Some(5),
        "{evidence:#}"
    );
    assert_eq!(evidence["popsFailing"], 2, "{evidence:#}");
    assert!(
        why["next"].as_str().is_some_and(|next| !next.is_empty()),
        "{why:#}"
    );
    assert_eq!(why["policy"]["minRequestVolume"], 5, "{why:#}");

    let agents = call(address, &[], &format!("{FLEET}/ListAgents")).await;
    let names: Vec<_> = agents["agents"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|a| a["name"].clone())
        .collect();
    assert_eq!(
        names,
        ["pop0-0", "pop0-1", "pop1-0", "pop1-1"],
        "{agents:#}"
    );
    drop(traffic);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_watches_a_backend_open() {
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let file = FleetFile::new(2, &["us-east"]).service("pay", &[("us-east", backend.address())]);
    let fleet = Fleet::start(&file, 1).await.expect("a fleet");
    let address = fleet.control_planes[0].address;
    let watching = tokio::spawn(async move {
        // A stream has no end: grpcurl stops it after these seconds.
        grpcurl(
            address,
            &["-max-time", "6"],
            &[&format!("{FLEET}/WatchBackends")],
        )
        .await
    });
    let traffic = fleet.load("pay", 100.0).start();
    eventually("calm", SOON, || async {
        settled(backend.receipts().count() >= 200)
    })
    .await;
    backend.behave(Behaviour::status(503));
    let watched = watching.await.expect("no panic").expect("grpcurl runs");
    let seen = String::from_utf8_lossy(&watched.stdout);
    let states: Vec<_> = serde_json::Deserializer::from_str(&seen)
        .into_iter::<Value>()
        .map(|message| message.expect("JSON")["backend"]["state"].clone())
        .collect();
    assert_eq!(
        states.first(),
        Some(&Value::from("BREAKER_STATE_CLOSED")),
        "{seen}"
    );
    assert!(
        states.contains(&Value::from("BREAKER_STATE_OPEN")),
        "{seen}"
    );
    drop(traffic);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_do_not_exist_get_not_found_and_a_hint() {
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let file = FleetFile::new(1, &["us-east"]).service("pay", &[("us-east", backend.address())]);
    let fleet = Fleet::start(&file, 1).await.expect("a fleet");
    let address = fleet.control_planes[0].address;
    let cases = [
        ("GetBackend", "pay/us-esat", "pay/us-east"),
        ("ExplainBackend", "payments/us-east", "pay/us-east"),
        ("GetService", "payments", "pay"),
        ("GetAgent", "pop9-9", "pop0-0"),
    ];
    for (method, name, hint) in cases {
        let data = format!(r#"{{"name":"{name}"}}"#);
        let output = grpcurl(address, &["-d", &data], &[&format!("{FLEET}/{method}")])
            .await
            .expect("grpcurl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{method} {name} succeeded");
        assert!(said.contains("NotFound"), "{method}: {said}");
        assert!(
            said.contains(name) && said.contains(hint),
            "{method} names {name:?} and {hint:?}: {said}"
        );
    }
}

async fn text(address: SocketAddr, flags: &[&str], arguments: &[&str]) -> String {
    let output = grpcurl(address, flags, arguments)
        .await
        .expect("grpcurl runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "grpcurl {flags:?} {arguments:?}: {said}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn call(address: SocketAddr, flags: &[&str], method: &str) -> Value {
    let answer = text(address, flags, &[method]).await;
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{method}: {error} in {answer}"))
}
