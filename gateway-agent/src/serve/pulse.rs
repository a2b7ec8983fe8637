//! How a client's connection is doing: between requests, in a header, in a
//! request, or stuck because the client does not read. Time limits are checked
//! against it from outside, so that reading and writing only take notes.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use fleet_config::HostLimits;
use http::Method;
use tokio::time::Instant;

use crate::{
    config::host::Host,
    request::intake::Unfit,
    serve::{tunnel::Tunnel, watched::REFUSED},
};

/// What a connection must take or send within a body's idle time. Less is no slow
/// link but someone who holds a place.
pub(crate) const LEAST_PROGRESS: usize = 1 << 10;

/// How late a time limit may be noticed that is shorter than this.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// What a connection is doing, and since when.
#[derive(Debug)]
pub(crate) struct Pulse {
    http2: bool,
    host: Arc<Host>,
    crowd: Crowd,
    requests: Cell<u32>,
    /// Requests that have their whole answer.
    answered: Cell<u64>,
    /// Without a request: a header has begun to come.
    in_header: Cell<bool>,
    /// Part of a header waits for the rest, also behind a request.
    half_a_header: Cell<bool>,
    /// A header is there, and waits for its small body.
    small_body: Cell<bool>,
    since: Cell<Instant>,
    writing: Writing,
    /// A body was polled: whether it had something, so that the next move is the
    /// client's.
    turn: Cell<Option<bool>>,
    /// Frames of answers since they were last asked for.
    progress: Cell<u32>,
    ending: Ending,
    /// What the client is joined to after the 101 that is on its way to it.
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

/// All requests of a core.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    running: Rc<Cell<u32>>,
    /// How many there may be; counted in is the one that begins.
    most: u32,
}

impl Crowd {
    pub(crate) fn new(running: Rc<Cell<u32>>, most: u32) -> Self {
        Self { running, most }
    }
}

/// How well the client takes what we write.
#[derive(Debug, Default)]
struct Writing {
    /// Since when it takes nothing.
    stuck_since: Cell<Option<Instant>>,
    /// How long it took nothing before, until [`LEAST_PROGRESS`] was taken.
    stuck_for: Cell<Duration>,
    taken: Cell<usize>,
    /// It is TLS that is stuck, with what it was given.
    in_flush: Cell<bool>,
}

/// Why a connection takes no more requests.
#[derive(Debug, Default)]
struct Ending {
    refused: Cell<Option<Unfit>>,
    ended: Cell<bool>,
    close_after_answer: Cell<bool>,
    switched: Cell<bool>,
    dead: Cell<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// To be looked at again then.
    Fine(Instant),
    /// Without a request for too long.
    Idle,
    /// In an HTTP/1 header, or in one and its small body, for too long.
    Late,
    /// Unread for too long.
    Dead,
}

impl Pulse {
    /// Of a connection accepted then. An HTTP/2 client may connect ahead of need;
    /// one of HTTP/1 has begun its header when this is made.
    pub(crate) fn new(http2: bool, accepted: Instant, host: Arc<Host>, crowd: Crowd) -> Self {
        Self {
            http2,
            host,
            crowd,
            requests: Cell::new(0),
            answered: Cell::new(0),
            in_header: Cell::new(!http2),
            half_a_header: Cell::new(false),
            small_body: Cell::new(false),
            since: Cell::new(accepted),
            writing: Writing::default(),
            turn: Cell::new(None),
            progress: Cell::new(0),
            ending: Ending::default(),
            tunnel: RefCell::new(None),
        }
    }

    pub(crate) fn check(&self, now: Instant) -> Health {
        let limits = &self.host.limits;
        let resting = self.requests.get() == 0;
        let in_header = self.in_header.get() || self.half_a_header.get();
        let (limit, over) = match (self.small_body.get(), in_header) {
            (true, _) => (limits.body_idle_timeout, Health::Late),
            (false, true) => (limits.header_read_timeout, Health::Late),
            (false, false) => (limits.keep_alive_timeout, Health::Idle),
        };
        let unread = self.writing.due(limits.body_idle_timeout);
        let due = resting.then(|| self.since.get() + limit);
        if unread.is_some_and(|due| due <= now) {
            self.ending.dead.set(true);
            return Health::Dead;
        }
        if due.is_some_and(|due| due <= now) {
            return over;
        }
        // Whatever begins from now on takes at least as long as the shortest limit.
        let shortest = limits.header_read_timeout.min(limits.keep_alive_timeout);
        let shortest = shortest.min(limits.body_idle_timeout);
        let later = now + shortest.max(LOOK_AT_LEAST_EVERY);
        let next = [unread, due].into_iter().flatten().min();
        Health::Fine(next.map_or(later, |due| due.min(later)))
    }

