//! Start, drain, and what must not end the server.

use std::{io, net::SocketAddr};

use super::{
    GET, OK,
    rig::{Rig, Scripted, Wire, within},
};
use crate::{
    admit::recorder::Tally,
    serve::listener::{self, Listeners},
};

#[tokio::test]
async fn a_drain_finishes_what_runs_and_takes_nothing_new() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut idle = rig.client().await;
    idle.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    idle.until("ok").await;
    let mut busy = rig.client().await;
    busy.write(GET).await;
    upstream.head().await;

    rig.drain();
    assert_eq!(idle.rest().await, "", "an idle connection is closed");
    upstream.write(OK).await;
    let answer = busy.rest().await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    let address = rig.address;
    rig.ended().await;
    let refused = tokio::net::TcpStream::connect(address).await;
    assert_eq!(
        refused.expect_err("it is closed").kind(),
        io::ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn a_request_on_its_way_as_a_drain_begins_is_answered() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.write(OK).await;
    client.until("ok").await;
    rig.drain();
    rig.closed().await;
    client.write(GET).await;
    upstream.head().await;
    upstream.write(OK).await;
    let answer = client.rest().await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    rig.ended().await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error_also_for_one_of_us() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = Listeners::bind(any, 2).expect("a free port");
    let again = Listeners::bind(first.address(), 2);
    assert_eq!(
        again.expect_err("it is taken").kind(),
        io::ErrorKind::AddrInUse
    );
}

#[tokio::test(start_paused = true)]
async fn accepting_goes_on_however_often_it_fails() {
    // Out of descriptors, out of memory, a client that gave up.
    let errors = [
        libc_error(24),
        libc_error(12),
        io::ErrorKind::ConnectionAborted.into(),
    ];
    let mut errors = errors.into_iter();
    let accepted = listener::next(async || match errors.next() {
        Some(error) => Err(error),
        None => Ok("connected"),
    });
    assert_eq!(within(accepted).await, "connected");
}

fn libc_error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

#[tokio::test]
async fn requests_in_a_row_on_one_connection_are_answered_in_order() {
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client: Wire = rig.client().await;
    client
        .write("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    let mut upstream = backend.accept().await;
    for number in ["1", "2"] {
        let head = upstream.head().await;
        assert!(head.starts_with(&format!("get /{number} ")), "{head}");
        upstream
            .write(&format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}"
            ))
            .await;
    }
    client.head().await;
    assert!(
        client
            .until("\r\n\r\n2")
            .await
            .starts_with("1HTTP/1.1 200 OK")
    );
    assert_eq!(rig.count("r", Tally::Success), 2);
}

#[tokio::test]
async fn a_drain_tells_http_2_clients_to_go_elsewhere() {
    const GOAWAY: u8 = 7;
    let backend = Scripted::start().await;
    let rig = Rig::in_front_of(backend.address, "");
    let mut client = rig.client().await;
    let settings = "\0\0\0\u{4}\0\0\0\0\0";
    client
        .write(&format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{settings}"))
        .await;
    let frame = |client: Wire| async move {
        let mut client = client;
        let mut head = [0; 9];
        client.fill(&mut head).await;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        client.fill(&mut payload).await;
        (client, head[3], payload)
    };
    // Its own settings: it speaks.
    let (mut client, _, _) = frame(client).await;
    rig.drain();
    loop {
        let (rest, kind, payload) = frame(client).await;
        client = rest;
        if kind == GOAWAY {
            assert_eq!(payload[4..8], [0; 4], "no error");
            break;
        }
    }
}
