//! A replica in this process, scripted agents, and patience with a deadline.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use breaker_core::{BackendName, Steering, ids::ServiceName};
use bytes::Bytes;
use control_plane::{
    Listeners, Options,
    config::ConfigFile,
    serve,
    store::{
        About, Answer, Commit, CommitService, ConfigRecord, EventPage, EventQuery, Hints, Presence,
        PutConfig, Record, ReplicaId, Store, StoreError, SyncReply, SyncRequest,
        memory::MemoryStore,
    },
};
use rampmeter_api::v1::{
    self, agent_service_client::AgentServiceClient, connect_request::Message as Up,
    connect_response::Message as Down, fleet_service_client::FleetServiceClient,
    operator_service_client::OperatorServiceClient,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Longest wait for anything that happens soon.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Two POPs, one service in two regions, short times.
pub(crate) const FLEET: &str = r#"
pops:
  fra1: {region_order: [us-east, us-west]}
  iad1: {region_order: [us-east, us-west]}
services:
  pay:
    routes: [{path_prefix: /}]
    timeouts: {connect: 500ms, response_headers: 500ms, total: 500ms}
    breaker: {open_duration: 500ms, ramp_duration: 1s}
    backends:
      us-east: {endpoints: ["http://127.0.0.1:8080"]}
      us-west: {endpoints: ["http://127.0.0.1:8081"]}
"#;

/// The backend that tests break.
pub(crate) const EAST: &str = "pay/us-east";

/// A running replica.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) http: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    served: JoinHandle<anyhow::Result<()>>,
    dir: Option<tempfile::TempDir>,
}

impl Replica {
    /// One replica with a store of its own.
    pub(crate) async fn alone(yaml: &str) -> Self {
        let name = ReplicaId::new("one");
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("fleet.yaml");
        std::fs::write(&file, yaml).expect("a file");
        let mut replica = Self::start("one", Arc::new(MemoryStore::new(name)), Some(&file)).await;
        replica.dir = Some(dir);
        replica
    }

    pub(crate) async fn start(name: &str, store: Arc<dyn Store>, file: Option<&Path>) -> Self {
        let bind = || TcpListener::bind(("127.0.0.1", 0));
        let listeners = Listeners {
            grpc: bind().await.expect("a port"),
            http: bind().await.expect("a port"),
        };
        let address = listeners.grpc.local_addr().expect("bound");
        let http = listeners.http.local_addr().expect("bound");
        let options = Options {
            name: ReplicaId::new(name),
            config: file.map(|f| ConfigFile::read(f).expect("a valid file")),
            store,
            store_name: "memory".to_owned(),
        };
        let (end, ended) = oneshot::channel();
        let shutdown = async {
            // Dropped without a word: the test is over.
            let _ = ended.await;
        };
        Self {
            address,
            http,
            end: Some(end),
            served: tokio::spawn(serve(options, listeners, shutdown)),
            dir: None,
        }
    }

    /// Its fleet file.
    pub(crate) fn file(&self) -> std::path::PathBuf {
        self.dir
            .as_ref()
            .expect("started alone")
            .path()
            .join("fleet.yaml")
    }

    /// Ends it gently and waits.
    pub(crate) async fn stop(mut self) {
        drop(self.end.take());
        let served = timeout(SOON, self.served).await.expect("it ends in time");
        served.expect("no panic").expect("no error");
    }

    fn endpoint(&self) -> Endpoint {
        Channel::from_shared(format!("http://{}", self.address)).expect("a URL")
    }

    async fn channel(&self) -> Channel {
        self.endpoint().connect().await.expect("it listens")
    }

    pub(crate) async fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel().await)
    }

    pub(crate) async fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel().await)
    }

    pub(crate) async fn backend(&self, name: &str) -> v1::Backend {
        let request = v1::GetBackendRequest { name: name.into() };
        let response = self.fleet().await.get_backend(request).await;
        response
            .expect("an answer")
            .into_inner()
            .backend
            .expect("a backend")
    }

    pub(crate) async fn events(&self, backend: &str) -> Vec<v1::Event> {
        let request = v1::ListEventsRequest {
            backend: backend.into(),
            ..Default::default()
        };
        let response = self.fleet().await.list_events(request).await;
        response.expect("an answer").into_inner().events
    }

    pub(crate) async fn service(&self, name: &str) -> v1::GetServiceResponse {
        let request = v1::GetServiceRequest { name: name.into() };
        let response = self.fleet().await.get_service(request).await;
        response.expect("an answer").into_inner()
    }

    /// An agent that is let in.
    pub(crate) async fn agent(&self, name: &str, pop: &str) -> Agent {
        self.try_agent(hello(name, pop)).await.expect("let in")
    }

    /// An agent whose transport takes little that it has not read.
    pub(crate) async fn slow_agent(&self, name: &str, pop: &str) -> Agent {
        let endpoint = self.endpoint().initial_stream_window_size(Some(65_535));
        let channel = endpoint.connect().await.expect("it listens");
        let hello = Up::Hello(hello(name, pop));
        stream(channel, hello).await.expect("let in")
    }

    pub(crate) async fn try_agent(&self, hello: v1::Hello) -> Result<Agent, Status> {
        let mut agent = self.stream(Up::Hello(hello)).await?;
        agent.welcome = agent
            .find(|down| match down {
                Down::Welcome(welcome) => Some(welcome.clone()),
                _ => None,
            })
            .await;
        Ok(agent)
    }

    /// A stream that starts with any message.
    pub(crate) async fn stream(&self, first: Up) -> Result<Agent, Status> {
        stream(self.channel().await, first).await
    }
}

