//! One agent takes over from another.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use breaker_core::{AgentId, PopId};
use tokio::{io::AsyncWriteExt, net::UnixStream, time::timeout};

use crate::{
    agent::{Agent, End, Settings, Sockets, Source, StartError},
    config::host::HostFile,
    fleet::stream::ControlPlane,
    serve::handover::{self, take},
    tests::{
        agent::{get, local},
        control::fleet,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(work: impl Future<Output = T>) -> T {
    let done = timeout(PATIENCE, work).await;
    done.expect("it did not happen in time")
}

fn settings(dir: &Path, cores: usize) -> Settings {
    let path = dir.join("fleet.yaml");
    fs::write(&path, fleet("")).expect("written");
    Settings {
        id: AgentId::new("a1").ok(),
        pop: PopId::new("fra1").expect("a name"),
        cores,
        source: Source::File(path),
        state_dir: None,
        host: HostFile::default(),
    }
}

async fn sockets(at: &[SocketAddr], cores: usize, path: PathBuf) -> Sockets {
    let opened = Sockets::open(at, local(), cores, Some(path)).await;
    opened.expect("free ports, or the ones before")
}

/// Starts an agent that takes over from the one that waits in `dir`, if there is one.
async fn agent(dir: &Path, at: &[SocketAddr], cores: usize) -> Agent {
    let path = dir.join("handover");
    let agent = Agent::start(settings(dir, cores), sockets(at, cores, path.clone()).await);
    let agent = agent.expect("it starts");
    // It waits for a successor of its own.
    within(async {
        while get(agent.admin, "GET", "/readyz").await.0 != 200 || !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    agent
}

/// Many connections, so that each socket of a group has its share.
async fn serves(address: SocketAddr) {
    for _ in 0..32 {
        // Nobody listens on the endpoint's port, so this is an agent's answer; after
        // a few of them its breaker opens.
        let (status, body) = get(address, "GET", "/x").await;
        assert!(matches!(status, 502 | 503), "{body}");
    }
}

#[tokio::test]
async fn a_successor_serves_on_the_same_sockets_with_more_cores_or_fewer() {
    let dir = tempfile::tempdir().expect("a directory");
    let any = [local(), local()];
    let mut old = agent(dir.path(), &any, 2).await;
    let (listeners, admin) = (old.listeners.clone(), old.admin);
    for cores in [1, 3, 2] {
        let new = agent(dir.path(), &listeners, cores).await;
        assert_eq!((&new.listeners, new.admin), (&listeners, admin));
        assert_eq!(within(old.ended()).await, End::Succeeded);
        for address in &listeners {
            serves(*address).await;
        }
        old = new;
    }
    old.stop().await;
    let refused = tokio::net::TcpStream::connect(listeners[0]).await;
    refused.expect_err("the last one closes them");
}

#[tokio::test]
async fn addresses_may_come_and_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut old = agent(dir.path(), &[local(), local()], 1).await;
    let kept = old.listeners[1];
    let new = agent(
        dir.path(),
        &[kept, SocketAddr::from(([127, 0, 0, 2], 0))],
        1,
    )
    .await;
    assert_eq!(within(old.ended()).await, End::Succeeded);
    assert_eq!(new.listeners[0], kept);
    for address in &new.listeners {
        serves(*address).await;
    }
    new.stop().await;
}

#[tokio::test]
async fn a_successor_that_dies_before_it_serves_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("handover");
    let mut old = agent(dir.path(), &[local()], 2).await;
    let taken = within(take(&path)).await.expect("it waits");
    drop(taken.expect("sockets"));
    let mut babbling = UnixStream::connect(&path).await.expect("it waits");
    babbling.write_all(b"hello").await.expect("it reads");
    drop(babbling);
    serves(old.listen).await;
    assert_eq!(get(old.admin, "GET", "/readyz").await.0, 200);

    let new = agent(dir.path(), &[local()], 2).await;
    assert_eq!(new.listen, old.listen, "the next one gets them");
    assert_eq!(within(old.ended()).await, End::Succeeded);
    serves(new.listen).await;
    new.stop().await;
}

#[tokio::test]
async fn a_successor_without_a_configuration_does_not_take_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = agent(dir.path(), &[local()], 1).await;
    let away = ControlPlane::new("http://127.0.0.1:1").expect("a URL");
    let settings = Settings {
        source: Source::ControlPlane(vec![away]),
        state_dir: Some(dir.path().join("state")),
        ..settings(dir.path(), 1)
    };
    let taken = sockets(&[local()], 1, dir.path().join("handover")).await;
    let error = Agent::start(settings, taken).expect_err("it cannot serve");
    assert!(matches!(error, StartError::Config(_)), "{error}");
    serves(old.listen).await;
    old.stop().await;
}

#[tokio::test]
async fn only_its_user_may_open_the_door_and_nobody_waits_behind_an_old_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("handover");
    assert!(take(&path).await.expect("no error").is_none());
    let old = agent(dir.path(), &[local()], 1).await;
    let mode = fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    old.stop().await;
    assert!(path.exists(), "left behind");
    assert!(take(&path).await.expect("no error").is_none());
    // And taken over by whoever starts next.
    agent(dir.path(), &[local()], 1).await.stop().await;
}

#[tokio::test]
async fn an_agent_does_not_take_over_from_what_is_no_agent() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("handover");
    let door = tokio::net::UnixListener::bind(&path).expect("a socket");
    let says = async |words: &[u8]| {
        let (mut stream, _) = door.accept().await.expect("a connection");
        stream.write_all(words).await.expect("it reads");
    };
    let list = b"rampmeter-handover-1\n127.0.0.1:80 1";
    let mut unsent = vec![0, 0, 0, list.len() as u8];
    unsent.extend(list);
    for words in [
        &b"\xff\xff\xff\xff"[..],
        b"\0\0\0\x05hello",
        b"\0\0\0\x20hello",
        &unsent,
    ] {
        let (taken, ()) = tokio::join!(handover::take(&path), says(words));
        taken.expect_err("it is no agent");
    }
}
