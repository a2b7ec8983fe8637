//! What the tests stand on.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use breaker_core::{Mix, breaker::Version, ids::PopId, time::Timestamp};
use fleet_config::FleetConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
};

use crate::{
    admit::{
        backend::Backend,
        gate::CoreGate,
        recorder::Tally,
        refusal::RefusalReason,
        service::Service,
        snapshot::Snapshot,
        stance::{Rule, Stance},
        way::Way,
    },
    clock::Clock,
    serve::{
        listener::Listeners,
        server::{Edge, Server},
    },
    sight::setup::Sight,
};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits, but not for ever.
pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.expect("it did not happen in time")
}

/// A free port of this machine.
pub(super) fn local() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// A running data plane of one core.
pub(super) struct Rig {
    pub(super) address: SocketAddr,
    table: Arc<ArcSwap<Snapshot>>,
    wake: Arc<Notify>,
    drain: watch::Sender<bool>,
    server: Server,
    pub(super) sight: Sight,
}

impl Rig {
    /// With a fleet file whose only POP is `p`.
    pub(super) fn start(fleet: &str) -> Self {
        let rig = Self::unconfigured();
        rig.configure(fleet);
        rig
    }

    pub(super) fn unconfigured() -> Self {
        Self::on(&[local()], &Edge::default())
    }

    /// With these listeners.
    pub(super) fn on(listeners: &[SocketAddr], edge: &Edge) -> Self {
        let table = Arc::new(ArcSwap::from_pointee(Snapshot::empty()));
        let wake = Arc::new(Notify::new());
        let sight = Sight::new(1);
        let gate = CoreGate::new(0, table.clone(), Clock::new(), Arc::default());
        let listeners = Listeners::bind_all(listeners, 1).expect("free ports");
        let (drain, draining) = watch::channel(false);
        let edge = Edge {
            sight: sight.clone(),
            ..edge.clone()
        };
        let server = Server::start(listeners, vec![gate], &edge, &draining).expect("a thread");
        Self {
            address: server.addresses()[0],
            table,
            wake,
            drain,
            server,
            sight,
        }
    }

    /// Where it listens.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// With one service `s` in one region `r` of one endpoint, and more settings
    /// of it.
    pub(super) fn in_front_of(endpoint: SocketAddr, settings: &str) -> Self {
        Self::start(&fleet(&[("r", endpoint)], settings))
    }

    pub(super) fn configure(&self, fleet: &str) {
        let config = FleetConfig::parse(fleet, "test").expect("a good fleet file");
        let pop = PopId::new("p").expect("a name");
        let old = self.table.load();
        let next = old.next(old.revision + 1, Arc::new(config), &pop, 1, &self.wake);
        self.table.store(Arc::new(next));
    }

    fn backend(&self, region: &str) -> Arc<Backend> {
        let table = self.table.load();
        let mut backends = table.backends();
        let found = backends.find(|backend| backend.name.region() == region);
        found.expect("it is configured").clone()
    }

    /// Refuses everything for a region.
    pub(super) fn refuse(&self, region: &str, reason: RefusalReason, until: Duration) {
        let stance = Stance {
            rule: Rule::Refuse {
                reason,
                until: Timestamp::from_millis(until.as_millis() as u64),
                ramp: Duration::ZERO,
                leases: Vec::new(),
            },
            version: Version {
                epoch: 3,
                revision: 42,
            },
            mix: Mix::default(),
            shadow: false,
        };
        self.backend(region).live.stance.store(Arc::new(stance));
    }

    /// What a plan says about service `s`.
    pub(super) fn steer(&self, way: impl FnOnce(&Service, &mut Way)) {
        let table = self.table.load();
        let service = &table.services["s"];
        let mut next = Way::in_order(service.regions.len());
        next.version = Version {
            epoch: 3,
            revision: 42,
        };
        way(service, &mut next);
        service.way.store(Arc::new(next));
    }

