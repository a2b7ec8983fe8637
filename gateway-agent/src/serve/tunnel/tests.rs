//! Tunnels over pipes in paused time.

use super::*;
use crate::{
    limits::{BODY_IDLE, STREAM_IDLE},
    serve::pulse::{Crowd, Pulse},
};
use std::{rc::Rc, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::LocalSet,
    time::timeout,
};

/// A tunnel of WebSocket or anything else, and its ends.
struct Ends {
    client: DuplexStream,
    backend: DuplexStream,
    drain: watch::Sender<bool>,
    tunnel: tokio::task::JoinHandle<()>,
    pulse: Rc<Pulse>,
}

impl Ends {
    fn new(websocket: bool) -> Self {
        let (client, near) = duplex(1024);
        let (backend, far) = duplex(1024);
        let (drain, draining) = watch::channel(false);
        let pulse = Pulse::new(true, Instant::now(), Arc::default(), Crowd::default());
        let pulse = Rc::new(pulse);
        let mut joined = Joined {
            runs: Running::new(&pulse),
            client: near,
            backend: far,
            up: Flow::new(Bytes::new(), websocket),
            down: Flow::new(Bytes::new(), websocket),
            leaving: false,
        };
        let tunnel = tokio::task::spawn_local(async move { joined.run(draining).await });
        Self {
            client,
            backend,
            drain,
            tunnel,
            pulse,
        }
    }
}

async fn locally(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_in_which_nothing_moves_ends() {
    locally(async {
        let mut ends = Ends::new(true);
        for _ in 0..3 {
            sleep(STREAM_IDLE - Duration::from_secs(1)).await;
            ends.backend.write_all(&[0x89, 0]).await.expect("open");
            ends.client.read_exact(&mut [0; 2]).await.expect("a ping");
        }
        let quiet = Instant::now();
        ends.tunnel.await.expect("no panic");
        assert_eq!(quiet.elapsed(), STREAM_IDLE);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_client_is_sent_pays_for_its_window_updates() {
    locally(async {
        let mut ends = Ends::new(true);
        for _ in 0..100 {
            ends.backend.write_all(&[0x89, 0]).await.expect("open");
            ends.client.read_exact(&mut [0; 2]).await.expect("a ping");
        }
        assert!(ends.pulse.take_progress() >= 100);
        // What it sends itself does not.
        ends.client.write_all(&[0x8a, 0]).await.expect("open");
        ends.backend.read_exact(&mut [0; 2]).await.expect("a pong");
        assert_eq!(ends.pulse.take_progress(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_ends_it() {
    locally(async {
        let mut ends = Ends::new(false);
        let write = async { while ends.backend.write_all(&[0; 1024]).await.is_ok() {} };
        // The client talks on but does not read.
        let talk = async {
            while ends.client.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        let started = Instant::now();
        tokio::join!(write, async { drop(timeout(3 * BODY_IDLE, talk).await) });
        ends.tunnel.await.expect("no panic");
        assert!(
            started.elapsed() <= 2 * BODY_IDLE,
            "{:?}",
            started.elapsed()
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn goodbyes_of_a_drain_are_spread() {
    locally(async {
        let mut waits = Vec::new();
        for _ in 0..50 {
            let mut ends = Ends::new(true);
            ends.drain.send_replace(true);
            let started = Instant::now();
            let mut close = [0; 4];
            ends.client.read_exact(&mut close).await.expect("a frame");
            assert_eq!(close, websocket::GOING_AWAY);
            waits.push(started.elapsed());
        }
        waits.sort();
        assert!(
            waits[0] < SPREAD / 4 && waits[49] > SPREAD * 3 / 4,
            "{waits:?}"
        );
        let deadline = HostLimits::default().drain_timeout;
        assert!(waits[49] <= SPREAD && SPREAD + MANNERS < deadline);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_said_goodbye_first_is_not_corrected() {
    locally(async {
        let mut ends = Ends::new(true);
        let normal = [0x88, 2, 0x03, 0xe8];
        ends.backend.write_all(&normal).await.expect("open");
        ends.drain.send_replace(true);
        let mut close = [0; 4];
        ends.client.read_exact(&mut close).await.expect("a frame");
        assert_eq!(close, normal);
        let answer = websocket::going_away_masked([1, 2, 3, 4]);
        ends.client.write_all(&answer).await.expect("open");
        let mut rest = Vec::new();
        ends.client.read_to_end(&mut rest).await.expect("an end");
        assert_eq!(rest, b"");
        let mut got = [0; 8];
        ends.backend.read_exact(&mut got).await.expect("a frame");
        assert_eq!(got, answer);
        ends.tunnel.await.expect("no panic");
    })
    .await;
}
