//! A backend's response body on its way to a client. It carries the request's
//! permit and settles its outcome exactly once: at the end, when it breaks, when
//! it stalls, or, dropped before any of these, as the client's leaving.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use breaker_core::outcome::FailureKind;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::backend::{classify, exchange::Exchange, watchdog::Watchdog};

/// Why a response's body ended early; the client sees its connection or stream
/// cut, as the header is out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The backend broke off.
    #[error("the backend broke off: {0}")]
    Reset(#[from] hyper::Error),
    /// Nothing came for too long.
    #[error("the backend stalled")]
    Stalled,
    /// The client took nothing while others waited for its connection.
    #[error("the client stood still")]
    Evicted,
    /// A bug of ours.
    #[error("the body panicked")]
    Panicked,
}

impl Broken {
    /// As an answer of ours would say it.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Reset(_) => "reset",
            Self::Stalled => "stalled",
            Self::Evicted => "evicted",
            Self::Panicked => "internal",
        }
    }
}

/// Since when the client takes nothing of a response.
#[derive(Debug, Default)]
struct Standing {
    since: Option<Instant>,
    /// Frames so far.
    frames: u32,
}

/// A relay that its pool may ask to make room.
pub(crate) type Shared = Rc<RefCell<Relay>>;

/// The next frame. A response that is not over by its second one is made known to
/// its pool: its client may be one who never asks for more.
pub(crate) fn poll(
    relay: &Shared,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
    let mut this = relay.borrow_mut();
    let polled = this.poll_frame(cx);
    if polled.is_ready()
        && let Some(exchange) = &this.exchange
    {
        if this.standing.frames == 1 {
            exchange.connection.stands(relay);
        }
        this.standing.frames = this.standing.frames.saturating_add(1);
        this.standing.since = Some(Instant::now());
    }
    polled
}

/// A response's body with what it holds.
#[derive(Debug)]
pub(crate) struct Relay {
    /// `None` once it had to make room.
    body: Option<Incoming>,
    /// `None` once settled and given back.
    exchange: Option<Exchange>,
    standing: Standing,
    watchdog: Watchdog,
    grpc: bool,
    status: StatusCode,
}

impl Relay {
    pub(crate) fn new(
        body: Incoming,
        exchange: Exchange,
        watchdog: Watchdog,
        grpc: bool,
        status: StatusCode,
    ) -> Self {
        Self {
            body: Some(body),
            exchange: Some(exchange),
            standing: Standing::default(),
            watchdog,
            grpc,
            status,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Some(Err(Broken::Evicted)));
        };
        let next = match Pin::new(body).poll_frame(cx) {
            Poll::Ready(next) => next,
            Poll::Pending if self.exchange.is_none() => return Poll::Pending,
            Poll::Pending => {
                self.standing.since = None;
                while self.watchdog.poll_bite(cx).is_ready() {
                    if !self.client_owes() {
                        self.fail(FailureKind::Timeout);
                        return Poll::Ready(Some(Err(Broken::Stalled)));
                    }
                    self.watchdog.forgive();
                }
                return Poll::Pending;
            }
        };
        self.watchdog.fed();
        match next {
            None => self.end(None),
            Some(Err(error)) => {
                self.fail(FailureKind::Reset);
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(ref frame)) => {
                let trailers = frame.trailers_ref();
                if trailers.is_some() || self.ends_here() {
                    self.end(trailers);
                }
            }
        }
        Poll::Ready(next.map(|frame| frame.map_err(Broken::from)))
    }

    /// Since when the next move is the client's; `None`: it is not.
    pub(crate) fn stands_since(&self) -> Option<Instant> {
        self.exchange.as_ref().and(self.standing.since)
    }

    /// Frees its connection for somebody who will use it. The client sees its
    /// response cut; to the backend it is as if the client had left.
    pub(crate) fn evict(&mut self) {
        self.body = None;
        self.exchange = None;
    }

    /// The frame just taken was the last. gRPC's last is its trailer.
    fn ends_here(&self) -> bool {
        !self.grpc && self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(exchange) = self.exchange.take() {
            exchange.complete(classify::at_end(self.grpc, self.status, trailers));
        }
    }

    /// The backend waits for the client, so what stands still is not its fault;
    /// a client that pauses for too long ends its upload, and that ends this.
    fn client_owes(&self) -> bool {
        self.exchange.as_ref().is_some_and(Exchange::client_owes)
    }

    fn fail(&mut self, kind: FailureKind) {
        if let Some(exchange) = self.exchange.take() {
            exchange.broke(kind);
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let ended = self.body.as_ref().is_some_and(Incoming::is_end_stream);
        self.exchange.is_none() && ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or_else(SizeHint::default, Incoming::size_hint)
    }
}
