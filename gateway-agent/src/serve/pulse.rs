//! How a client's connection is doing: between requests, in a header, in a
//! request, or stuck because the client does not read. Time limits are checked
//! against it from outside, so that reading and writing only take notes.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::{
    limits::{BODY_IDLE, HEADER_READ_TIMEOUT, KEEP_ALIVE_IDLE},
    serve::stream::Stream,
    serve::tunnel::Tunnel,
};

/// What a connection is doing, and since when.
#[derive(Debug)]
pub(crate) struct Pulse {
    http2: bool,
    requests: Cell<u32>,
    /// Without a request: a header has begun to come.
    in_header: Cell<bool>,
    since: Cell<Instant>,
    /// Since when the client takes nothing of what we write.
    unread_since: Cell<Option<Instant>>,
    /// A body was polled: whether it had something, so that the next move is the
    /// client's.
    turn: Cell<Option<bool>>,
    /// What the client is joined to after the 101 that is on its way to it.
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Fine,
    /// Without a request for too long.
    Idle,
    /// In an HTTP/1 header for too long.
    Late,
    /// Unread for too long.
    Dead,
}

impl Pulse {
    /// Of a connection accepted then. An HTTP/2 client may connect ahead of need;
    /// one of HTTP/1 has begun its header when this is made.
    pub(crate) fn new(http2: bool, accepted: Instant) -> Self {
        Self {
            http2,
            requests: Cell::new(0),
            in_header: Cell::new(!http2),
            since: Cell::new(accepted),
            unread_since: Cell::new(None),
            turn: Cell::new(None),
            tunnel: RefCell::new(None),
        }
    }

    pub(crate) fn check(&self, now: Instant) -> Health {
        let waited = now.saturating_duration_since(self.since.get());
        let unread = self.unread_since.get();
        let unread = unread.is_some_and(|since| now >= since + BODY_IDLE);
        let resting = self.requests.get() == 0;
        match (resting, self.in_header.get()) {
            _ if unread => Health::Dead,
            (true, true) if waited >= HEADER_READ_TIMEOUT => Health::Late,
            (true, false) if waited >= KEEP_ALIVE_IDLE => Health::Idle,
            _ => Health::Fine,
        }
    }

    /// Until a request runs, as seen right after the connection was polled.
    pub(crate) fn busy(&self) -> impl Future<Output = ()> {
        poll_fn(|_| match self.requests.get() {
            0 => Poll::Pending,
            _ => Poll::Ready(()),
        })
    }

    /// Nothing runs, so the next move is the client's, and may be on its way already.
    pub(crate) fn rests(&self) -> bool {
        self.requests.get() == 0
    }

    /// What was noted since the last call.
    pub(crate) fn take_turn(&self) -> Option<bool> {
        self.turn.take()
    }

    /// What the client is to be joined to once the connection has ended as HTTP.
    pub(crate) fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.take()
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
pub(crate) struct Running(Rc<Pulse>);

impl Running {
    pub(crate) fn new(pulse: &Rc<Pulse>) -> Self {
        pulse.requests.update(|n| n + 1);
        pulse.in_header.set(false);
        Self(pulse.clone())
    }

    /// Another one on the same connection.
    pub(crate) fn again(&self) -> Self {
        Self::new(&self.0)
    }

    /// It is the last one on its connection, which goes on in another protocol.
    pub(crate) fn ends_in(&self, tunnel: Box<Tunnel>) {
        *self.0.tunnel.borrow_mut() = Some(tunnel);
    }

    /// Its response's body was polled, and had something or not.
    pub(crate) fn polled(&self, had_something: bool) {
        self.0.turn.set(Some(had_something));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.requests.update(|n| n - 1);
        self.0.since.set(Instant::now());
    }
}

/// A socket that keeps its [`Pulse`], and gives back the bytes already read.
pub(crate) struct Watched {
    pub(crate) inner: TokioIo<Stream>,
    pub(crate) first: Bytes,
    pub(crate) pulse: Rc<Pulse>,
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
            if self.first.is_empty() {
                // Even empty, it would hold the memory of its bytes.
                self.first = Bytes::new();
            }
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
        // TLS takes what it is given, and may be stuck with it here.
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.pulse.wrote(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How late a check may be.
    const LOOK_EVERY: Duration = Duration::from_secs(5);

    async fn after(pulse: &Pulse, time: Duration) -> Health {
        tokio::time::advance(time).await;
        pulse.check(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_request_must_come_in_time() {
        let pulse = Pulse::new(false, Instant::now());
        assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Fine);
        assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_run_for_as_long_as_it_likes() {
        let pulse = Rc::new(Pulse::new(false, Instant::now()));
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
        let pulse = Rc::new(Pulse::new(false, Instant::now()));
        drop(Running::new(&pulse));
        after(&pulse, HEADER_READ_TIMEOUT).await;
        pulse.read_something();
        assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Fine);
        // A byte now and then does not help.
        pulse.read_something();
        assert_eq!(after(&pulse, HEADER_READ_TIMEOUT / 2).await, Health::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_may_idle_and_ping() {
        let pulse = Rc::new(Pulse::new(true, Instant::now()));
        drop(Running::new(&pulse));
        pulse.read_something();
        assert_eq!(
            after(&pulse, KEEP_ALIVE_IDLE - LOOK_EVERY).await,
            Health::Fine
        );
        assert_eq!(after(&pulse, LOOK_EVERY).await, Health::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_may_connect_ahead_of_need() {
        let pulse = Pulse::new(true, Instant::now());
        let before = KEEP_ALIVE_IDLE - LOOK_EVERY;
        assert_eq!(after(&pulse, before).await, Health::Fine);
        assert_eq!(after(&pulse, LOOK_EVERY).await, Health::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_must_take_what_we_write() {
        let pulse = Rc::new(Pulse::new(false, Instant::now()));
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
