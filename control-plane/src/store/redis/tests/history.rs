//! The store's history is lost or changed under us: nobody goes back.

use breaker_core::{BackendName, Version, ids::ServiceName};

use super::{RedisServer, join};
use crate::store::{
    About, Commit, EventQuery, Hint, REPAIR_GRACE, Store, StoreError, SyncRequest,
    redis::{Group, RedisStore},
    testing::{
        Sample, State, backend, contract::wait_for, eventually, marked, open_until, read, sync,
        try_read, until,
    },
};

/// Commits, through the grace of a new epoch if need be.
async fn commit<S: Sample>(store: &RedisStore, name: &S, mark: u64) -> Version {
    eventually("a commit", async || {
        let state = try_read(store, name).await.ok()?;
        let next = marked::<S>(mark);
        match name.commit(store, state.version, next, vec![]).await {
            Ok(Commit::Done(version)) => Some(version),
            Ok(Commit::Lost(_)) | Err(_) => None,
        }
    })
    .await
}

async fn up<S: Sample>(store: &RedisStore, name: &S) -> State<S> {
    eventually("the store is back", async || {
        try_read(store, name).await.ok()
    })
    .await
}

#[tokio::test]
async fn a_server_that_comes_back_empty_gets_everything_back_in_a_higher_epoch() {
    gets_everything_back::<BackendName>().await;
    gets_everything_back::<ServiceName>().await;
}

async fn gets_everything_back<S: Sample>() {
    let mut server = RedisServer::start(&[]);
    let (a, b) = (join(&server, "a").await, join(&server, "b").await);
    let (pay, web) = (S::called("pay"), S::called("web"));
    commit(&a, &pay, 1).await;
    let of_web = commit(&b, &web, 1).await;
    read(&*b, &pay).await;
    let newest = commit(&a, &pay, 2).await;

    server.restart();

    // b, which has seen less, is first to come back; then a, which knows more.
    let older = up(&b, &pay).await;
    assert_eq!(older.record.as_ref().map(S::mark), Some(1));
    let repaired = up(&a, &pay).await;
    assert_eq!(repaired.record.as_ref().map(S::mark), Some(2));
    assert!(repaired.version > Some(newest));
    assert!(repaired.version > older.version);
    assert_eq!(read(&*b, &pay).await.record, repaired.record);
    let web = up(&b, &web).await;
    assert_eq!(web.record.as_ref().map(S::mark), Some(1));
    assert!(web.version > Some(of_web));
}

#[tokio::test]
async fn nothing_is_decided_until_replicas_had_time_to_repair() {
    let mut server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    let name = backend("pay/us");
    commit(&store, &name, 1).await;
    server.restart();
    let state = up(&store, &name).await;
    let started = std::time::Instant::now();

    let early = store.commit(name.clone(), state.version, open_until(2), vec![]);

    assert_eq!(early.await, Err(StoreError::Repairing));
    let version = commit(&store, &name, 3).await;
    assert_eq!(version.epoch, state.epoch);
    assert!(started.elapsed() < 3 * REPAIR_GRACE);
}

#[tokio::test]
async fn a_new_group_needs_no_grace() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    let first = store.commit(backend("pay/us"), None, open_until(1), vec![]);
    assert!(matches!(first.await, Ok(Commit::Done(_))));
}

/// A master and its replica, in sync.
async fn pair() -> (RedisServer, RedisServer) {
    let master = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::start(&[]);
    let port = master.port().to_string();
    let _: String = replica.run(&["REPLICAOF", "127.0.0.1", &port]);
    in_sync(&replica).await;
    (master, replica)
}

async fn in_sync(replica: &RedisServer) {
    eventually("the replica is in sync", async || {
        let info: String = replica.run(&["INFO", "replication"]);
        info.contains("master_link_status:up").then_some(())
    })
    .await;
}

