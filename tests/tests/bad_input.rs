//! Whatever reaches a running fleet, from nonsense on a port to a bad fleet file:
//! a clear message, nothing lost, nothing crashed.

use std::{net::SocketAddr, time::Duration};

use e2e::{AgentStart, Fleet, FleetFile, eventually, get, settled};
use rampmeter_api::v1::{
    self, BackendReport, BreakerState, ConnectRequest, Hello, Report, Slot,
    connect_request::Message,
};
use rampmeter_demo::backend::ScriptedBackend;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_ports_hurts_nobody() {
    let (fleet, _backend) = fleet().await;
    let replica = &fleet.control_planes[0];
    let agent = &fleet.agents[0];
    let garbage: [&[u8]; 4] = [
        b"\x00\xff\x17\x03 nonsense \r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[b'A'; 100_000],
    ];
    for address in [replica.address, replica.http, agent.address, agent.admin] {
        for bytes in garbage {
            throw(address, bytes).await;
        }
    }
    let api = replica.api().await.expect("a replica");
    let state = api.breaker("pay/us-east").await.expect("a state");
    assert_eq!(state, BreakerState::Closed);
    assert_eq!(agent.get("/pay/").await.expect("an answer").status, 200);
    fleet.in_sync(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_of_the_same_id_is_refused_and_the_first_stays() {
    let (fleet, _backend) = fleet().await;
    let first = fleet.agents[0].start.clone();
    let dir = TempDir::with_prefix("rampmeter-twin-").expect("a directory");
    let twin = AgentStart {
        state_dir: dir.path().join("twin"),
        ..first.clone()
    };
    let mut twin = twin
        .launch()
        .await
        .expect("it starts: only its stream is refused");
    let said = twin
        .process
        .line("in use by another")
        .await
        .expect("it says why");
    assert!(said.contains(&first.id), "{said}");
    fleet.in_sync(SOON).await;
    let agents = fleet.control_planes[0]
        .api()
        .await
        .expect("a replica")
        .agents()
        .await
        .expect("agents");
    let addresses: Vec<_> = agents
        .iter()
        .filter(|a| a.name == first.id)
        .map(|a| a.address.clone())
        .collect();
    assert_eq!(addresses, [fleet.agents[0].address.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_reports_are_cut_and_counted_and_convict_nobody() {
    let (fleet, backend) = fleet().await;
    let replica = &fleet.control_planes[0];
    let api = replica.api().await.expect("a replica");
    let traffic = fleet.load("pay", 100.0).start();
    eventually("calm", SOON, || async {
        settled(backend.receipts().count() >= 200)
    })
    .await;
    let (requests, to_send) = mpsc::channel(64);
    let hello = Hello {
        agent: "liar".into(),
        instance: "1".into(),
        pop: "pop1".into(),
        version: "0".into(),
        ..Hello::default()
    };
    let say = async |message| {
        requests
            .send(ConnectRequest {
                message: Some(message),
            })
            .await
            .expect("the stream takes it");
    };
    say(Message::Hello(hello)).await;
    let mut agents = api.agents.clone();
    let mut answers = agents
        .connect(ReceiverStream::new(to_send))
        .await
        .expect("a stream")
        .into_inner();
    let welcome = answers.message().await.expect("an answer");
    assert!(welcome.is_some(), "welcome");
    let slot = |age_ms| Slot {
        age_ms,
        requests: u32::MAX,
        failures: u32::MAX,
        overloads: u32::MAX,
        slow_calls: u32::MAX,
    };
    let report = |backend: &str| BackendReport {
        backend: backend.into(),
        slots: (0..500).map(|age| slot(age * 20)).collect(),
        demand: u64::MAX,
        in_flight: u32::MAX,
        ..BackendReport::default()
    };
    let names = [
        "nobody/nowhere",
        "",
        "pay/us-east",
        "pay/us-east",
        "\u{0}\u{1}",
    ];
    for sequence in [1, 2, 2, 1, 8] {
        let backends = names.map(report).to_vec();
        say(Message::Report(Report {
            sequence,
            backends,
            ..Report::default()
        }))
        .await;
    }
    let counted = eventually("what was cut is counted", SOON, || async {
        let metrics = get(replica.http, "/metrics").await.ok()?.body;
        let line = metrics.lines().find(|line| {
            !line.starts_with('#') && line.contains("report") && line.contains("unknown")
        });
        let count: f64 = line?.rsplit(' ').next()?.parse().ok()?;
        (count >= 1.0).then_some(count)
    })
    .await;
    // More than 256 KiB in one report ends the stream, with the limit named.
    let backends = vec![report("pay/us-east"); 30];
    say(Message::Report(Report {
        sequence: 9,
        backends,
        ..Report::default()
    }))
    .await;
    let ended = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), tonic::Code::InvalidArgument, "{ended}");
    assert!(ended.message().contains("report"), "{ended}");
    drop(traffic);
    println!("{counted} reports of unknown backends");
    assert_eq!(
        api.breaker("pay/us-east").await.expect("a state"),
        BreakerState::Closed,
        "one liar convicts nobody"
    );
    let figures = api
        .backend("pay/us-east")
        .await
        .expect("a backend")
        .traffic
        .unwrap_or_default();
    assert!(
        figures.outcomes.unwrap_or_default().requests() < 10_000_000,
        "{figures:?}"
    );
    assert_eq!(
        fleet.agents[0]
            .get("/pay/")
            .await
            .expect("an answer")
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_change_of_a_running_file_is_refused_and_the_old_one_stays() {
    let (fleet, backend) = fleet().await;
    let api = fleet.control_planes[0].api().await.expect("a replica");
    let revision = async || {
        let config = api
            .operator
            .clone()
            .get_config(v1::GetConfigRequest {})
            .await
            .expect("a configuration");
        config.into_inner().revision
    };
    let before = revision().await;
    let bad = v1::ApplyConfigRequest {
        yaml: "pops: {}".into(),
        ..Default::default()
    };
    let error = api
        .operator
        .clone()
        .apply_config(bad)
        .await
        .expect_err("refused");
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("services"), "{}", error.message());
    std::fs::write(&fleet.file, "services: {pay: {}}\n").expect("a file");
    eventually("the refusal is an event", SOON, || async {
        let events = api.events("").await.ok()?;
        settled(
            events
                .iter()
                .any(|event| event.kind() == v1::EventKind::ConfigRefused),
        )
    })
    .await;
    assert_eq!(revision().await, before);
    assert_eq!(
        fleet.agents[0]
            .get("/pay/")
            .await
            .expect("an answer")
            .status,
        200
    );
    // A good one is taken, by every agent.
    file(&backend)
        .service("new", &[("us-east", backend.address())])
        .write(&fleet.file)
        .expect("a file");
    eventually("the new route serves", SOON, || async {
        settled(fleet.agents[0].get("/new/").await.ok()?.status == 200)
    })
    .await;
    assert!(revision().await > before);
}

fn file(backend: &ScriptedBackend) -> FleetFile {
    FleetFile::new(2, &["us-east"]).service("pay", &[("us-east", backend.address())])
}

async fn fleet() -> (Fleet, ScriptedBackend) {
    let backend = ScriptedBackend::local("us-east")
        .await
        .expect("a free port");
    let fleet = Fleet::start(&file(&backend), 1).await.expect("a fleet");
    (fleet, backend)
}

/// Sends bytes and reads whatever comes until the other side has had enough.
async fn throw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The other side may close before it has read all.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut sink = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut sink))
        .await
        .expect("the port lets go");
}