async fn stream(channel: Channel, first: Up) -> Result<Agent, Status> {
    let (up, requests) = mpsc::channel(64);
    up.send(request(first)).await.expect("room");
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let down = client.connect(ReceiverStream::new(requests)).await?;
    Ok(Agent {
        up,
        down: down.into_inner(),
        sequence: 0,
        welcome: v1::Welcome::default(),
    })
}

pub(crate) fn hello(name: &str, pop: &str) -> v1::Hello {
    v1::Hello {
        agent: name.to_owned(),
        instance: format!("{name}-1"),
        pop: pop.to_owned(),
        version: "test".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        ..v1::Hello::default()
    }
}

fn request(message: Up) -> v1::ConnectRequest {
    v1::ConnectRequest {
        message: Some(message),
    }
}

/// A scripted agent.
pub(crate) struct Agent {
    up: mpsc::Sender<v1::ConnectRequest>,
    down: Streaming<v1::ConnectResponse>,
    sequence: u64,
    pub(crate) welcome: v1::Welcome,
}

impl Agent {
    pub(crate) async fn say(&self, message: Up) {
        // The replica may have ended the stream: the test will see.
        let _ = self.up.send(request(message)).await;
    }

    /// The next message; answers heartbeats and acknowledges decisions.
    pub(crate) async fn next(&mut self) -> Result<Option<Down>, Status> {
        let message = self.down.message().await?.and_then(|m| m.message);
        match &message {
            Some(Down::Heartbeat(beat)) => self.say(Up::Heartbeat(*beat)).await,
            Some(Down::Decisions(decisions)) => {
                let acknowledge = v1::Acknowledge {
                    decisions_sequence: decisions.sequence,
                    config_revision: 1,
                    config_error: String::new(),
                };
                self.say(Up::Acknowledge(acknowledge)).await;
            }
            _ => {}
        }
        Ok(message)
    }

    /// Waits for a message that `wanted` picks.
    pub(crate) async fn find<T>(&mut self, mut wanted: impl FnMut(&Down) -> Option<T>) -> T {
        let search = async {
            loop {
                let down = self
                    .next()
                    .await
                    .expect("the stream lives")
                    .expect("the stream lives");
                if let Some(found) = wanted(&down) {
                    return found;
                }
            }
        };
        timeout(SOON, search).await.expect("the message comes soon")
    }

    /// Waits until this backend is in this state.
    pub(crate) async fn state(&mut self, name: &str, state: v1::BreakerState) -> v1::Decision {
        self.find(|down| {
            let Down::Decisions(decisions) = down else {
                return None;
            };
            let mut of_backend = decisions.decisions.iter().filter(|d| d.backend == name);
            of_backend
                .find(|d| d.fleet.as_ref().is_some_and(|f| f.state() == state))
                .cloned()
        })
        .await
    }

