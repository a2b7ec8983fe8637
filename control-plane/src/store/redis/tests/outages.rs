//! The server or the way to it fails: calls end in time, and the link comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{RedisServer, join};
use crate::store::{
    About, Hint, ReplicaId, Store, StoreError,
    redis::RedisStore,
    testing::{backend, contract::wait_for, eventually, open_until, try_read},
};

/// [`crate::store::CALL_LIMIT`], and something for a busy machine.
const IN_TIME: Duration = Duration::from_millis(400);

async fn fails_in_time(store: &RedisStore) -> StoreError {
    let start = Instant::now();
    let error = try_read(store, &backend("pay/us")).await;
    assert!(start.elapsed() < IN_TIME, "took {:?}", start.elapsed());
    error.expect_err("the store is away")
}

async fn goes_down(store: &RedisStore) -> StoreError {
    eventually("the store is away", async || {
        try_read(store, &backend("pay/us")).await.err()
    })
    .await
}

async fn comes_back(store: &RedisStore) {
    eventually("the store is back", async || {
        try_read(store, &backend("pay/us")).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_killed_and_started_again_is_found_again() {
    let mut server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    comes_back(&store).await;
    server.kill();
    for _ in 0..3 {
        let error = fails_in_time(&store).await;
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    let said = goes_down(&store).await.to_string();
    assert!(said.contains(&server.url()), "{said}");
    server.restart();
    comes_back(&store).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_at_the_start_is_waited_for() {
    let mut server = RedisServer::start(&[]);
    server.kill();
    let start = Instant::now();
    let store = join(&server, "a").await;
    assert!(start.elapsed() < Duration::from_secs(1));
    fails_in_time(&store).await;
    server.restart();
    comes_back(&store).await;
}

#[tokio::test]
async fn a_frozen_server_delays_no_call_and_is_used_again_when_it_thaws() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    comes_back(&store).await;
    server.freeze();
    for _ in 0..5 {
        let error = fails_in_time(&store).await;
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    server.thaw();
    comes_back(&store).await;
}

#[tokio::test]
async fn every_call_ends_in_time_while_the_server_is_frozen() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    server.freeze();
    let start = Instant::now();
    let commit = store.commit(backend("pay/us"), None, open_until(1), vec![]);
    let (a, b, c, d, e) = tokio::join!(
        commit,
        store.heartbeat(Default::default()),
        store.config(),
        store.append(About::Fleet, vec![]),
        store.events(Default::default()),
    );
    assert!(start.elapsed() < IN_TIME, "took {:?}", start.elapsed());
    assert!(a.is_err() && b.is_err() && c.is_err() && d.is_err() && e.is_err());
    server.thaw();
}

#[tokio::test]
async fn late_answers_now_and_then_do_not_cost_the_connection() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    let connections = |server: &RedisServer| {
        let info: String = server.run(&["INFO", "stats"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        line.and_then(|n| n.trim().parse::<u32>().ok())
            .expect("a number")
    };
    comes_back(&store).await;
    let before = connections(&server);
    for _ in 0..2 {
        server.freeze();
        fails_in_time(&store).await;
        server.thaw();
        let _: String = server.run(&["PING"]);
        comes_back(&store).await;
    }
    assert_eq!(connections(&server), before + 3, "only this test's own");
}

/// Forwards to `port`. Connections made while `stalled` are forwarded; older
/// ones carry nothing any more, and nobody is told, as when a firewall forgot.
async fn proxy(port: u16, stalled: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await;
            let server = server.expect("the server is up");
            let old = !stalled.load(Relaxed);
            tokio::spawn(forward(client, server, old.then(|| stalled.clone())));
        }
    });
    own
}

async fn forward(mut client: TcpStream, mut server: TcpStream, stalled: Option<Arc<AtomicBool>>) {
    let (mut up, mut down) = ([0; 65_536], [0; 65_536]);
    loop {
        let (to, bytes) = tokio::select! {
            Ok(n @ 1..) = client.read(&mut up) => (&mut server, &up[..n]),
            Ok(n @ 1..) = server.read(&mut down) => (&mut client, &down[..n]),
            else => return,
        };
        if stalled
            .as_ref()
            .is_some_and(|stalled| stalled.load(Relaxed))
        {
            std::future::pending::<()>().await;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_connection_that_carries_nothing_any_more_is_replaced() {
    let server = RedisServer::start(&[]);
    let stalled = Arc::new(AtomicBool::new(false));
    let port = proxy(server.port(), stalled.clone()).await;
    let url = format!("redis://127.0.0.1:{port}/0");
    let store = RedisStore::open(&url, ReplicaId::new("a")).await;
    let store = store.expect("a Redis");
    comes_back(&store).await;
    stalled.store(true, Relaxed);
    fails_in_time(&store).await;
    fails_in_time(&store).await;
    comes_back(&store).await;
}

#[tokio::test]
async fn a_master_that_was_demoted_is_left() {
    let server = RedisServer::start(&[]);
    let other = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    comes_back(&store).await;
    let port = other.port().to_string();
    let _: String = server.run(&["REPLICAOF", "127.0.0.1", &port]);

    eventually("the link looks for the master", async || {
        let said = goes_down(&store).await.to_string();
        said.contains("its master must be reached").then_some(())
    })
    .await;

    let _: String = server.run(&["REPLICAOF", "NO", "ONE"]);
    comes_back(&store).await;
}

#[tokio::test]
async fn scripts_that_were_flushed_are_sent_again() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    let _: String = server.run(&["SCRIPT", "FLUSH"]);
    try_read(&*store, &backend("pay/us"))
        .await
        .expect("NOSCRIPT is no failure");
}

#[tokio::test]
async fn connections_that_were_cut_are_rebuilt_and_hints_go_on() {
    let server = RedisServer::start(&[]);
    let (a, b) = (join(&server, "a").await, join(&server, "b").await);
    let mut hints = b.hints();
    let _: u32 = server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    wait_for(&mut hints, &Hint::Everything).await;
    comes_back(&a).await;
    comes_back(&b).await;
    let name = backend("pay/us");
    let done = a.commit(name.clone(), None, open_until(1), vec![]).await;
    assert!(done.is_ok(), "{done:?}");
    wait_for(&mut hints, &Hint::Backend(name)).await;
}

#[tokio::test]
async fn a_dropped_store_leaves_no_connection() {
    let server = RedisServer::start(&[]);
    let store = RedisStore::open(&server.url(), ReplicaId::new("a")).await;
    drop(store.expect("a Redis"));
    eventually("the connection is closed", async || {
        let info: String = server.run(&["CLIENT", "LIST"]);
        (info.lines().count() == 1).then_some(())
    })
    .await;
}