    /// A request that begins now is one too many for its core.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowd.running.get() > self.crowd.most
    }

    /// Until a request runs, as seen right after the connection was polled.
    pub(crate) fn busy(&self) -> impl Future<Output = ()> {
        poll_fn(|_| match self.requests.get() {
            0 => Poll::Pending,
            _ => Poll::Ready(()),
        })
    }

    /// Nothing runs, so the next move is the client's, and may be on its way already.
    pub(crate) fn rests(&self) -> bool {
        self.requests.get() == 0
    }

    /// What was noted since the last call.
    pub(crate) fn take_turn(&self) -> Option<bool> {
        self.turn.take()
    }

    /// What the client is to be joined to once the connection has ended as HTTP.
    pub(crate) fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.take()
    }

    /// The limits of its host.
    pub(crate) fn limits(&self) -> &HostLimits {
        &self.host.limits
    }

    /// Frames of answers since the last call.
    pub(crate) fn take_progress(&self) -> u32 {
        self.progress.take()
    }

    /// Requests that have their whole answer.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.get()
    }

    pub(crate) fn read_something(&self) {
        // On HTTP/2 it may be anything, and hyper bounds headers there.
        let begins = self.requests.get() == 0 && !self.http2 && !self.in_header.get();
        if begins {
            self.in_header.set(true);
            self.since.set(Instant::now());
        }
    }

    /// Part of a header has come, or its end.
    pub(crate) fn in_half_a_header(&self, half: bool) {
        self.half_a_header.set(half);
    }

    /// A header has come, and only part of its small body.
    pub(crate) fn in_small_body(&self, small: bool) {
        self.small_body.set(small);
    }

    pub(crate) fn is_in_small_body(&self) -> bool {
        self.small_body.get()
    }

    /// What came is of no use without the rest.
    pub(crate) fn waits_for_more(&self) -> bool {
        self.half_a_header.get() || self.small_body.get()
    }

    /// So many bytes were written; `None`: none, as the client takes nothing.
    pub(crate) fn wrote(&self, count: Option<usize>) {
        self.writing.wrote(count);
    }

    /// What was written left the connection, or not.
    pub(crate) fn flushed(&self, stuck: bool) {
        self.writing.flushed(stuck);
    }

    /// The next request is refused for this, and nothing after it is read.
    pub(crate) fn refuse(&self, unfit: Unfit) {
        self.ending.refused.set(Some(unfit));
        self.half_a_header.set(false);
    }

    pub(crate) fn has_refused(&self) -> bool {
        self.ending.refused.get().is_some()
    }

    /// Why this request, which stands for another, is refused.
    pub(crate) fn refusal(&self, method: &Method) -> Option<Unfit> {
        let stands_for_another = method.as_str() == REFUSED;
        self.ending.refused.get().filter(|_| stands_for_another)
    }

    /// What comes is no body: nothing more is passed on.
    pub(crate) fn end(&self) {
        self.ending.ended.set(true);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ending.ended.get()
    }

    /// No request is taken after the one that is being read.
    pub(crate) fn close_after_answer(&self) {
        self.ending.close_after_answer.set(true);
    }

    pub(crate) fn closes_after_answer(&self) -> bool {
        self.ending.close_after_answer.get()
    }

    /// Its client takes nothing, and is not waited for any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.ending.dead.get()
    }

    /// The client of a tunnel takes nothing. A stream of HTTP/2 is not all of its
    /// connection.
    pub(crate) fn give_up(&self) {
        if !self.http2 {
            self.ending.dead.set(true);
        }
    }

    /// From here on, another protocol is spoken.
    pub(crate) fn switch(&self) {
        self.ending.switched.set(true);
    }

    pub(crate) fn has_switched(&self) -> bool {
        self.ending.switched.get()
    }
}

impl Writing {
    /// When the client has taken too little for `limit`.
    fn due(&self, limit: Duration) -> Option<Instant> {
        let since = self.stuck_since.get()?;
        Some(since + limit.saturating_sub(self.stuck_for.get()))
    }

    fn wrote(&self, count: Option<usize>) {
        match (count, self.stuck_since.get()) {
            (None, None) => self.stuck_since.set(Some(Instant::now())),
            (None, Some(_)) | (Some(0), _) => {}
            (Some(count), Some(since)) => {
                self.stuck_since.set(None);
                self.stuck_for.update(|all| all + since.elapsed());
                self.take(count);
            }
            (Some(count), None) if !self.stuck_for.get().is_zero() => self.take(count),
            (Some(_), None) => {}
        }
    }

    fn flushed(&self, stuck: bool) {
        let was_stuck = self.in_flush.replace(stuck);
        if stuck {
            self.wrote(None);
        } else if was_stuck && let Some(since) = self.stuck_since.take() {
            self.stuck_for.update(|all| all + since.elapsed());
        }
    }

    fn take(&self, count: usize) {
        self.taken.update(|taken| taken.saturating_add(count));
        if self.taken.get() >= LEAST_PROGRESS {
            self.taken.set(0);
            self.stuck_for.set(Duration::ZERO);
        }
    }
}

/// Counts a request on its connection until its response's last byte.
#[derive(Debug)]
pub(crate) struct Running(Rc<Pulse>);

impl Running {
    pub(crate) fn new(pulse: &Rc<Pulse>) -> Self {
        pulse.requests.update(|n| n + 1);
        pulse.crowd.running.update(|n| n + 1);
        pulse.in_header.set(false);
        Self(pulse.clone())
    }

    /// Another one on the same connection.
    pub(crate) fn again(&self) -> Self {
        Self::new(&self.0)
    }

    /// It is the last one on its connection, which goes on in another protocol.
    pub(crate) fn ends_in(&self, tunnel: Box<Tunnel>) {
        *self.0.tunnel.borrow_mut() = Some(tunnel);
    }

    /// Its connection's.
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.0
    }

    /// Its answer begins.
    pub(crate) fn answers(&self) {
        self.sends(1);
    }

    /// So many frames of its answer, or of what follows that, go out.
    pub(crate) fn sends(&self, frames: u32) {
        self.0.progress.update(|n| n.saturating_add(frames));
    }

    /// Its response's body was polled, and had something or not.
    pub(crate) fn polled(&self, had_something: bool) {
        self.0.turn.set(Some(had_something));
        if had_something {
            self.answers();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.requests.update(|n| n - 1);
        self.0.crowd.running.update(|n| n - 1);
        self.0.answered.update(|n| n + 1);
        self.0.since.set(Instant::now());
    }
}

#[cfg(test)]
mod tests;
