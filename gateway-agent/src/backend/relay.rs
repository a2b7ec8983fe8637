//! A backend's response body on its way to a client. It carries the request's
//! permit and settles its outcome exactly once: at the end, when it breaks, when
//! it stalls, or, dropped before any of these, as the client's leaving.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use breaker_core::outcome::FailureKind;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

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
            Self::Panicked => "internal",
        }
    }
}

/// A response's body with what it holds.
#[derive(Debug)]
pub(crate) struct Relay {
    body: Incoming,
    /// `None` once settled and given back.
    exchange: Option<Exchange>,
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
            body,
            exchange: Some(exchange),
            watchdog,
            grpc,
            status,
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let next = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(next) => next,
            Poll::Pending if self.exchange.is_none() => return Poll::Pending,
            Poll::Pending => {
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

    /// The frame just taken was the last. gRPC's last is its trailer.
    fn ends_here(&self) -> bool {
        !self.grpc && self.body.is_end_stream()
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
        self.exchange.is_none() && self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
