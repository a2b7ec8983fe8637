//! Something answers, but not as the Redis we need: said at once, and clearly.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use super::RedisServer;
use crate::store::testing::{eventually, try_read};
use crate::store::{OpenError, ReplicaId, Store, StoreError, redis::RedisStore, testing::backend};

/// A server that is late at first, on a busy host, is waited for: asked again.
async fn refusal(url: &str) -> String {
    let refused = eventually("a refusal", || async move {
        RedisStore::open(url, ReplicaId::new("a")).await.err()
    });
    match refused.await {
        error @ OpenError::Wrong { .. } => {
            let said = error.to_string();
            assert!(!said.contains("hunter2"), "no password: {said}");
            assert!(said.contains("127.0.0.1"), "names the store: {said}");
            said
        }
        other @ OpenError::Url { .. } => panic!("not wrong, but {other}"),
    }
}

fn at(server: &RedisServer, credentials: &str) -> String {
    format!("redis://{credentials}127.0.0.1:{}/0", server.port())
}

#[tokio::test]
async fn a_missing_or_wrong_password_is_named() {
    let server = RedisServer::start(&["--requirepass", "right"]);
    let said = refusal(&at(&server, "")).await;
    assert!(said.contains("wants a password"), "{said}");
    for credentials in [":hunter2@", "nobody:hunter2@"] {
        let said = refusal(&at(&server, credentials)).await;
        assert!(said.contains("refuses the user or the password"), "{said}");
    }
    let right = RedisStore::open(&at(&server, ":right@"), ReplicaId::new("a")).await;
    assert!(right.is_ok());
}

#[tokio::test]
async fn a_database_out_of_range_is_named() {
    let server = RedisServer::start(&["--databases", "2"]);
    let url = format!("redis://127.0.0.1:{}/7", server.port());
    let said = refusal(&url).await;
    assert!(said.contains("does not have that database"), "{said}");
}

#[tokio::test]
async fn a_user_without_the_rights_is_named() {
    let server = RedisServer::start(&[]);
    let user = [
        "ACL",
        "SETUSER",
        "cp",
        "on",
        ">hunter2",
        "~rm:*",
        "&rm:*",
        "+@all",
        "-@scripting",
    ];
    let _: String = server.run(&user);
    let said = refusal(&at(&server, "cp:hunter2@")).await;
    assert!(said.contains("may not do what is needed"), "{said}");
    let user = ["ACL", "SETUSER", "cp", "+@all", "resetchannels"];
    let _: String = server.run(&user);
    let said = refusal(&at(&server, "cp:hunter2@")).await;
    assert!(said.contains("channels rm:*"), "{said}");
}

#[tokio::test]
async fn a_cluster_node_is_named() {
    let server = RedisServer::start(&["--cluster-enabled", "yes"]);
    let said = refusal(&at(&server, "")).await;
    assert!(said.contains("Redis Cluster"), "{said}");
}

/// A server that answers everything with `answer`.
fn impostor(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    format!("redis://127.0.0.1:{port}/0")
}

#[tokio::test]
async fn a_web_server_is_named() {
    let url = impostor("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
    let said = refusal(&url).await;
    assert!(said.contains("is not Redis's protocol"), "{said}");
}

#[tokio::test]
async fn an_old_server_is_named() {
    let url = impostor(
        "-ERR unknown command 'HELLO'\r\n-ERR unknown command 'CLIENT'\r\n-ERR unknown command 'CLIENT'\r\n",
    );
    let said = refusal(&url).await;
    assert!(said.contains("6.2 or later"), "{said}");
}

#[tokio::test]
async fn somebody_elses_keys_are_named() {
    let server = RedisServer::start(&[]);
    let store = super::join(&server, "a").await;
    let key = super::super::Group::of(&backend("pay/us").into()).key("records");
    let _: String = server.run(&["SET", &key, "mine"]);
    let error = try_read(&*store, &backend("pay/us")).await;
    assert!(matches!(error, Err(StoreError::Wrong(_))), "{error:?}");
}

#[tokio::test]
async fn a_password_that_is_changed_later_is_told_until_it_is_right_again() {
    let server = RedisServer::start(&[]);
    let store = super::join(&server, "a").await;
    let mut hints = store.hints();
    let _: String = server.run(&["ACL", "SETUSER", "default", "resetpass", ">new"]);
    let name = backend("pay/us");
    // Those logged in stay so; this one is cut.
    let client = redis::Client::open(format!("redis://:new@127.0.0.1:{}", server.port())).unwrap();
    let mut admin = client.get_connection().unwrap();
    let mut run = |command: &[&str]| -> redis::Value {
        redis::cmd(command[0])
            .arg(&command[1..])
            .query(&mut admin)
            .unwrap()
    };
    run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let said = eventually("it is told", async || {
        match try_read(&*store, &name).await {
            Err(StoreError::Wrong(said)) => Some(said),
            _ => None,
        }
    })
    .await;
    assert!(
        said.contains("wants a password") && said.contains("127.0.0.1"),
        "{said}"
    );
    run(&["ACL", "SETUSER", "default", "nopass"]);
    eventually("it is right again", async || {
        try_read(&*store, &name).await.ok()
    })
    .await;
    crate::store::testing::contract::wait_for(&mut hints, &crate::store::Hint::Everything).await;
}
