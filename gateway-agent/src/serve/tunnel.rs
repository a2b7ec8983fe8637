//! A connection after its 101: bytes both ways, whatever they mean.
//!
//! It keeps no buffer while the reader keeps up, so an idle tunnel costs two
//! sockets and little more; what one side does not take stops the other. Of
//! WebSocket it knows where frames end, so that a drain can say goodbye between
//! two of them. It holds its request's place at the backend until it ends.

use std::{
    fmt, io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use fleet_config::HostLimits;
use hyper::upgrade::OnUpgrade;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Duration, Instant, sleep, sleep_until},
};

use crate::{
    admit::permit::Stay,
    backend::pool::{Load, Open},
    dice::{random, uniform},
    serve::{
        pulse::Running,
        websocket::{self, Frames},
    },
};

/// Read at once, at most; also what one direction holds of what its reader does
/// not take.
const CHUNK: usize = 16 << 10;

/// Goodbyes of a drain are spread over this time, so that clients do not all
/// connect again in the same instant; a quarter of the deadline at most, because
/// what follows them takes time as well.
const SPREAD: Duration = Duration::from_secs(5);

/// For a message to end before the goodbye goes between its fragments, and then
/// for the client's own goodbye, which is the best one for the backend.
const MANNERS: Duration = Duration::from_secs(2);

/// A socket, or what looks like one.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// A backend that has switched protocols, and waits for its client to be joined
/// to it.
pub(crate) struct Tunnel {
    /// The connection to the backend.
    pub(crate) backend: Box<dyn Io>,
    /// What the backend said right after its 101.
    pub(crate) early: Bytes,
    /// Its frames are WebSocket's.
    pub(crate) websocket: bool,
    /// Becomes the client's side, if that is a stream of HTTP/2.
    pub(crate) client: OnUpgrade,
    /// What the request holds until the tunnel ends.
    pub(crate) held: (Stay, Load, Open),
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Tunnel");
        shown.field("websocket", &self.websocket);
        shown.finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Joins it to a client that has said `early` already, until both are done,
    /// one breaks, or nothing moves for a stream's idle time. It is a request that
    /// `runs` for as long.
    pub(crate) async fn run(
        self,
        client: impl Io,
        early: Bytes,
        drain: watch::Receiver<bool>,
        runs: Running,
    ) {
        let mut joined = Joined {
            runs,
            client,
            backend: self.backend,
            up: Flow::new(early, self.websocket),
            down: Flow::new(self.early, self.websocket),
            leaving: false,
        };
        joined.run(drain).await;
        drop(self.held);
    }
}

/// Two sides and what flows between them.
struct Joined<C, B> {
    runs: Running,
    client: C,
    backend: B,
    /// From the client.
    up: Flow,
    /// To the client.
    down: Flow,
    /// The client is told to go elsewhere.
    leaving: bool,
}

impl<C: Io, B: Io> Joined<C, B> {
    async fn run(&mut self, drain: watch::Receiver<bool>) {
        let limits = self.limits();
        let mut look = pin!(sleep_until(Instant::now() + limits.body_idle_timeout));
        let mut leave = pin!(goodbye_is_due(drain, limits.drain_timeout));
        let mut insist = pin!(None);
        loop {
            tokio::select! {
                biased;
                // How it ended is the peers' affair: the outcome was settled.
                _ = std::future::poll_fn(|cx| self.poll(cx)) => return,
                () = look.as_mut() => {
                    let now = Instant::now();
                    match self.overdue(now) {
                        true => return self.give_up(now),
                        false => look.as_mut().reset(self.look_again(now)),
                    }
                }
                () = leave.as_mut(), if !self.leaving => {
                    self.leave();
                    insist.set(Some(sleep(MANNERS)));
                }
                Some(()) = late(insist.as_mut()) => {
                    self.insist();
                    insist.set(None);
                }
            }
        }
    }

    /// Ready when both directions have ended, or either broke.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let up = self.up.poll(cx, &mut self.client, &mut self.backend)?;
            let down = self.down.poll(cx, &mut self.backend, &mut self.client)?;
            self.runs.sends(std::mem::take(&mut self.down.writes));
            if up.is_ready() && down.is_ready() {
                return Poll::Ready(Ok(()));
            }
            let parted = self.leaving && self.up.is_over() && self.down.is_over();
            if !(parted && (self.up.end() | self.down.end())) {
                return Poll::Pending;
            }
        }
    }

    fn moved(&self) -> Instant {
        self.up.moved.max(self.down.moved)
    }

    fn overdue(&self, now: Instant) -> bool {
        let idle = self.moved() + self.limits().stream_idle_timeout <= now;
        idle || self.is_stuck(&self.up, now) || self.is_stuck(&self.down, now)
    }

    /// Its reader takes nothing for a body's idle time.
    fn is_stuck(&self, flow: &Flow, now: Instant) -> bool {
        let limit = self.limits().body_idle_timeout;
        flow.stuck.is_some_and(|since| since + limit <= now)
    }

    /// A client that takes nothing is offered nothing any more.
    fn give_up(&self, now: Instant) {
        if self.is_stuck(&self.down, now) {
            self.runs.pulse().give_up();
        }
    }

    fn limits(&self) -> &HostLimits {
        self.runs.pulse().limits()
    }

    fn look_again(&self, now: Instant) -> Instant {
        let limits = self.limits();
        let idle = self.moved() + limits.stream_idle_timeout;
        idle.min(now + limits.body_idle_timeout)
    }

    /// Says goodbye to the client, once its message is over.
    fn leave(&mut self) {
        self.leaving = true;
        self.down.say(&websocket::GOING_AWAY);
    }

    /// Waits no longer for a message to end, nor for the client's goodbye.
    fn insist(&mut self) {
        let mask = (random() as u32).to_be_bytes();
        self.up.say(&websocket::going_away_masked(mask));
        self.up.between_fragments = true;
        self.down.between_fragments = true;
    }
}