/// Waits until the replica has all that was written so far.
async fn caught_up(master: &RedisServer, replica: &RedisServer) {
    let offset = |server: &RedisServer, key: &str| -> u64 {
        let info: String = server.run(&["INFO", "replication"]);
        let line = info.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|n| n.trim().parse().ok()).expect("an offset")
    };
    let written = offset(master, "master_repl_offset:");
    eventually("the replica catches up", async || {
        (offset(replica, "slave_repl_offset:") >= written).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_promoted_replica_that_lost_writes_gets_them_back_in_a_higher_epoch() {
    is_repaired_after_promotion::<BackendName>().await;
    is_repaired_after_promotion::<ServiceName>().await;
}

async fn is_repaired_after_promotion<S: Sample>() {
    let (old, new) = pair().await;
    let (a, b) = (join(&old, "a").await, join(&old, "b").await);
    let name = S::called("us");
    commit(&a, &name, 1).await;
    read(&*b, &name).await;
    caught_up(&old, &new).await;
    // From here on the replica gets nothing more.
    let _: String = new.run(&["REPLICAOF", "NO", "ONE"]);
    let lost = commit(&a, &name, 2).await;

    // Another replica of ours, that never saw the lost write, decides on the new master.
    let c = join(&new, "c").await;
    let before = read(&*c, &name).await;
    assert_eq!(before.record.as_ref().map(S::mark), Some(1));
    assert!(before.epoch > lost.epoch, "promotion starts an epoch");

    // What a saw reaches the new master when a does.
    let a = follow(a, &new).await;
    let repaired = up(&a, &name).await;
    assert_eq!(repaired.record.as_ref().map(S::mark), Some(2));
    assert!(repaired.version > Some(lost));
    assert_eq!(read(&*c, &name).await.record, repaired.record);
}

/// The same replica, after the store's name leads elsewhere.
async fn follow(store: std::sync::Arc<RedisStore>, to: &RedisServer) -> std::sync::Arc<RedisStore> {
    let moved = join(to, "moved").await;
    let seen = std::mem::take(&mut *store.seen());
    *moved.seen() = seen;
    moved
}

#[tokio::test]
async fn a_promotion_starts_an_epoch_though_nothing_was_lost() {
    let (old, new) = pair().await;
    let a = join(&old, "a").await;
    let name = backend("pay/us");
    let version = commit(&a, &name, 1).await;
    caught_up(&old, &new).await;
    let _: String = new.run(&["REPLICAOF", "NO", "ONE"]);

    let a = follow(a, &new).await;
    let state = up(&a, &name).await;

    assert!(state.epoch > version.epoch);
    assert_eq!(state.version.map(|v| v.epoch), Some(state.epoch));
    assert_eq!(state.version.map(|v| v.revision), Some(version.revision));
    assert_eq!(state.record.as_ref().map(until), Some(1));
}

#[tokio::test]
async fn lost_writes_are_noticed_where_info_is_forbidden() {
    let server = RedisServer::start(&[]);
    let allowed = [
        "ACL", "SETUSER", "cp", "on", ">pw", "~rm:*", "&rm:*", "+@all", "-info",
    ];
    let _: String = server.run(&allowed);
    let url = server.url().replace("://", "://cp:pw@");
    let store = RedisStore::open(&url, crate::store::ReplicaId::new("a")).await;
    let store = store.expect("INFO is not needed");
    let name = backend("pay/us");
    let first = commit(&store, &name, 1).await;
    commit(&store, &name, 2).await;
    // As a failover would: the record is as it was before the last commit.
    let key = Group::of(&name.clone().into()).key("records");
    let header = format!("{} {} 0 0 a", first.epoch, first.revision);
    let _: u32 = server.run(&["HSET", &key, "v:pay/us", &header]);

    let state = read(&*store, &name).await;

    assert!(state.epoch > first.epoch);
    assert_eq!(state.record.as_ref().map(until), Some(2));
}

#[tokio::test]
async fn a_new_epoch_is_hinted_to_everybody() {
    let server = RedisServer::start(&[]);
    let (a, b) = (join(&server, "a").await, join(&server, "b").await);
    let name = backend("pay/us");
    commit(&a, &name, 1).await;
    let mut hints = b.hints();
    let _: u32 = server.run(&["DEL", &Group::of(&name.clone().into()).key("meta")]);
    read(&*a, &name).await;
    wait_for(&mut hints, &Hint::Everything).await;
}

#[tokio::test]
async fn the_clock_goes_on_from_where_it_was_when_the_servers_goes_back() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    let request = || SyncRequest {
        read: vec![backend("pay/us")],
        ..SyncRequest::default()
    };
    let now = sync(&*store, request()).await.now;
    // As if the server's time had gone back by an hour since.
    let ahead = (now.as_millis() + 3_600_000).to_string();
    let key = Group::of(&backend("pay/us").into()).key("meta");
    let _: u32 = server.run(&["HSET", &key, "clock", &ahead]);

    let after = sync(&*store, request()).await.now;

    assert!(after.as_millis() >= now.as_millis() + 3_600_000);
    eventually("the clock moves on", async || {
        (sync(&*store, request()).await.now > after).then_some(())
    })
    .await;
    // Other groups follow, and so does a server that forgot.
    let clock_of_other = || -> u64 {
        let key = Group::of(&backend("web/eu").into()).key("meta");
        server.run(&["HGET", &key, "clock"])
    };
    let other = SyncRequest {
        read: vec![backend("web/eu")],
        ..SyncRequest::default()
    };
    assert!(sync(&*store, other).await.now > after);
    assert!(clock_of_other() > after.as_millis());
    let _: String = server.run(&["FLUSHALL"]);
    assert!(sync(&*store, request()).await.now > after);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named_and_does_not_hide_the_others() {
    is_named_and_hides_nothing::<BackendName>("pay/us").await;
    is_named_and_hides_nothing::<ServiceName>("us").await;
}

async fn is_named_and_hides_nothing<S: Sample>(stored: &str) {
    let server = RedisServer::start(&[]);
    let (a, b) = (join(&server, "a").await, join(&server, "b").await);
    let (bad, good) = (S::called("us"), S::called("eu"));
    let version = commit(&a, &bad, 1).await;
    commit(&a, &good, 1).await;
    let key = Group::of(&bad.clone().into()).key("records");
    let _: u32 = server.run(&["HSET", &key, &format!("b:{stored}"), "garbage"]);

    let asked = vec![(good, None), (bad.clone(), None)];
    let reply = sync(&*b, S::request(asked, vec![])).await;

    let said = reply.corrupt[0].to_string();
    assert!(said.contains(&format!("{key} field {stored}")), "{said}");
    assert_eq!(reply.corrupt.len(), 1);
    let found = S::found(reply);
    assert!(found[0].record.is_some(), "the good one");
    assert_eq!(found[1].record, None);
    assert_eq!(found[1].version, Some(version), "so it can be replaced");
    commit(&b, &bad, 2).await;
    assert_eq!(read(&*a, &bad).await.record.as_ref().map(S::mark), Some(2));
}

#[tokio::test]
async fn a_damaged_version_counts_as_lost_and_is_repaired() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    let name = backend("pay/us");
    let version = commit(&store, &name, 1).await;
    let key = Group::of(&name.clone().into()).key("records");
    let _: u32 = server.run(&["HSET", &key, "v:pay/us", "what?"]);
    let state = read(&*store, &name).await;
    assert_eq!(state.record.as_ref().map(until), Some(1));
    assert!(state.version > Some(version));
}

#[tokio::test]
async fn registers_have_a_time_to_live_and_records_have_none() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    let name = backend("pay/us");
    commit(&store, &name, 1).await;
    let request = SyncRequest {
        registers: vec![(name.clone(), crate::store::testing::view(1))],
        ..SyncRequest::default()
    };
    sync(&*store, request).await;
    store.heartbeat(Default::default()).await.unwrap();
    let group = Group::of(&name.clone().into());
    let ttl = |key: String| -> i64 { server.run(&["PTTL", &key]) };
    assert!((1..=3_000).contains(&ttl(group.key("registers"))));
    assert!((1..=3_000).contains(&ttl(Group::FLEET.key("replicas"))));
    assert_eq!(ttl(group.key("records")), -1);
    assert_eq!(ttl(group.key("meta")), -1);
}

#[tokio::test]
async fn a_groups_events_are_bounded() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    let name = backend("pay/us");
    for _ in 0..20 {
        let events = vec![bytes::Bytes::from("e"); 100];
        store
            .append(About::Backend(name.clone()), events)
            .await
            .unwrap();
    }
    let kept: usize = server.run(&["XLEN", &Group::of(&name.clone().into()).key("events")]);
    assert!((500..=700).contains(&kept), "{kept}");
    let query = EventQuery {
        backend: Some(name),
        limit: 1_000,
        ..EventQuery::default()
    };
    assert_eq!(store.events(query).await.unwrap().events.len(), kept);
}
