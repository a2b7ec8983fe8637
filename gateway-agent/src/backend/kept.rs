//! A request's body that is kept while it is sent, so that it can be sent again:
//! the bytes themselves, not copies, and no more than [`MAX_KEPT_BYTES`] of them.
//!
//! One attempt reads it at a time. The connection that an earlier one failed on
//! may live a moment longer, so each attempt has a number, and only the newest
//! gets anything.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::backend::{retry::MAX_KEPT_BYTES, upload::UploadFault};

/// Most pieces that a kept body has: each costs some memory of its own, however
/// small the client makes them.
const MAX_KEPT_PIECES: usize = 256;

/// A body that several attempts read one after the other.
#[derive(Debug)]
pub(crate) struct Kept(RefCell<Inner>);

#[derive(Debug)]
struct Inner {
    /// What the client has not sent yet; `None` once that is nothing.
    rest: Option<Incoming>,
    /// Bytes that the client may send in all.
    max_bytes: u64,
    bytes: Vec<Bytes>,
    size: usize,
    trailers: Option<HeaderMap>,
    /// It is longer than what is kept, so it cannot be sent again.
    lost: bool,
    /// Which attempt reads it.
    attempt: u32,
}

/// One attempt's place in a kept body.
#[derive(Debug)]
pub(crate) struct Cursor {
    kept: Rc<Kept>,
    attempt: u32,
    /// How many of the kept pieces it has.
    pieces: u32,
    /// Bytes in the pieces that it has.
    read: u32,
    has_trailers: bool,
}

impl Cursor {
    /// At the start of a body that nobody has read.
    pub(crate) fn new(body: Incoming, max_bytes: u64) -> Self {
        let inner = Inner {
            rest: Some(body),
            max_bytes,
            bytes: Vec::new(),
            size: 0,
            trailers: None,
            lost: false,
            attempt: 0,
        };
        Self::at_start(Rc::new(Kept(RefCell::new(inner))), 0)
    }

    fn at_start(kept: Rc<Kept>, attempt: u32) -> Self {
        Self {
            kept,
            attempt,
            pieces: 0,
            read: 0,
            has_trailers: false,
        }
    }

    /// Another attempt's, to begin with [`restart`](Self::restart).
    pub(crate) fn another(&self) -> Self {
        Self::at_start(self.kept.clone(), self.attempt + 1)
    }

    /// Bytes that the client may send in all.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.kept.0.borrow().max_bytes
    }

    /// Takes over from the attempt before.
    pub(crate) fn restart(&self) {
        self.kept.0.borrow_mut().attempt = self.attempt;
    }

    /// Everything that was sent is still there.
    pub(crate) fn is_whole(&self) -> bool {
        !self.kept.0.borrow().lost
    }

    /// The next piece: one that was kept, else one from the client.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        let mut inner = self.kept.0.borrow_mut();
        if inner.attempt != self.attempt {
            return Poll::Ready(Some(Err(UploadFault::Superseded)));
        }
        if let Some(bytes) = inner.bytes.get(self.pieces as usize) {
            self.pieces += 1;
            self.read += bytes.len() as u32;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        let Some(rest) = &mut inner.rest else {
            let trailers = inner.trailers.clone().filter(|_| !self.has_trailers);
            self.has_trailers = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let next = ready!(Pin::new(&mut *rest).poll_frame(cx));
        let ended = rest.is_end_stream();
        Poll::Ready(match next {
            None => {
                inner.rest = None;
                self.has_trailers = true;
                None
            }
            Some(Err(_)) => {
                inner.lost = true;
                Some(Err(UploadFault::Gone))
            }
            Some(Ok(frame)) => {
                inner.keep(&frame);
                self.pieces = inner.bytes.len() as u32;
                self.read = inner.size as u32;
                self.has_trailers = frame.is_trailers();
                if ended {
                    inner.rest = None;
                }
                Some(Ok(frame))
            }
        })
    }

    /// Nothing more will come.
    pub(crate) fn is_end(&self) -> bool {
        let inner = self.kept.0.borrow();
        let replayed = self.pieces as usize == inner.bytes.len();
        let trailers_told = self.has_trailers || inner.trailers.is_none();
        let ended = inner.rest.as_ref().is_none_or(Incoming::is_end_stream);
        replayed && trailers_told && ended
    }

    /// What is still to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let inner = self.kept.0.borrow();
        let kept = (inner.size as u64).saturating_sub(u64::from(self.read));
        match &inner.rest {
            // Trailers do not go with a length.
            None if inner.trailers.is_some() => SizeHint::default(),
            None => SizeHint::with_exact(kept),
            Some(rest) => {
                let hint = rest.size_hint();
                let mut sum = SizeHint::default();
                if let Some(upper) = hint.upper() {
                    sum.set_upper(upper + kept);
                }
                sum.set_lower(hint.lower() + kept);
                sum
            }
        }
    }
}

impl Inner {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.lost {
            return;
        }
        if let Some(bytes) = frame.data_ref() {
            self.size += bytes.len();
            self.bytes.push(bytes.clone());
        }
        self.trailers = frame.trailers_ref().cloned();
        if self.size > MAX_KEPT_BYTES || self.bytes.len() > MAX_KEPT_PIECES {
            self.lost = true;
            self.size = 0;
            self.bytes = Vec::new();
        }
    }
}
