//! One client's connection, HTTP/1 or HTTP/2, from its first byte to its last.
//!
//! hyper-util's builder would tell the two apart as well, but it waits for the
//! first bytes without a time limit and does not let HTTP/1's header size be
//! set. One timer for each connection watches all time limits of reading and
//! writing, and is looked at rarely, so that requests pay nothing for it.

use std::{
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::watch,
    time::{Duration, Instant, sleep_until, timeout},
};

use crate::{
    backend::{relay::Broken, upstream::Core},
    limits::{
        H2_CONNECTION_WINDOW, H2_PENDING_RESETS, H2_SEND_BUFFER, H2_STREAM_WINDOW, H2_STREAMS,
        HEADER_READ_TIMEOUT, MAX_BUFFER_BYTES, MAX_HEADER_BYTES, MAX_HEADERS,
    },
    request::{
        body::Body,
        proxy::{self, Client},
    },
    serve::{
        executor::LocalExecutor,
        pulse::{Health, Pulse, Running, Watched},
    },
};

/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often the time limits are looked at, so by how much they may be late.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// For a connection that is told to end, until it is dropped.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves a connection to its end.
pub(crate) async fn serve(
    core: Rc<Core>,
    client: Rc<Client>,
    mut stream: TcpStream,
    drain: watch::Receiver<bool>,
) {
    let Ok(Ok(first)) = timeout(HEADER_READ_TIMEOUT, first_bytes(&mut stream)).await else {
        return;
    };
    let http2 = first.starts_with(PREFACE);
    let pulse = Rc::new(Pulse::new(http2));
    let io = Watched {
        inner: TokioIo::new(stream),
        first,
        pulse: pulse.clone(),
    };
    let in_request = pulse.clone();
    let service = service_fn(move |request| {
        let request_runs = Running::new(&in_request);
        let answer = proxy::serve(core.clone(), client.clone(), request);
        async move {
            let response = answer.await;
            Ok::<_, std::convert::Infallible>(response.map(|body| Tracked {
                body,
                _runs: request_runs,
            }))
        }
    });
    match http2 {
        true => drive(http2_builder().serve_connection(io, service), &pulse, drain).await,
        false => drive(http1_builder().serve_connection(io, service), &pulse, drain).await,
    }
}

/// Enough to know the protocol.
async fn first_bytes(stream: &mut TcpStream) -> io::Result<Bytes> {
    let mut seen = BytesMut::with_capacity(4096);
    loop {
        let ended = stream.read_buf(&mut seen).await? == 0;
        let compared = seen.len().min(PREFACE.len());
        if ended || compared == PREFACE.len() || seen[..compared] != PREFACE[..compared] {
            return Ok(seen.freeze());
        }
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES);
    builder
}

fn http2_builder() -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS);
    builder
}

/// Drives a connection; ends it when it is overdue, and gently on drain.
async fn drive<C: GracefulConnection>(
    connection: C,
    pulse: &Pulse,
    mut drain: watch::Receiver<bool>,
) {
    let mut connection = pin!(connection);
    let mut look = pin!(sleep_until(Instant::now() + LOOK_EVERY));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            // How it ended is the client's affair: its requests were settled.
            _ = connection.as_mut() => return,
            () = look.as_mut() => {
                let now = Instant::now();
                match pulse.check(now) {
                    Health::Fine => look.as_mut().reset(now + LOOK_EVERY),
                    Health::Dead => return,
                    Health::Idle if draining => return,
                    Health::Idle => {
                        connection.as_mut().graceful_shutdown();
                        draining = true;
                        look.as_mut().reset(now + GOODBYE);
                    }
                }
            }
            _ = drain.wait_for(|drain| *drain), if !draining => {
                connection.as_mut().graceful_shutdown();
                draining = true;
            }
        }
    }
}

/// A body that keeps its request running.
#[derive(Debug)]
struct Tracked {
    body: Body,
    _runs: Running,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
