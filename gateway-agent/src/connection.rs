//! One client's connection, HTTP/1 or HTTP/2, from its first byte to its last.
//!
//! hyper-util's builder would tell the two apart as well, but it waits for the
//! first bytes without a time limit and does not let HTTP/1's header size be
//! set. One timer for each connection watches all time limits of reading and
//! writing, and is looked at rarely, so that requests pay nothing for it.

use std::{
    cell::Cell,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use hyper::{
    rt::{Read, ReadBufCursor, Write},
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
    body::Body,
    executor::LocalExecutor,
    limits::{
        BODY_IDLE, H2_CONNECTION_WINDOW, H2_PENDING_RESETS, H2_SEND_BUFFER, H2_STREAM_WINDOW,
        H2_STREAMS, HEADER_READ_TIMEOUT, KEEP_ALIVE_IDLE, MAX_BUFFER_BYTES, MAX_HEADER_BYTES,
        MAX_HEADERS,
    },
    proxy::{self, Client},
    relay::Broken,
    upstream::Core,
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

/// What a connection is doing, and since when.
#[derive(Debug)]
struct Pulse {
    http2: bool,
    requests: Cell<u32>,
    /// Without a request: a header has begun to come.
    in_header: Cell<bool>,
    since: Cell<Instant>,
    /// Since when the client takes nothing of what we write.
    unread_since: Cell<Option<Instant>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Fine,
    /// Without a request for too long.
    Idle,
    /// In a header, or unread, for too long.
    Dead,
}

impl Pulse {
    fn new(http2: bool) -> Self {
        Self {
            http2,
            requests: Cell::new(0),
            in_header: Cell::new(true),
            since: Cell::new(Instant::now()),
            unread_since: Cell::new(None),
        }
    }

    fn check(&self, now: Instant) -> Health {
        let waited = now.saturating_duration_since(self.since.get());
        let unread = self.unread_since.get();
        let unread = unread.is_some_and(|since| now >= since + BODY_IDLE);
        let resting = self.requests.get() == 0;
        match (resting, self.in_header.get()) {
            _ if unread => Health::Dead,
            (true, true) if waited >= HEADER_READ_TIMEOUT => Health::Dead,
            (true, false) if waited >= KEEP_ALIVE_IDLE => Health::Idle,
            _ => Health::Fine,
        }
    }

    fn read_something(&self) {
        // On HTTP/2 it may be anything, and hyper bounds headers there.
        let begins = self.requests.get() == 0 && !self.http2 && !self.in_header.get();
        if begins {
            self.in_header.set(true);
            self.since.set(Instant::now());
        }
    }

    fn wrote(&self, stuck: bool) {
        if !stuck {
            self.unread_since.set(None);
        } else if self.unread_since.get().is_none() {
            self.unread_since.set(Some(Instant::now()));
        }
    }
}

/// Counts a request on its connection until its response's last byte.
#[derive(Debug)]
struct Running(Rc<Pulse>);

impl Running {
    fn new(pulse: &Rc<Pulse>) -> Self {
        pulse.requests.update(|n| n + 1);
        pulse.in_header.set(false);
        Self(pulse.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.requests.update(|n| n - 1);
        self.0.since.set(Instant::now());
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

/// A socket that keeps its [`Pulse`], and gives back the bytes already read.
struct Watched {
    inner: TokioIo<TcpStream>,
    first: Bytes,
    pulse: Rc<Pulse>,
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..count]);
            self.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if read.is_ready() {
            self.pulse.read_something();
        }
        read
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.pulse.wrote(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.pulse.wrote(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn after(pulse: &Pulse, time: Duration) -> Health {
        tokio::time::advance(time).await;
        pulse.check(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_request_must_come_in_time() {
        let pulse = Pulse::new(false);
        assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Fine);
        assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Dead);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_run_for_as_long_as_it_likes() {
        let pulse = Rc::new(Pulse::new(false));
        let running = Running::new(&pulse);
        assert_eq!(after(&pulse, 10 * KEEP_ALIVE_IDLE).await, Health::Fine);
        drop(running);
        assert_eq!(
            after(&pulse, KEEP_ALIVE_IDLE - LOOK_EVERY).await,
            Health::Fine
        );
        assert_eq!(after(&pulse, LOOK_EVERY).await, Health::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_has_begun_must_end_in_time() {
        let pulse = Rc::new(Pulse::new(false));
        drop(Running::new(&pulse));
        after(&pulse, HEADER_READ_TIMEOUT).await;
        pulse.read_something();
        assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Fine);
        // A byte now and then does not help.
        pulse.read_something();
        assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Dead);
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_may_idle_and_ping() {
        let pulse = Rc::new(Pulse::new(true));
        drop(Running::new(&pulse));
        pulse.read_something();
        assert_eq!(
            after(&pulse, KEEP_ALIVE_IDLE - LOOK_EVERY).await,
            Health::Fine
        );
        assert_eq!(after(&pulse, LOOK_EVERY).await, Health::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_must_take_what_we_write() {
        let pulse = Rc::new(Pulse::new(false));
        let _running = Running::new(&pulse);
        pulse.wrote(true);
        assert_eq!(after(&pulse, BODY_IDLE - LOOK_EVERY).await, Health::Fine);
        pulse.wrote(false);
        pulse.wrote(true);
        assert_eq!(after(&pulse, BODY_IDLE - LOOK_EVERY).await, Health::Fine);
        pulse.wrote(true);
        assert_eq!(after(&pulse, LOOK_EVERY).await, Health::Dead);
    }
}
