//! Copies an answer for keeping while it streams to its client, who waits for
//! nothing. It is kept when it is complete, and only then: what broke off, or what
//! its client did not wait for, is forgotten.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::{
    backend::relay::Broken,
    cache::{
        flight::Leading,
        kept::Kept,
        key::Key,
        store::{Charge, Generation},
        stored::{Charged, Head, Stored},
    },
    request::body::Body,
};

/// An answer that is being collected.
#[derive(Debug)]
pub(crate) struct Fill {
    kept: Arc<Kept>,
    key: Key,
    asked: Generation,
    head: Head,
    charge: Charge,
    /// The bytes are copied, because those that come lie in a read buffer that
    /// would be kept with them, and would not be counted.
    body: Charged,
    /// Bytes of body that may still come.
    left: usize,
    /// Whoever waits for it.
    leading: Option<Leading>,
}

impl Fill {
    /// Of an answer whose body is as long as `promised`, if it says so. `None`: it
    /// is too large, or there is no room.
    pub(crate) fn new(
        kept: &Arc<Kept>,
        key: Key,
        asked: Generation,
        head: Head,
        promised: Option<u64>,
        leading: Option<Leading>,
    ) -> Option<Self> {
        let weight = head.weight();
        let left = usize::try_from(kept.max_bytes()).unwrap_or(usize::MAX);
        let left = left.checked_sub(weight)?;
        let promised = usize::try_from(promised.unwrap_or(0)).ok()?;
        if promised > left {
            return None;
        }
        let charge = Charge::of(&kept.store, weight)?;
        let body = Charged {
            charge: Charge::of(&kept.store, promised)?,
            bytes: Vec::with_capacity(promised),
        };
        Some(Self {
            kept: kept.clone(),
            key,
            asked,
            head,
            charge,
            body,
            left,
            leading,
        })
    }

    /// More of it; false if that is too much.
    fn add(&mut self, data: &[u8]) -> bool {
        let Some(left) = self.left.checked_sub(data.len()) else {
            return false;
        };
        let Charged { bytes, charge } = &mut self.body;
        let free = bytes.capacity() - bytes.len();
        if let Some(missing) = data.len().checked_sub(free).filter(|missing| *missing > 0) {
            let more = missing.max(bytes.capacity()).min(left + data.len());
            if !charge.grow(more) {
                return false;
            }
            bytes.reserve_exact(free + more);
        }
        bytes.extend_from_slice(data);
        self.left = left;
        true
    }

    /// It is complete.
    fn keep(mut self) {
        let Charged { bytes, charge } = &mut self.body;
        let spare = bytes.capacity() - bytes.len();
        bytes.shrink_to_fit();
        charge.shrink(spare);
        let stored = Stored {
            head: self.head,
            body: match self.body.bytes.is_empty() {
                true => Bytes::new(),
                false => Bytes::from_owner(self.body),
            },
            kept: self.kept.clone(),
            _charge: self.charge,
        };
        if self
            .kept
            .store
            .insert(self.key, Arc::new(stored), self.asked)
        {
            self.kept.counts.stored();
        }
        drop(self.leading);
    }
}

/// A body that is copied as it goes by.
#[derive(Debug)]
pub(crate) struct Tee {
    body: Body,
    fill: Option<Fill>,
}

impl Tee {
    /// `body`, kept by `fill` when it is complete.
    pub(crate) fn body(body: Body, fill: Fill) -> Body {
        if body.is_end_stream() {
            fill.keep();
            return body;
        }
        let fill = Some(fill);
        Body::Tee(Box::new(Self { body, fill }))
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let mut fill = self.fill.take();
        match &next {
            None => {}
            // Trailers would have to be kept, too, and hardly anyone has any.
            Some(Ok(frame)) => {
                let data = frame.data_ref();
                fill = fill.filter(|_| data.is_some());
                fill = fill.and_then(|mut fill| fill.add(data?).then_some(fill));
            }
            Some(Err(_)) => fill = None,
        }
        match fill {
            Some(fill) if next.is_none() || self.body.is_end_stream() => fill.keep(),
            other => self.fill = other,
        }
        Poll::Ready(next)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
