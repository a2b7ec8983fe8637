//! What a whole agent tells about requests, as its host file says.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use breaker_core::{AgentId, PopId};

use crate::{
    agent::{Agent, Settings, Sockets, Source},
    config::host::HostFile,
    serve::listener::Listeners,
    tests::{agent::get, control::fleet},
};

const PATIENCE: Duration = Duration::from_secs(15);

fn start(dir: &Path) -> Agent {
    let path = dir.join("fleet.yaml");
    fs::write(&path, fleet("")).expect("written");
    let settings = Settings {
        id: AgentId::new("a1").ok(),
        pop: PopId::new("fra1").expect("a name"),
        cores: 2,
        source: Source::File(path),
        state_dir: None,
        host: HostFile::open(Some(dir.join("host.yaml"))).expect("a good host file"),
    };
    let local = ([127, 0, 0, 1], 0);
    let sockets = Sockets {
        listen: Listeners::bind(local.into(), settings.cores).expect("a free port"),
        admin: TcpListener::bind(std::net::SocketAddr::from(local)).expect("a free port"),
        handover: None,
    };
    Agent::start(settings, sockets).expect("it starts")
}

/// Says where the log goes.
fn host(dir: &Path, name: &str) {
    let file = dir.join(name);
    let text = format!("access_log: {{file: {}}}\n", file.display());
    fs::write(dir.join("host.yaml"), text).expect("written");
}

fn lines(dir: &Path, name: &str) -> usize {
    fs::read_to_string(dir.join(name)).map_or(0, |text| text.lines().count())
}

/// Nobody listens on the endpoint's port, and soon the breaker says so.
async fn ask(agent: &Agent, path: &str) {
    let (status, _) = get(agent.listen, "GET", path).await;
    assert!(matches!(status, 502 | 503), "{status}");
}

/// Sends requests until one was told where it should be.
async fn told(agent: &Agent, holds: impl Fn() -> bool) {
    let work = async {
        while !holds() {
            ask(agent, "/x").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.expect("it is told in time");
}

#[tokio::test]
async fn an_agent_writes_the_log_that_its_host_file_names_until_it_names_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    host(dir, "first.log");
    let agent = start(dir);
    // From the first request on.
    ask(&agent, "/first").await;
    told(&agent, || lines(dir, "first.log") > 0).await;

    let text = fs::read_to_string(dir.join("first.log")).expect("it is there");
    assert!(text.contains("/first"), "{text}");

    // The log is moved away, and SIGHUP comes.
    fs::rename(dir.join("first.log"), dir.join("first.log.1")).expect("it is there");
    agent.reload();
    told(&agent, || lines(dir, "first.log") > 0).await;

    host(dir, "second.log");
    agent.reload();
    told(&agent, || lines(dir, "second.log") > 0).await;
    let (status, page) = get(agent.admin, "GET", "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "rampmeter_agent_access_log_dropped_total 0",
        "rampmeter_agent_access_log_suppressed_total 0",
        "rampmeter_agent_spans_dropped_total 0",
        "rampmeter_agent_spans_exported_total 0",
        "rampmeter_agent_connections ",
    ] {
        let found = page.lines().any(|other| other.starts_with(line));
        assert!(found, "{line} in {page}");
    }

    // What is asked last is told, too, and it stops with its log whole.
    ask(&agent, "/last").await;
    let last =
        || fs::read_to_string(dir.join("second.log")).is_ok_and(|text| text.contains("/last"));
    told(&agent, last).await;
    agent.stop().await;
    let text = fs::read_to_string(dir.join("second.log")).expect("it is there");
    assert!(text.ends_with('\n'), "{text}");
}
