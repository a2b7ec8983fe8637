//! What changes behind a configuration that stays the same: what names resolve to,
//! and what is in TLS files. One core looks after both for all; a request only reads
//! what it found.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use fleet_config::Endpoint;
use futures_util::{StreamExt, stream};
use tokio::{
    net::lookup_host,
    time::{Instant, sleep, timeout},
};

use crate::{
    admit::{backend::Backend, snapshot::Snapshot},
    backend::upstream::Core,
    dice::uniform,
};

/// How often it is looked at whether the configuration changed.
const LOOK: Duration = Duration::from_secs(1);

/// Names are resolved again, and files looked at, after this and up to half as long
/// again: soon enough for a failover by DNS, and no storm.
const REFRESH: Duration = Duration::from_secs(10);

/// For one name. A resolver that is slower is as good as away: what it said before
/// holds.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Names that are resolved at a time.
const AT_A_TIME: usize = 16;

type Resolved = Result<Vec<SocketAddr>, String>;

/// Looks after names and files for ever.
pub(crate) async fn run(core: Rc<Core>) {
    let mut seen: Option<Arc<Snapshot>> = None;
    let mut due = Instant::now();
    let mut failing = BTreeSet::new();
    loop {
        let snapshot = core.gate.snapshot();
        let news = !seen
            .as_ref()
            .is_some_and(|seen| Arc::ptr_eq(seen, &snapshot));
        if news || due <= Instant::now() {
            resolve(&snapshot, &mut failing).await;
            reread(&snapshot).await;
            due = Instant::now() + REFRESH.mul_f64(1.0 + uniform() / 2.0);
            seen = Some(snapshot);
        }
        sleep(LOOK).await;
    }
}

/// Resolves every name once, for all backends that have it.
async fn resolve(snapshot: &Snapshot, failing: &mut BTreeSet<Endpoint>) {
    let mut users: BTreeMap<Endpoint, Vec<&Arc<Backend>>> = BTreeMap::new();
    for backend in snapshot.backends() {
        for target in backend.live.reach.targets().iter() {
            if target.endpoint.host.parse::<std::net::IpAddr>().is_err() {
                let users = users.entry(target.endpoint.clone()).or_default();
                users.push(backend);
            }
        }
    }
    failing.retain(|endpoint| users.contains_key(endpoint));
    let lookups = users
        .keys()
        .map(async |endpoint| (endpoint.clone(), lookup(endpoint).await));
    let mut lookups = stream::iter(lookups).buffer_unordered(AT_A_TIME);
    while let Some((endpoint, resolved)) = lookups.next().await {
        match resolved {
            Ok(addresses) => {
                failing.remove(&endpoint);
                for backend in &users[&endpoint] {
                    backend.live.reach.resolved(&endpoint, addresses.clone());
                }
            }
            Err(why) if failing.insert(endpoint.clone()) => {
                tracing::warn!(%endpoint, why, "the name does not resolve; what it was stays");
            }
            Err(_) => {}
        }
    }
}

async fn lookup(endpoint: &Endpoint) -> Resolved {
    let found = timeout(
        RESOLVE_TIMEOUT,
        lookup_host((endpoint.host.as_str(), endpoint.port)),
    );
    match found.await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {RESOLVE_TIMEOUT:?}")),
    }
}

/// Reads TLS files again that changed, away from this core's requests.
async fn reread(snapshot: &Snapshot) {
    for backend in snapshot.backends() {
        let live = backend.live.clone();
        let Some(tls) = live.tls.load_full() else {
            continue;
        };
        let before = tls.clone();
        let next = tokio::task::spawn_blocking(move || tls.reload()).await;
        let Ok(Some(next)) = next else { continue };
        // Unless another configuration came meanwhile.
        let still = live.tls.load();
        if still.as_ref().is_some_and(|now| Arc::ptr_eq(now, &before)) {
            tracing::info!(backend = %backend.name, "TLS files were read again");
            live.tls.store(Some(Arc::new(next)));
        }
    }
}
