//! Certificates that change while connections are made and open.

use super::tls::{ask, ask_and_stay, connect, shown, start};
use crate::tests::pki::Authority;

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_old_ones_live_on() {
    let authority = Authority::new();
    let before = authority.sign("a", &["a.example"]);
    let (rig, mut file) = start(&authority, &authority.host(&["a"], ""));
    assert_eq!(file.reload(), Ok(false), "nothing has changed");
    let client = connect(rig.address, authority.client(None), "a.example").await;
    let mut old = client.expect("TLS");
    ask_and_stay(&mut old).await;

    let after = authority.sign("a", &["a.example"]);
    assert_eq!(file.reload(), Ok(true));
    let client = connect(rig.address, authority.client(None), "a.example").await;
    let mut new = client.expect("TLS");
    assert_eq!((shown(&old), shown(&new)), (&before, &after));
    ask_and_stay(&mut old).await;
    ask_and_stay(&mut new).await;
}

#[tokio::test]
async fn a_certificate_of_no_use_is_refused_and_the_one_before_stays() {
    let authority = Authority::new();
    let before = authority.sign("a", &["a.example"]);
    authority.sign("b", &["b.example"]);
    let (rig, mut file) = start(&authority, &authority.host(&["a"], ""));
    let key = std::fs::read_to_string(authority.path("a.key")).expect("signed");
    let other = std::fs::read_to_string(authority.path("b.key")).expect("signed");
    for (name, text, told) in [
        ("a.key", other.as_str(), "KeyMismatch"),
        ("a.key", "nonsense", "no private key in PEM"),
        ("a.pem", "", "no certificate in PEM"),
        ("a.pem", key.as_str(), "no certificate in PEM"),
        (
            "a.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "a.pem",
        ),
    ] {
        let good = std::fs::read_to_string(authority.path(name)).expect("signed");
        authority.write(name, text);
        let error = file.reload().expect_err("it is of no use");
        assert!(error.contains(told) && error.contains(name), "{error}");
        assert_eq!(file.reload(), Ok(false), "it is told once");
        let client = connect(rig.address, authority.client(None), "a.example").await;
        assert_eq!(shown(&client.expect("TLS")), &before);
        authority.write(name, &good);
        assert_eq!(file.reload(), Ok(true));
    }
    std::fs::remove_file(authority.path("a.key")).expect("it is there");
    let error = file.reload().expect_err("it is gone");
    assert!(error.contains("a.key cannot be read"), "{error}");
}

#[tokio::test]
async fn certificates_are_renewed_under_a_file_that_was_refused() {
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let host = authority.host(&["a"], "");
    let (rig, mut file) = start(&authority, &host);
    authority.write("host.yaml", &format!("{host}\nnonsense: 1\n"));
    file.reload().expect_err("it is nonsense");
    let after = authority.sign("a", &["a.example"]);
    file.reload().expect_err("it still is");
    let client = connect(rig.address, authority.client(None), "a.example").await;
    assert_eq!(shown(&client.expect("TLS")), &after);
}

#[tokio::test]
async fn no_request_fails_while_certificates_change() {
    let authority = Authority::new();
    authority.sign("a", &["a.example"]);
    let (rig, mut file) = start(&authority, &authority.host(&["a"], ""));
    let clients = (0..4).map(|_| {
        let (address, config) = (rig.address, authority.client(None));
        tokio::spawn(async move {
            for _ in 0..25 {
                let client = connect(address, config.clone(), "a.example").await;
                let answer = ask(&mut client.expect("TLS")).await;
                assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
            }
        })
    });
    let mut clients = tokio::task::JoinSet::from_iter(clients);
    let mut reloads = 0;
    while !clients.is_empty() {
        authority.sign("a", &["a.example"]);
        assert_eq!(file.reload(), Ok(true));
        reloads += 1;
        tokio::task::yield_now().await;
        while let Some(ended) = clients.try_join_next() {
            ended.expect("every request is answered").expect("it ran");
        }
    }
    assert!(reloads > 1, "{reloads}");
}
