//! An upstream connection while one request has it.

use std::{cell::Cell, rc::Rc, time::Duration};

use futures_util::future::Either;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use tokio::time::Instant;

use crate::{
    backend::{pool::Pool, relay, upload::Upload},
    limits::{H2_STREAMS, UPSTREAM_IDLE},
};

/// A connection lent to one request.
#[derive(Debug)]
pub(crate) struct Connection {
    kind: Kind,
    /// It has carried a request before: the endpoint may be closing it just now.
    pub(crate) reused: bool,
}

#[derive(Debug)]
enum Kind {
    Http1 {
        sender: http1::SendRequest<Upload>,
        pool: Rc<Pool>,
        /// How long the endpoint lets it idle.
        idle: Duration,
    },
    Http2 {
        sender: http2::SendRequest<Upload>,
        _stream: Stream,
    },
}

/// A place among an HTTP/2 connection's streams.
#[derive(Debug)]
struct Stream(Rc<Streams>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.update(|n| n - 1);
        self.0.ended.set(Instant::now());
    }
}

impl Connection {
    /// An HTTP/1 connection of `pool`.
    pub(crate) fn http1(sender: http1::SendRequest<Upload>, pool: Rc<Pool>, reused: bool) -> Self {
        let idle = UPSTREAM_IDLE;
        let kind = Kind::Http1 { sender, pool, idle };
        Self { kind, reused }
    }

    /// Sends a request, at once; the future waits for the response.
    pub(crate) fn send(
        &mut self,
        request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>> + use<>
    {
        match &mut self.kind {
            Kind::Http1 { sender, .. } => Either::Left(sender.try_send_request(request)),
            Kind::Http2 { sender, .. } => Either::Right(sender.try_send_request(request)),
        }
    }

    /// Its response is long, and may have to make room.
    pub(crate) fn stands(&self, relay: &relay::Shared) {
        if let Kind::Http1 { pool, .. } = &self.kind {
            pool.standing.add(relay);
        }
    }

    /// It can take no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.kind {
            Kind::Http1 { sender, .. } => sender.is_closed(),
            Kind::Http2 { sender, .. } => sender.is_closed(),
        }
    }

    /// The endpoint closes it after this long without a request.
    pub(crate) fn expires_after(&mut self, promised: Duration) {
        if let Kind::Http1 { idle, .. } = &mut self.kind {
            *idle = promised.min(UPSTREAM_IDLE);
        }
    }

    /// The request is over, both ways.
    pub(crate) fn give_back(self) {
        if let Kind::Http1 { sender, pool, idle } = self.kind {
            pool.keep(sender, idle);
        }
    }
}

/// An HTTP/2 connection that requests share, each with a stream.
#[derive(Debug, Clone)]
pub(crate) struct Multiplexed {
    sender: http2::SendRequest<Upload>,
    streams: Rc<Streams>,
}

#[derive(Debug)]
struct Streams {
    open: Cell<u32>,
    used: Cell<bool>,
    /// When the last one ended.
    ended: Cell<Instant>,
}

impl Multiplexed {
    /// A connection just made.
    pub(crate) fn new(sender: http2::SendRequest<Upload>) -> Self {
        let streams = Streams {
            open: Cell::new(0),
            used: Cell::new(false),
            ended: Cell::new(Instant::now()),
        };
        let streams = Rc::new(streams);
        Self { sender, streams }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// It has had no stream for [`UPSTREAM_IDLE`].
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.streams.open.get() == 0 && self.streams.ended.get() + UPSTREAM_IDLE <= now
    }

    /// Another stream fits. An endpoint that allows fewer makes h2 wait, which
    /// time-outs bound.
    pub(crate) fn has_room(&self) -> bool {
        self.streams.open.get() < H2_STREAMS
    }

    /// Lends a stream.
    pub(crate) fn lend(&self) -> Connection {
        let reused = self.streams.used.replace(true);
        self.streams.open.update(|n| n + 1);
        let kind = Kind::Http2 {
            sender: self.sender.clone(),
            _stream: Stream(self.streams.clone()),
        };
        Connection { kind, reused }
    }
}
