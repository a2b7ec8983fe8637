//! Replicas decide as fast as they can while the server loses everything again
//! and again: for none of them a version goes back, and none means two things.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use breaker_core::{BackendName, Version, ids::ServiceName};

use super::{RedisServer, join};
use crate::store::{
    About, Commit,
    redis::RedisStore,
    testing::{Sample, eventually, marked, try_read},
};

/// What all replicas have seen, by name and version.
#[derive(Default)]
struct Histories {
    meaning: Mutex<BTreeMap<(About, Version), u64>>,
    commits: AtomicU64,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Histories {
    fn note(&self, name: impl Into<About>, version: Version, mark: u64) {
        let about = name.into();
        let mut meaning = self.meaning.lock().expect("no panic elsewhere");
        let first = *meaning.entry((about.clone(), version)).or_insert(mark);
        assert_eq!(first, mark, "{version:?} of {about} has two meanings");
    }
}

async fn decide<S: Sample>(store: Arc<RedisStore>, histories: Arc<Histories>) {
    let names = ["us", "eu"].map(S::called);
    let mut last: BTreeMap<S, Version> = BTreeMap::new();
    while !histories.stop.load(Relaxed) {
        for name in &names {
            let Ok(state) = try_read(&*store, name).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let mut advance = |version: Version| {
                let before = last.insert(name.clone(), version);
                assert!(before <= Some(version), "{before:?} became {version:?}");
            };
            if let (Some(version), Some(record)) = (state.version, &state.record) {
                advance(version);
                histories.note(name.clone(), version, S::mark(record));
            }
            let mark = histories.next.fetch_add(1, Relaxed);
            let next = marked::<S>(mark);
            match name.commit(&*store, state.version, next, vec![]).await {
                Ok(Commit::Done(version)) => {
                    advance(version);
                    histories.note(name.clone(), version, mark);
                    histories.commits.fetch_add(1, Relaxed);
                }
                Ok(Commit::Lost(Some(current))) => {
                    advance(S::version(&current));
                    histories.note(name.clone(), S::version(&current), S::mark(&current));
                }
                Ok(Commit::Lost(None)) | Err(_) => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_never_go_back_nor_mean_two_things_while_the_server_forgets() {
    let mut server = RedisServer::start(&[]);
    let mut stores = Vec::new();
    for name in ["a", "b", "c"] {
        stores.push(join(&server, name).await);
    }
    let histories = Arc::new(Histories::default());
    let deciding: Vec<_> = stores
        .iter()
        .flat_map(|store| {
            let of = || (store.clone(), histories.clone());
            let (backends, services) = (of(), of());
            [
                tokio::spawn(decide::<BackendName>(backends.0, backends.1)),
                tokio::spawn(decide::<ServiceName>(services.0, services.1)),
            ]
        })
        .collect();
    for fault in 0..6 {
        let before = histories.commits.load(Relaxed);
        eventually("decisions go on", async || {
            let failed = deciding.iter().any(|task| task.is_finished());
            (failed || histories.commits.load(Relaxed) > before + 50).then_some(())
        })
        .await;
        match fault % 3 {
            0 => server.restart(),
            1 => server.run(&["FLUSHALL"]),
            _ => server.run(&["SCRIPT", "FLUSH"]),
        }
    }
    histories.stop.store(true, Relaxed);
    for task in deciding {
        task.await.expect("a replica's invariants hold");
    }

    all_agree::<BackendName>(&stores).await;
    all_agree::<ServiceName>(&stores).await;
}

async fn all_agree<S: Sample>(stores: &[Arc<RedisStore>]) {
    for name in ["us", "eu"].map(S::called) {
        eventually("all agree", async || {
            let mut states = Vec::new();
            for store in stores {
                states.push(try_read(&**store, &name).await.ok()?.record?);
            }
            states.windows(2).all(|two| two[0] == two[1]).then_some(())
        })
        .await;
    }
}
