//! What we send to clients: nothing, a few bytes of ours, or a backend's body
//! as it comes.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::{
    backend::relay::{self, Broken},
    cache::fill::Tee,
    serve::tunnel::Tunnel,
    sight::watched::Watched,
};

/// A response's body.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// Ours, whole.
    Full(Bytes),
    /// A backend's.
    Relay(relay::Shared),
    /// Any, of a request that will be told about.
    Watched(Box<Watched>),
    /// A backend's, copied as it comes.
    Tee(Box<Tee>),
    /// None, but a backend that has switched protocols, to be joined to the client.
    Tunnel(Box<Tunnel>),
}

impl Body {
    /// The backend to join the client to.
    pub(crate) fn take_tunnel(&mut self) -> Option<Box<Tunnel>> {
        let switched = matches!(self, Self::Tunnel(_));
        match switched.then(|| std::mem::replace(self, Self::Empty)) {
            Some(Self::Tunnel(tunnel)) => Some(tunnel),
            _ => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Relay(relay) => return relay::poll(relay, cx),
            Self::Watched(body) => return body.poll_frame(cx),
            Self::Tee(tee) => return tee.poll_frame(cx),
            Self::Empty | Self::Full(_) | Self::Tunnel(_) => {}
        }
        match std::mem::replace(&mut *self, Self::Empty) {
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Self::Empty | Self::Relay(_) | Self::Tee(_) | Self::Watched(_) | Self::Tunnel(_) => {
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Full(_) => false,
            Self::Relay(relay) => relay.borrow().is_end_stream(),
            Self::Watched(body) => body.is_end_stream(),
            Self::Tee(tee) => tee.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Relay(relay) => relay.borrow().size_hint(),
            Self::Watched(body) => body.size_hint(),
            Self::Tee(tee) => tee.size_hint(),
        }
    }
}