/// When the goodbye of this tunnel's share of a drain is due; without a drain never.
async fn goodbye_is_due(mut drain: watch::Receiver<bool>, deadline: Duration) {
    if drain.wait_for(|drain| *drain).await.is_err() {
        std::future::pending::<()>().await;
    }
    let spread = SPREAD.min(deadline / 4);
    sleep(spread.mul_f64(uniform())).await;
}

async fn late(timer: Pin<&mut Option<tokio::time::Sleep>>) -> Option<()> {
    timer.as_pin_mut()?.await;
    Some(())
}

/// One direction.
struct Flow {
    /// Read, and not written yet.
    rest: BytesMut,
    end: End,
    /// Where frames end in what was read; `None`: it has none.
    frames: Option<Frames>,
    /// A close frame that is to go, or has gone.
    farewell: Farewell,
    /// It may go between the fragments of a message.
    between_fragments: bool,
    /// When anything was last written.
    moved: Instant,
    /// How often, since that was last asked for.
    writes: u32,
    /// Since when the reader takes nothing.
    stuck: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The sender may say more.
    Open,
    /// It has ended, which the reader is still to be told.
    Untold,
    Told,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Farewell {
    No,
    Due(Bytes),
    /// What the sender says after it is dropped.
    Said,
}

impl Flow {
    fn new(early: Bytes, websocket: bool) -> Self {
        let mut frames = websocket.then(Frames::default);
        if let Some(frames) = &mut frames {
            frames.follow(&early);
        }
        Self {
            rest: early.into(),
            end: End::Open,
            frames,
            farewell: Farewell::No,
            between_fragments: false,
            moved: Instant::now(),
            writes: 0,
            stuck: None,
        }
    }

    /// A close frame is to go as soon as it can, unless the sender has sent its own.
    fn say(&mut self, close: &[u8]) {
        let spoken = self.frames.as_ref().is_none_or(Frames::closing);
        if !spoken && self.farewell == Farewell::No && self.end == End::Open {
            self.farewell = Farewell::Due(Bytes::copy_from_slice(close));
        }
    }

    /// The sender has said its last word, or is gone.
    fn is_over(&self) -> bool {
        self.end != End::Open || self.frames.as_ref().is_some_and(Frames::closed)
    }

    /// Ends it; whether that is news.
    fn end(&mut self) -> bool {
        let news = self.end == End::Open;
        if news {
            self.end = End::Untold;
        }
        news
    }

    /// Moves what there is; ready when all of it is written and the reader knows
    /// that there is no more.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Io,
        to: &mut impl Io,
    ) -> Poll<io::Result<()>> {
        loop {
            self.say_what_is_due();
            while !self.rest.is_empty() {
                let written = ready!(self.poll_write(cx, to, None))?;
                self.rest.advance(written);
                if self.rest.is_empty() {
                    // Tunnels idle for long, and there are many.
                    self.rest = BytesMut::new();
                }
            }
            match self.end {
                End::Told => return Poll::Ready(Ok(())),
                End::Untold => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.end = End::Told;
                    return Poll::Ready(Ok(()));
                }
                End::Open => {}
            }
            let mut space = [const { MaybeUninit::uninit() }; CHUNK];
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => self.end = End::Untold,
                Poll::Ready(Ok(())) => self.take(cx, read.filled(), to)?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // TLS may hold back what was written.
                    let _ = Pin::new(&mut *to).poll_flush(cx)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Passes on what was read, at once if the reader takes it.
    fn take(&mut self, cx: &mut Context<'_>, read: &[u8], to: &mut impl Io) -> io::Result<()> {
        if self.farewell == Farewell::No {
            if let Some(frames) = &mut self.frames {
                frames.follow(read);
            }
            let written = match self.poll_write(cx, to, Some(read))? {
                Poll::Ready(written) => written,
                Poll::Pending => 0,
            };
            self.rest.extend_from_slice(&read[written..]);
            return Ok(());
        }
        let mut read = read;
        while let (Some(frames), false) = (&mut self.frames, read.is_empty()) {
            let (frame, next) = read.split_at(frames.step(read));
            if self.farewell != Farewell::Said {
                self.rest.extend_from_slice(frame);
            }
            self.say_what_is_due();
            read = next;
        }
        Ok(())
    }

    fn say_what_is_due(&mut self) {
        let (Farewell::Due(close), Some(frames)) = (&self.farewell, &self.frames) else {
            return;
        };
        let whole = match self.between_fragments {
            true => frames.between_frames(),
            false => frames.between_messages(),
        };
        if frames.closing() {
            // The sender was faster.
            self.farewell = Farewell::No;
        } else if whole {
            self.rest.extend_from_slice(close);
            self.farewell = Farewell::Said;
        }
    }

    /// Writes `bytes`, or else what is left of earlier ones.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl Io,
        bytes: Option<&[u8]>,
    ) -> Poll<io::Result<usize>> {
        let bytes = bytes.unwrap_or(&self.rest);
        match Pin::new(to).poll_write(cx, bytes) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => {
                self.moved = Instant::now();
                self.writes = self.writes.saturating_add(1);
                self.stuck = None;
                Poll::Ready(Ok(written))
            }
            Poll::Pending => {
                self.stuck.get_or_insert_with(Instant::now);
                Poll::Pending
            }
            broken => broken,
        }
    }
}

#[cfg(test)]
mod tests;
