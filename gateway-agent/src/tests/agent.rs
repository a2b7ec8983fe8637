//! Whole agents, through their ports.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use breaker_core::{AgentId, PopId};
use rampmeter_api::v1;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    agent::{Agent, Settings, Sockets, Source, StartError},
    config::{host::HostFile, memory, state_dir::StateDir},
    fleet::stream::ControlPlane,
    serve::listener::Listeners,
    tests::control::{decision, fleet, open},
};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn start(pop: &str, source: Source, state_dir: Option<PathBuf>) -> Result<Agent, StartError> {
    start_on(&[local()], HostFile::default(), pop, source, state_dir)
}

fn start_on(
    addresses: &[SocketAddr],
    host: HostFile,
    pop: &str,
    source: Source,
    state_dir: Option<PathBuf>,
) -> Result<Agent, StartError> {
    let settings = Settings {
        id: AgentId::new("a1").ok(),
        pop: PopId::new(pop).expect("a name"),
        cores: 2,
        source,
        state_dir,
        host,
    };
    let sockets = Sockets {
        listen: Listeners::bind_all(addresses, settings.cores).expect("free ports"),
        admin: TcpListener::bind(local()).expect("a free port"),
        handover: None,
    };
    Agent::start(settings, sockets)
}

/// Alone, by a file that is in `dir`.
pub(super) fn alone(dir: &Path, text: &str) -> Agent {
    let path = dir.join("fleet.yaml");
    fs::write(&path, text).expect("written");
    start("fra1", Source::File(path), None).expect("a good file")
}

pub(super) async fn get(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("{method} {path} HTTP/1.1\r\nhost: pay\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await;
    let answer = answer.expect("an answer in time").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a header");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

async fn state(agent: &Agent) -> Value {
    let (status, body) = get(agent.admin, "GET", "/state").await;
    assert_eq!(status, 200);
    serde_json::from_str(&body).expect("JSON")
}

pub(super) async fn eventually(what: &str, agent: &Agent, holds: impl Fn(&Value) -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let state = state(agent).await;
        if holds(&state) {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{what}: {state:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_agent_serves_on_all_its_listeners_and_shows_a_host_file_that_it_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (fleet_path, host_path) = (dir.path().join("fleet.yaml"), dir.path().join("host.yaml"));
    fs::write(&fleet_path, fleet("")).expect("written");
    let host = "listeners: [{address: \"127.0.0.1:0\"}, {address: \"127.0.0.1:0\"}]\n";
    fs::write(&host_path, host).expect("written");
    let file = HostFile::open(Some(host_path.clone())).expect("a good file");
    let source = Source::File(fleet_path);
    let agent = start_on(&[local(), local()], file, "fra1", source, None);
    let agent = agent.expect("good files");
    assert_eq!(agent.listeners[0], agent.listen);
    // Nobody listens on the endpoint's port.
    for address in &agent.listeners {
        assert_eq!(get(*address, "GET", "/x").await.0, 502);
    }
    assert_eq!(agent.listeners.len(), 2);
    fs::write(&host_path, "limits: {max_headers: 1}\n").expect("written");
    agent.reload();
    eventually("the bad file is shown", &agent, |state| {
        let error = state["host"]["error"].as_str();
        error.is_some_and(|error| error.contains("max_headers"))
    })
    .await;
    fs::write(&host_path, host).expect("written");
    agent.reload();
    eventually("it is mended", &agent, |state| {
        state["host"]["error"].is_null()
    })
    .await;
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_alone_is_ready_at_once_and_shows_what_it_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let agent = alone(dir.path(), &fleet(""));
    assert_eq!(
        get(agent.admin, "GET", "/healthz").await,
        (200, "ok\n".to_owned())
    );
    assert_eq!(
        get(agent.admin, "GET", "/readyz").await,
        (200, "ready\n".to_owned())
    );
    assert_eq!(get(agent.admin, "POST", "/state").await.0, 405);
    assert_eq!(get(agent.admin, "GET", "/").await.0, 404);

    // Nobody listens on the endpoint's port.
    let (status, _) = get(agent.listen, "GET", "/x").await;
    assert_eq!(status, 502);
    eventually("the failure is counted", &agent, |state| {
        let failed = &state["services"][0]["served"]["failed"];
        state["backends"][0]["counters"]["outcomes"]["connect"] == 1 && *failed == 1
    })
    .await;
    let state = state(&agent).await;
    assert_eq!(
        (&state["agent"], &state["config"]["source"]),
        (&"a1".into(), &"file".into())
    );
    assert_eq!(state["backends"][0]["state"], "CLOSED");
    let (_, page) = get(agent.admin, "GET", "/metrics").await;
    for line in [
        "rampmeter_agent_requests_total{service=\"pay\",backend=\"pay/us-east\",outcome=\"connect\"} 1",
        "rampmeter_agent_state{service=\"pay\",backend=\"pay/us-east\",state=\"CLOSED\"} 1",
        "rampmeter_agent_request_duration_seconds_count{service=\"pay\",backend=\"pay/us-east\"} 1",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line} is not in {page}"
        );
    }
    agent.stop().await;
}

#[tokio::test]
async fn every_line_of_the_metrics_page_is_well_formed_and_announced() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = "throttle: {rate: 5, burst: 9}\n    fallback: {}\n    timeouts:";
    let limited = fleet("").replace("timeouts:", settings);
    let agent = alone(dir.path(), &limited);
    // Nobody listens on the endpoint's port, and nothing is kept yet.
    assert_eq!(get(agent.listen, "GET", "/x").await.0, 502);
    let (_, page) = get(agent.admin, "GET", "/metrics").await;
    for line in [
        "rampmeter_agent_quota_rate{service=\"pay\"} 5",
        "rampmeter_agent_plan_stale{service=\"pay\"} 0",
        "rampmeter_agent_cache_misses_total{service=\"pay\"} 1",
        "rampmeter_agent_cache_stores_total{service=\"pay\"} 0",
        "rampmeter_agent_cache_bytes 0",
        "rampmeter_agent_throttle{service=\"pay\",backend=\"pay/us-east\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
    let state = state(&agent).await;
    assert_eq!(state["cache"]["max_bytes"], 64 << 20);
    let service = &state["services"][0];
    assert_eq!(service["kept"]["misses"], 1);
    assert_eq!(
        (&service["course"], &service["quota"]["rate"]),
        (&"IN_ORDER".into(), &5.0.into())
    );
    let mut family = "";
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().expect("a name");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert!(kind.starts_with(family), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(name.starts_with(family), "{line} under {family}");
            value.parse::<f64>().expect(line);
        }
    }
}

#[tokio::test]
async fn a_changed_file_is_taken_up_and_a_bad_one_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("fleet.yaml");
    let agent = alone(dir.path(), &fleet(""));
    let two = fleet("").replace(
        "backends: {us-east:",
        "backends: {us-west: {endpoints: ['http://127.0.0.1:2']}, us-east:",
    );
    let two = two.replace("[us-east]", "[us-east, us-west]");
    fs::write(&path, &two).expect("written");
    let both = |state: &Value| state["backends"].as_array().map(Vec::len) == Some(2);
    eventually("two backends", &agent, both).await;

    fs::write(&path, two.replace("us-west]", "mars]")).expect("written");
    agent.reload();
    let complains = |state: &Value| {
        state["config"]["error"]
            .as_str()
            .is_some_and(|e| e.contains("us-west"))
    };
    eventually("the complaint", &agent, complains).await;
    assert!(both(&state(&agent).await), "the one before stays");

    fs::write(&path, fleet("")).expect("written");
    agent.reload();
    let mended = |state: &Value| state["config"]["error"].is_null() && !both(state);
    eventually("one backend", &agent, mended).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_wrong_start_says_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("fleet.yaml");
    fs::write(&path, fleet("")).expect("written");
    let cases = [
        ("iad1", path.clone(), "fra1"),
        ("fra1", dir.path().join("gone.yaml"), "gone.yaml"),
    ];
    for (pop, path, named) in cases {
        let error = start(pop, Source::File(path), None)
            .expect_err(named)
            .to_string();
        assert!(error.contains(named), "{error}");
    }
    let nowhere = start("fra1", Source::File(path.clone()), Some(path)).expect_err("a file");
    assert!(matches!(nowhere, StartError::StateDir { .. }), "{nowhere}");
}