    /// Waits until every name of a region's endpoints has addresses.
    pub(super) async fn resolved(&self, region: &str) {
        let backend = self.backend(region);
        let targets = || backend.live.reach.targets();
        within(async {
            while targets().iter().any(|target| target.address.is_none()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until so many requests wait for a place at region `r`.
    pub(super) async fn queued(&self, count: u32) {
        let backend = self.backend("r");
        within(async {
            while backend.live.queue.len() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// What callers of service `s` got.
    pub(super) fn served(&self, tally: Tally) -> u64 {
        self.table.load().services["s"].counters().get(tally)
    }

    /// Bytes and number of the kept answers.
    pub(super) fn kept(&self) -> (u64, u64) {
        let store = &self.table.load().cache;
        (store.bytes(), store.entries())
    }

    /// What was counted for a region.
    pub(super) fn count(&self, region: &str, tally: Tally) -> u64 {
        self.backend(region).cells[0].recorder.read().get(tally)
    }

    /// The largest Retry-After of a region's backend since the last call.
    pub(super) fn retry_after(&self, region: &str) -> Duration {
        self.backend(region).cells[0].recorder.take_retry_after()
    }

    /// Waits until so many requests of region `r` are in flight.
    pub(super) async fn in_flight(&self, count: usize) {
        let backend = self.backend("r");
        within(async {
            while backend.in_flight() as usize != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Waits until one request of region `r` has ended, as `tally` and nothing
    /// else, and nothing is in flight.
    pub(super) async fn settled(&self, tally: Tally) {
        let backend = self.backend("r");
        let outcomes = || {
            let counts = backend.cells[0].recorder.read();
            counts.completed() + counts.get(Tally::ClientGone)
        };
        within(async {
            while outcomes() == 0 || backend.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let counts = backend.cells[0].recorder.read();
        assert_eq!((outcomes(), counts.get(tally)), (1, 1), "{counts:?}");
    }

    pub(super) async fn client(&self) -> Wire {
        Wire::connect(self.address).await
    }

    /// One request on a connection of its own, with its whole answer.
    pub(super) async fn ask(&self, request: &str) -> String {
        let mut client = self.client().await;
        client.write(request).await;
        client.rest().await
    }

    pub(super) fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Waits until no new connection is taken.
    pub(super) async fn closed(&self) {
        within(async {
            while TcpStream::connect(self.address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    pub(super) async fn ended(self) {
        within(self.server.ended()).await;
    }
}

/// A field's value in a header.
pub(super) fn field(head: &str, name: &str) -> String {
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {head}"))
        .trim()
        .to_owned()
}

/// A fleet file with service `s` in these regions, each with one endpoint.
pub(super) fn fleet(regions: &[(&str, SocketAddr)], settings: &str) -> String {
    let order: Vec<_> = regions.iter().map(|(region, _)| *region).collect();
    let backend = |(region, endpoint): &(&str, SocketAddr)| {
        format!("{region}: {{endpoints: [\"http://{endpoint}\"]}}")
    };
    let backends: Vec<_> = regions.iter().map(backend).collect();
    format!(
        "pops: {{p: {{region_order: [{}]}}}}\nservices:\n  s:\n    backends: {{{}}}\n    {}",
        order.join(", "),
        backends.join(", "),
        match settings.contains("routes:") {
            true => settings.to_owned(),
            false => format!("routes: [{{path_prefix: /}}]\n    {settings}"),
        }
    )
}

/// A backend whose connections the test speaks on itself.
pub(super) struct Scripted {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

impl Scripted {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        Self { listener, address }
    }

    pub(super) async fn accept(&self) -> Wire {
        let (stream, _) = within(self.listener.accept()).await.expect("a connection");
        Wire(stream)
    }
}

/// One end of a connection, byte by byte.
pub(super) struct Wire(pub(super) TcpStream);

impl Wire {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("someone listens");
        stream.set_nodelay(true).expect("a socket");
        Self(stream)
    }

    pub(super) async fn write(&mut self, text: &str) {
        self.write_bytes(text.as_bytes()).await;
    }

    pub(super) async fn write_bytes(&mut self, bytes: &[u8]) {
        within(self.0.write_all(bytes)).await.expect("it is open");
    }

    /// Up to and with `mark`.
    pub(super) async fn until(&mut self, mark: &str) -> String {
        let mut seen = Vec::new();
        within(async {
            while !seen.ends_with(mark.as_bytes()) {
                match self.0.read_u8().await {
                    Ok(byte) => seen.push(byte),
                    Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&seen)),
                }
            }
        })
        .await;
        String::from_utf8(seen).expect("text")
    }

    /// As much as `into` holds.
    pub(super) async fn fill(&mut self, into: &mut [u8]) {
        within(self.0.read_exact(into)).await.expect("it is open");
    }

    /// A header, in lower case.
    pub(super) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await.to_ascii_lowercase()
    }

    /// The header of an answer of ours, or of a cut response everything.
    pub(super) async fn rest_or_open(&mut self) -> String {
        let head = self.until("\r\n\r\n").await;
        match head.contains("x-rampmeter") {
            true => head,
            false => head + &self.rest().await,
        }
    }

    /// Says that nothing more will come, and waits until the other side agrees.
    pub(super) async fn close(&mut self) {
        within(self.0.shutdown()).await.expect("it is open");
        assert_eq!(self.rest().await, "");
    }

    /// Says that nothing more will come.
    pub(super) async fn end(&mut self) {
        within(self.0.shutdown()).await.expect("it is open");
    }

    /// Ends, and then what it is joined to.
    pub(super) async fn close_after(&mut self, other: &mut Self) {
        self.end().await;
        assert_eq!(other.rest().await, "");
        other.end().await;
        assert_eq!(self.rest().await, "");
    }

    /// Nothing has come, though there was time for it.
    pub(super) async fn quiet(&mut self) {
        let mut byte = [0];
        let read = self.0.read(&mut byte);
        let waited = tokio::time::timeout(Duration::from_millis(50), read).await;
        waited.expect_err("something came");
    }

    /// Writes until nothing more is taken; returns how many bytes were.
    pub(super) async fn write_until_stuck(&mut self) -> usize {
        let mut sent = 0;
        let mut write = async || {
            let write = self.0.write(&[b'x'; 1 << 16]);
            tokio::time::timeout(Duration::from_millis(200), write).await
        };
        while let Ok(written) = write().await {
            sent += written.expect("it is open");
        }
        sent
    }

    /// Takes so many bytes.
    pub(super) async fn take(&mut self, count: usize) {
        let mut all = vec![0; count];
        self.fill(&mut all).await;
    }

    /// Writes again and again until the other side has closed.
    pub(super) async fn write_until_closed(&mut self, text: &str) {
        within(async {
            while self.0.write_all(text.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Everything until the other side closes, or resets.
    pub(super) async fn rest(&mut self) -> String {
        let mut seen = Vec::new();
        // A reset ends it as well.
        let _ = within(self.0.read_to_end(&mut seen)).await;
        String::from_utf8(seen).expect("text")
    }
}
