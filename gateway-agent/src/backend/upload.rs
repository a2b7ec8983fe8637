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

use crate::{
    backend::{kept::Cursor, watchdog::Watchdog},
    serve::pulse::LEAST_PROGRESS,
};

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
    /// Another attempt reads it now: nothing that the client did.
    #[error("the request is being sent again")]
    Superseded,
}

/// How far an upload is, seen by whoever waits for the response.
#[derive(Debug)]
pub(crate) struct Progress {
    ended: Cell<bool>,
    /// Since when the backend owes us something; `None` while the client does.
    owed_since: Cell<Option<Instant>>,
    fault: Cell<Option<UploadFault>>,
    bytes: Cell<u64>,
}

impl Progress {
    pub(crate) fn new(ended: bool) -> Self {
        Self {
            ended: Cell::new(ended),
            owed_since: Cell::new(Some(Instant::now())),
            fault: Cell::new(None),
            bytes: Cell::new(0),
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

    /// How many bytes the client has sent.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Another attempt begins.
    fn restart(&self, ended: bool) {
        self.ended.set(ended);
        self.owed_since.set(Some(Instant::now()));
        self.fault.set(None);
        self.bytes.set(0);
    }

    pub(crate) fn wait_for_client(&self) {
        self.owed_since.set(None);
    }

    pub(crate) fn moved(&self) {
        self.owed_since.set(Some(Instant::now()));
    }
}

/// Where a request's body comes from.
#[derive(Debug)]
enum Source {
    /// It ended.
    None,
    /// The client, and once only.
    Client(Incoming),
    /// The client, and what is kept of it for another attempt.
    Kept(Cursor),
}

impl Source {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        match self {
            Self::None => Poll::Ready(None),
            Self::Client(body) => {
                let next = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(next.map(|frame| frame.map_err(|_| UploadFault::Gone)))
            }
            Self::Kept(cursor) => cursor.poll(cx),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::None => true,
            Self::Client(body) => body.is_end_stream(),
            Self::Kept(cursor) => cursor.is_end(),
        }
    }
}

/// How slow a body may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// How long it may pause.
    pub(crate) idle: Duration,
    /// How long we may wait in all for [`LEAST_PROGRESS`] bytes; `None`: for ever,
    /// as messages of a stream are small and far between.
    pub(crate) trickle: Option<Duration>,
}

/// A request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    body: Source,
    progress: Rc<Progress>,
    watchdog: Watchdog,
    pace: Pace,
    /// Bytes since the last [`LEAST_PROGRESS`].
    progressed: usize,
    /// Bytes that may still come.
    allowance: u64,
}

impl Upload {
    /// Of `body`, of which `max_bytes` are allowed, at this pace.
    pub(crate) fn new(body: Incoming, max_bytes: Option<u64>, pace: Pace) -> Self {
        Self::of(body, max_bytes, pace, Source::Client)
    }

    /// The same, to be kept for another attempt.
    pub(crate) fn kept(body: Incoming, max_bytes: Option<u64>, pace: Pace) -> Self {
        let allowance = max_bytes.unwrap_or(u64::MAX);
        let source = |body| Source::Kept(Cursor::new(body, allowance));
        Self::of(body, max_bytes, pace, source)
    }

    /// No body, of a request that may switch protocols.
    pub(crate) fn none(progress: Rc<Progress>) -> Self {
        let pace = Pace {
            idle: Duration::ZERO,
            trickle: None,
        };
        Self::with(Source::None, progress, pace, 0)
    }

    fn of(
        body: Incoming,
        max_bytes: Option<u64>,
        pace: Pace,
        source: impl FnOnce(Incoming) -> Source,
    ) -> Self {
        let ended = body.is_end_stream();
        let body = match ended {
            true => Source::None,
            false => source(body),
        };
        let progress = Rc::new(Progress::new(ended));
        Self::with(body, progress, pace, max_bytes.unwrap_or(u64::MAX))
    }

    fn with(body: Source, progress: Rc<Progress>, pace: Pace, max_bytes: u64) -> Self {
        Self {
            body,
            progress,
            watchdog: Watchdog::new(pace.idle, pace.trickle),
            pace,
            progressed: 0,
            allowance: max_bytes,
        }
    }

    /// The same body for another attempt, to begin with [`restart`](Self::restart);
    /// `None`: it can be sent only once.
    pub(crate) fn another(&self) -> Option<Self> {
        let (body, max_bytes) = match &self.body {
            Source::None => (Source::None, 0),
            Source::Client(_) => return None,
            Source::Kept(cursor) => (Source::Kept(cursor.another()), cursor.max_bytes()),
        };
        Some(Self::with(
            body,
            self.progress.clone(),
            self.pace,
            max_bytes,
        ))
    }

    /// Another attempt begins with this. What an earlier one still asks for, it does
    /// not get.
    pub(crate) fn restart(&self) {
        self.progress.restart(self.body.is_end());
        if let Source::Kept(cursor) = &self.body {
            cursor.restart();
        }
    }

    /// All of it is there to be sent.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.body {
            Source::None | Source::Client(_) => true,
            Source::Kept(cursor) => cursor.is_whole(),
        }
    }

    /// To watch it.
    pub(crate) fn progress(&self) -> &Rc<Progress> {
        &self.progress
    }

    fn fail(&mut self, fault: UploadFault) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        self.body = Source::None;
        if fault != UploadFault::Superseded {
            self.progress.fault.set(Some(fault));
        }
        Poll::Ready(Some(Err(fault)))
    }

    /// A byte now and then is no body on its way but a place that is held.
    fn came(&mut self, length: usize) {
        self.progressed += length;
        if let Some(budget) = self.pace.trickle
            && self.progressed >= LEAST_PROGRESS
        {
            self.progressed = 0;
            self.watchdog.renew(budget);
        }
    }

    fn end(&mut self) {
        self.body = Source::None;
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
        if let Source::None = self.body {
            return Poll::Ready(None);
        }
        let Poll::Ready(next) = self.body.poll_frame(cx) else {
            self.progress.wait_for_client();
            ready!(self.watchdog.poll_bite(cx));
            return self.fail(UploadFault::Stalled);
        };
        let frame = match next.transpose() {
            Err(fault) => return self.fail(fault),
            Ok(frame) => frame,
        };
        self.watchdog.fed();
        self.progress.moved();
        match frame {
            None => {
                self.end();
                Poll::Ready(None)
            }
            Some(frame) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.came(length);
                let length = length as u64;
                let Some(left) = self.allowance.checked_sub(length) else {
                    return self.fail(UploadFault::TooLarge);
                };
                self.allowance = left;
                self.progress.bytes.update(|sum| sum + length);
                if self.body.is_end() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Source::None => SizeHint::with_exact(0),
            Source::Client(body) => body.size_hint(),
            Source::Kept(cursor) => cursor.size_hint(),
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
        const PACE: Pace = Pace {
            idle: IDLE,
            trickle: None,
        };
        let (mut client, server) = tokio::io::duplex(1024);
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";
        client.write_all(head).await.expect("it is open");
        let started = Instant::now();
        let service = service_fn(async |request: http::Request<Incoming>| {
            let upload = Upload::new(request.into_body(), None, PACE);
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
        const PACE: Pace = Pace {
            idle: IDLE,
            trickle: Some(IDLE),
        };
        let (mut client, server) = tokio::io::duplex(1024);
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n";
        client.write_all(head).await.expect("it is open");
        let started = Instant::now();
        let service = service_fn(async |request: http::Request<Incoming>| {
            let upload = Upload::new(request.into_body(), None, PACE);
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