#[tokio::test]
async fn an_agent_starts_from_its_state_directory_while_the_control_plane_is_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let kept = StateDir::open(dir.path()).expect("writable");
    let config = v1::Config {
        revision: 7,
        yaml: fleet(""),
    };
    kept.save(memory::CONFIG, &config).expect("saved");
    let decisions = v1::Decisions {
        decisions: vec![decision(9, open())],
        ..v1::Decisions::default()
    };
    kept.save(memory::DECISIONS, &decisions).expect("saved");

    let away = Source::ControlPlane(vec![
        ControlPlane::new("http://127.0.0.1:1").expect("a URL"),
    ]);
    let agent = start("fra1", away, Some(dir.path().to_owned())).expect("it starts");
    assert_eq!(get(agent.admin, "GET", "/readyz").await.0, 200);
    let (status, body) = get(agent.listen, "GET", "/x").await;
    assert_eq!(status, 503, "{body}");
    let state = state(&agent).await;
    assert_eq!(state["config"]["source"], "state-dir");
    assert_eq!(state["config"]["revision"], 7);
    let backend = &state["backends"][0];
    assert_eq!(
        (&backend["state"], &backend["decided_by"]),
        (&"OPEN".into(), &"FLEET".into())
    );
    assert_eq!(backend["decision"]["revision"], 9);
    agent.stop().await;
}

#[tokio::test]
async fn without_any_configuration_an_agent_is_alive_but_not_ready() {
    let away = Source::ControlPlane(vec![
        ControlPlane::new("http://127.0.0.1:1").expect("a URL"),
    ]);
    let agent = start("fra1", away, None).expect("it starts");
    assert_eq!(get(agent.admin, "GET", "/healthz").await.0, 200);
    eventually("the reason", &agent, |state| {
        state["control_plane"]["last_error"].is_string()
    })
    .await;
    let (status, body) = get(agent.admin, "GET", "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("refused"), "{body}");
    agent.stop().await;
}
