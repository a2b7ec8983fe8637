//! A response's body on its way out, counted until its end.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::{backend::relay::Broken, request::body::Body, sight::telling::Telling};

/// A body with what will be told about its request.
#[derive(Debug)]
pub(crate) struct Watched {
    body: Body,
    telling: Telling,
}

impl Watched {
    pub(crate) fn new(body: Body, telling: Telling) -> Self {
        Self { body, telling }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &next {
            None => self.telling.complete(),
            Some(Err(broken)) => self.telling.broke(broken.reason()),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.telling.sent(data.len());
                }
                let trailers = frame.trailers_ref();
                if let Some(trailers) = trailers {
                    self.telling.trailers(trailers);
                }
                // Nothing follows trailers, and nobody asks a body that is at its end.
                if trailers.is_some() || self.body.is_end_stream() {
                    self.telling.complete();
                }
            }
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
