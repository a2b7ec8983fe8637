//! A client's body on its way to a backend. It remembers who is keeping whom
//! waiting, so that a slow client is never held against the backend.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{backend::watchdog::Watchdog, serve::pulse::LEAST_PROGRESS};

/// What a client did wrong while sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UploadFault {
    /// Its body broke off.
    #[error("the client broke off")]
    Gone,
    /// Nothing came for too long.
    #[error("the client's body stalled")]
    Stalled,
    /// It is longer than the route allows.
    #[error("the client's body is too large")]
    TooLarge,
}

/// How far an upload is, seen by whoever waits for the response.
#[derive(Debug)]
pub(crate) struct Progress {
    ended: Cell<bool>,
    /// Since when the backend owes us something; `None` while the client does.
    owed_since: Cell<Option<Instant>>,
    fault: Cell<Option<UploadFault>>,
}

impl Progress {
    pub(crate) fn new(ended: bool) -> Self {
        Self {
            ended: Cell::new(ended),
            owed_since: Cell::new(Some(Instant::now())),
            fault: Cell::new(None),
        }
    }

    /// The whole body is sent.
    pub(crate) fn ended(&self) -> bool {
        self.ended.get()
    }

    /// Since when, at `started` or later, the next move is the backend's;
    /// `None`: it is the client's.
    pub(crate) fn owed_since(&self, started: Instant) -> Option<Instant> {
        self.owed_since.get().map(|since| since.max(started))
    }

    /// The next move is the client's.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.owed_since.get().is_none()
    }

    /// What ended the upload early.
    pub(crate) fn fault(&self) -> Option<UploadFault> {
        self.fault.get()
    }

    pub(crate) fn wait_for_client(&self) {
        self.owed_since.set(None);
    }

    pub(crate) fn moved(&self) {
        self.owed_since.set(Some(Instant::now()));
    }
}

/// A request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    /// `None` once it ended.
    body: Option<Incoming>,
    progress: Rc<Progress>,
    watchdog: Watchdog,
    /// How long we may wait in all for [`LEAST_PROGRESS`] bytes; `None`: for ever,
    /// as messages of a stream are small and far between.
    trickle: Option<Duration>,
    /// Bytes since the last of these.
    progressed: usize,
    /// Bytes that may still come.
    allowance: u64,
}

impl Upload {
    /// Of `body`, of which `max_bytes` are allowed, which may pause for `idle`, and
    /// must not `trickle` so that there is nearly as much waiting as that.
    pub(crate) fn new(
        body: Incoming,
        max_bytes: Option<u64>,
        idle: Duration,
        trickle: Option<Duration>,
    ) -> Self {
        let ended = body.is_end_stream();
        Self {
            body: (!ended).then_some(body),
            progress: Rc::new(Progress::new(ended)),
            watchdog: Watchdog::new(idle, trickle),
            trickle,
            progressed: 0,
            allowance: max_bytes.unwrap_or(u64::MAX),
        }
    }

    /// No body, as another attempt at a request that had none.
    pub(crate) fn none(progress: Rc<Progress>) -> Self {
        Self {
            body: None,
            progress,
            watchdog: Watchdog::new(Duration::ZERO, None),
            trickle: None,
            progressed: 0,
            allowance: 0,
        }
    }

    /// To watch it.
    pub(crate) fn progress(&self) -> &Rc<Progress> {
        &self.progress
    }

    fn fail(&mut self, fault: UploadFault) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        self.body = None;
        self.progress.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }

    /// A byte now and then is no body on its way but a place that is held.
    fn came(&mut self, length: usize) {
        self.progressed += length;
        if let Some(budget) = self.trickle
            && self.progressed >= LEAST_PROGRESS
        {
            self.progressed = 0;
            self.watchdog.renew(budget);
        }
    }

    fn end(&mut self) {
        self.body = None;
        self.progress.ended.set(true);
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let Poll::Ready(next) = Pin::new(body).poll_frame(cx) else {
            self.progress.wait_for_client();
            ready!(self.watchdog.poll_bite(cx));
            return self.fail(UploadFault::Stalled);
        };
        self.watchdog.fed();
        self.progress.moved();
        match next {
            None => {
                self.end();
                Poll::Ready(None)
            }
            Some(Err(_)) => self.fail(UploadFault::Gone),
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.came(length);
                let length = length as u64;
                let Some(left) = self.allowance.checked_sub(length) else {
                    return self.fail(UploadFault::TooLarge);
                };
                self.allowance = left;
                if self.body.as_ref().is_some_and(Incoming::is_end_stream) {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;

    #[tokio::test(start_paused = true)]
    async fn a_body_may_pause_for_as_long_as_its_kind_of_request_may() {
        const IDLE: Duration = Duration::from_secs(300);
        let (mut client, server) = tokio::io::duplex(1024);
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";
        client.write_all(head).await.expect("it is open");
        let started = Instant::now();
        let service = service_fn(async |request: http::Request<Incoming>| {
            let upload = Upload::new(request.into_body(), None, IDLE, None);
            let stalled = upload.collect().await.expect_err("it never ends");
            assert_eq!(stalled, UploadFault::Stalled);
            Err::<http::Response<String>, _>(stalled)
        });
        let served = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        served.await.expect_err("it stalled");
        assert_eq!(started.elapsed(), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_no_progress() {
        const IDLE: Duration = Duration::from_secs(30);
        let (mut client, server) = tokio::io::duplex(1024);
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n";
        client.write_all(head).await.expect("it is open");
        let started = Instant::now();
        let service = service_fn(async |request: http::Request<Incoming>| {
            let upload = Upload::new(request.into_body(), None, IDLE, Some(IDLE));
            let stalled = upload.collect().await.expect_err("it takes too long");
            assert_eq!(stalled, UploadFault::Stalled);
            Err::<http::Response<String>, _>(stalled)
        });
        let trickle = async {
            // As slow as is allowed, and then slower.
            for _ in 0..3 {
                tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
                client
                    .write_all(&[b'x'; LEAST_PROGRESS])
                    .await
                    .expect("open");
            }
            loop {
                tokio::time::sleep(Duration::from_secs(10)).await;
                client.write_all(b"x").await.expect("it is open");
            }
        };
        let served = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        tokio::select! {
            served = served => served.expect_err("it stalled"),
            () = trickle => unreachable!("it goes on for ever"),
        };
        assert_eq!(started.elapsed().as_secs(), 3 * 29 + IDLE.as_secs());
    }
}