    pub(crate) async fn grant(&mut self) -> v1::TrialGrant {
        self.find(|down| match down {
            Down::TrialGrant(grant) => Some(grant.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn go_away(&mut self) -> v1::GoAway {
        self.find(|down| match down {
            Down::GoAway(go) => Some(go.clone()),
            _ => None,
        })
        .await
    }

    /// Reports requests of the current slot, some of them failed.
    pub(crate) async fn report(&mut self, name: &str, requests: u32, failures: u32) {
        let backend = v1::BackendReport {
            backend: name.to_owned(),
            slots: vec![v1::Slot {
                age_ms: 0,
                requests,
                failures,
                ..v1::Slot::default()
            }],
            demand: u64::from(requests).max(1),
            idempotent_demand: 1,
            ..v1::BackendReport::default()
        };
        self.send(v1::Report {
            backends: vec![backend],
            ..v1::Report::default()
        })
        .await;
    }

    /// Sends a report with the next sequence.
    pub(crate) async fn send(&mut self, report: v1::Report) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.say(Up::Report(v1::Report { sequence, ..report }))
            .await;
    }

    /// Reports demand on a service's quotas: key, wanted, admitted.
    pub(crate) async fn report_quota(&mut self, service: &str, quotas: &[(u64, u64, u64)]) {
        let quota = |&(key_hash, wanted, admitted): &(u64, u64, u64)| v1::QuotaReport {
            key_hash,
            wanted,
            admitted,
        };
        let service = v1::ServiceReport {
            service: service.to_owned(),
            quotas: quotas.iter().map(quota).collect(),
            ..v1::ServiceReport::default()
        };
        self.sequence += 1;
        let report = v1::Report {
            sequence: self.sequence,
            services: vec![service],
            ..v1::Report::default()
        };
        self.say(Up::Report(report)).await;
    }

    /// Waits for a decision about a service that is as `wanted`.
    pub(crate) async fn steered(
        &mut self,
        name: &str,
        wanted: impl Fn(&v1::ServiceDecision) -> bool,
    ) -> v1::ServiceDecision {
        self.find(|down| match down {
            Down::Decisions(decisions) => {
                let mut services = decisions.services.iter();
                services.find(|d| d.service == name && wanted(d)).cloned()
            }
            _ => None,
        })
        .await
    }

    /// Callers of a service that want so much, and get it, until it is dropped.
    pub(crate) fn wants(&self, service: &str, per_second: v1::ByPriority) -> Wanting {
        const EVERY: Duration = Duration::from_millis(100);
        let up = self.up.clone();
        let service = service.to_owned();
        Wanting(tokio::spawn(async move {
            let mut sent = Instant::now() - EVERY;
            loop {
                let covered = sent.elapsed().as_secs_f64();
                sent = Instant::now();
                let of = |rate: f64| rate * covered;
                let demand = v1::ByPriority {
                    critical: of(per_second.critical),
                    high: of(per_second.high),
                    normal: of(per_second.normal),
                    low: of(per_second.low),
                };
                let of_service = v1::ServiceReport {
                    service: service.clone(),
                    demand: Some(demand),
                    succeeded: of(per_second.normal) as u64,
                    ..v1::ServiceReport::default()
                };
                // Without a sequence, beside the agent's other reports.
                let report = v1::Report {
                    services: vec![of_service],
                    ..v1::Report::default()
                };
                if up.send(request(Up::Report(report))).await.is_err() {
                    return;
                }
                // The pace of the script; no outcome depends on it.
                sleep(EVERY).await;
            }
        }))
    }

    pub(crate) async fn answer(&self, grant: &v1::TrialGrant, outcome: v1::TrialOutcome) {
        let result = v1::TrialResult {
            backend: grant.backend.clone(),
            lease_id: grant.lease_id.clone(),
            outcome: outcome.into(),
        };
        self.say(Up::TrialResult(result)).await;
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Option<Status> {
        let search = async {
            loop {
                match self.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        };
        timeout(SOON, search).await.expect("the stream ends soon")
    }
}

/// Demand that lasts as long as this lives.
pub(crate) struct Wanting(JoinHandle<()>);

impl Drop for Wanting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until `check` gives something.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        // The condition is looked at again; no outcome depends on this.
        sleep(Duration::from_millis(20)).await;
    }
}

/// A store that can be switched off.
pub(crate) struct Switched {
    pub(crate) on: AtomicBool,
    /// Pages of events come too late.
    pub(crate) slow_pages: AtomicBool,
    inner: MemoryStore,
}

impl Switched {
    pub(crate) fn new(inner: MemoryStore) -> Arc<Self> {
        Arc::new(Self {
            on: AtomicBool::new(true),
            slow_pages: AtomicBool::new(false),
            inner,
        })
    }

    fn when_on<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        match self.on.load(Ordering::SeqCst) {
            true => answer,
            false => Box::pin(async { Err(StoreError::Unavailable("switched off".to_owned())) }),
        }
    }
}

impl Store for Switched {
    fn sync(&self, request: SyncRequest) -> Answer<'_, SyncReply> {
        self.when_on(self.inner.sync(request))
    }

    fn commit(
        &self,
        backend: BackendName,
        expected: Option<breaker_core::Version>,
        next: Record,
        events: Vec<Bytes>,
    ) -> Answer<'_, Commit> {
        self.when_on(self.inner.commit(backend, expected, next, events))
    }

    fn commit_service(
        &self,
        service: ServiceName,
        expected: Option<breaker_core::Version>,
        next: Steering,
        events: Vec<Bytes>,
    ) -> Answer<'_, CommitService> {
        self.when_on(self.inner.commit_service(service, expected, next, events))
    }

    fn append(&self, about: About, events: Vec<Bytes>) -> Answer<'_, ()> {
        self.when_on(self.inner.append(about, events))
    }

    fn events(&self, query: EventQuery) -> Answer<'_, EventPage> {
        if self.slow_pages.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::Unavailable("too late".to_owned())) });
        }
        self.when_on(self.inner.events(query))
    }

    fn config(&self) -> Answer<'_, Option<ConfigRecord>> {
        self.when_on(self.inner.config())
    }

    fn put_config(
        &self,
        expected: u64,
        next: ConfigRecord,
        events: Vec<Bytes>,
    ) -> Answer<'_, PutConfig> {
        self.when_on(self.inner.put_config(expected, next, events))
    }

    fn heartbeat(&self, presence: Presence) -> Answer<'_, Vec<(ReplicaId, Presence)>> {
        self.when_on(self.inner.heartbeat(presence))
    }

    fn hints(&self) -> Hints {
        self.inner.hints()
    }
}
