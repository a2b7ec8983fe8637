//! Connections to one endpoint, kept by one core: no lock, no task that owns
//! them, last used first, so that what is not needed ages and goes.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use breaker_core::OutcomeClass;
use bytes::Bytes;
use fleet_config::Endpoint;
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use http::HeaderValue;
use hyper::client::conn::{
    http1::{self, Parts},
    http2,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::oneshot,
    task::JoinError,
    time::{Instant, timeout},
};

use crate::{
    admit::backend::Live,
    backend::{
        cost::{Burden, Latency},
        dial::{DialError, dial},
        endpoints::Share,
        lent::{Connection, Multiplexed},
        reach::Target,
        standing::Responses,
        upload::Upload,
    },
    limits::{
        H2_CONNECTION_WINDOW, H2_SEND_BUFFER, H2_STREAM_WINDOW, MAX_BUFFER_BYTES, MAX_HEADER_BYTES,
        MAX_HEADERS,
    },
    serve::executor::LocalExecutor,
    stream::Stream,
};

/// How often an HTTP/2 connection with open streams is asked whether it lives,
/// and how long it may take to say so.
const H2_PING: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));

/// For what is left of a request on a connection after its response; then the
/// connection is not worth keeping.
const READY_AGAIN: Duration = Duration::from_secs(1);

/// Addresses of a name that one connection may try: with more, each would have too
/// little of the time.
const MAX_ADDRESSES_TRIED: usize = 4;

/// How often it is logged that an endpoint's TLS fails.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ConnectError {
    /// As many as `limits.max_connections` allows are in use. Says nothing about the endpoint.
    #[error("every connection is in use")]
    Limit,
    /// Nobody listens, or not whom we trust.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// It took longer than allowed.
    #[error("it took longer than {0:?}")]
    Timeout(Duration),
    /// The other side does not speak HTTP.
    #[error("{0}")]
    Handshake(Rc<hyper::Error>),
    /// A bug of ours.
    #[error("{0}")]
    Internal(Rc<JoinError>),
}

/// What we speak to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// One address of an endpoint and one core's connections to it.
#[derive(Debug)]
pub(crate) struct Pool {
    target: Arc<Target>,
    live: Arc<Live>,
    /// For requests that name no host.
    pub(crate) authority: HeaderValue,
    share: Share,
    latency: Cell<Latency>,
    /// When it was last logged that TLS fails.
    told: Cell<Option<Instant>>,
    open: Cell<u32>,
    in_flight: Cell<u32>,
    /// Its endpoint left the configuration: nothing is kept any more.
    retired: Cell<bool>,
    idle: RefCell<VecDeque<Idle>>,
    /// Long responses on its connections.
    pub(crate) standing: Responses,
    shared: RefCell<Vec<Multiplexed>>,
    /// The HTTP/2 connection being made, for everyone who waits for it.
    connecting: RefCell<Option<Connecting>>,
}

/// An attempt to make an HTTP/2 connection, in a task of its own, so that it goes
/// on when who asked first goes away.
type Connecting = Shared<LocalBoxFuture<'static, Result<Multiplexed, ConnectError>>>;

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Upload>,
    until: Instant,
}

/// A place in an endpoint's load.
#[derive(Debug)]
pub(crate) struct Load(Rc<Pool>);

impl Load {
    /// A good answer, or none at all, took so long once there was a connection. A
    /// bad one does not count: who fails is often quick.
    pub(crate) fn observe(&self, waited: Duration) {
        let latency = self.0.latency.get().with(waited, Instant::now());
        self.0.latency.set(latency);
    }

    /// What came of the request. Of an overload, nothing follows: another endpoint
    /// would have that many more.
    pub(crate) fn judge(&self, class: OutcomeClass) {
        let Pool { target, live, .. } = &*self.0;
        match class {
            OutcomeClass::Success => live.reach.succeeded(target),
            OutcomeClass::Failure(_) => live.reach.failed(target, std::time::Instant::now()),
            OutcomeClass::Overload | OutcomeClass::ClientGone => {}
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let pool = &self.0;
        pool.in_flight.update(|n| n - 1);
        if pool.retired.get() && pool.in_flight.get() == 0 {
            pool.retire();
        }
    }
}

/// Counts an open connection as long as it lives.
#[derive(Debug)]
pub(crate) struct Open(Rc<Pool>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.update(|n| n - 1);
    }
}

/// A connection that no longer speaks HTTP.
pub(crate) struct Switched {
    pub(crate) backend: Stream,
    /// What came right after the 101.
    pub(crate) early: Bytes,
    pub(crate) open: Open,
}

impl Pool {
    /// Without connections. One core has its share of what is allowed.
    pub(crate) fn new(target: Arc<Target>, live: Arc<Live>, share: Share) -> Rc<Self> {
        let text = target.endpoint.to_string();
        let authority = text.split_once("://").map_or(&*text, |(_, rest)| rest);
        Rc::new(Self {
            authority: HeaderValue::from_str(authority)
                .unwrap_or(HeaderValue::from_static("upstream.invalid")),
            target,
            live,
            share,
            latency: Cell::new(Latency::unknown(Instant::now())),
            told: Cell::new(None),
            open: Cell::new(0),
            in_flight: Cell::new(0),
            retired: Cell::new(false),
            idle: RefCell::default(),
            standing: Responses::default(),
            shared: RefCell::default(),
            connecting: RefCell::default(),
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.target.endpoint
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Whether it is for this address.
    pub(crate) fn is_of(&self, target: &Arc<Target>) -> bool {
        Arc::ptr_eq(&self.target, target)
    }

    /// What it has to do for this core.
    pub(crate) fn burden(&self) -> Burden {
        (self.latency.get(), self.in_flight.get())
    }

    /// Adds a request to its load.
    pub(crate) fn enter(self: &Rc<Self>) -> Load {
        self.in_flight.update(|n| n + 1);
        Load(self.clone())
    }

    /// Closes what idles, now and from now on. Without this they would last for
    /// as long as the endpoint likes: their tasks keep the pool that keeps them.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    /// Closes what has idled for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        let fresh = |idle: &Idle| idle.until > now && !idle.sender.is_closed();
        self.idle.borrow_mut().retain(fresh);
        self.standing.sweep();
        let wanted = |shared: &Multiplexed| !shared.is_closed() && !shared.is_stale(now);
        self.shared.borrow_mut().retain(wanted);
    }

    /// A connection that is there already, if one is free.
    pub(crate) fn take(self: &Rc<Self>, protocol: Protocol) -> Option<Connection> {
        match protocol {
            Protocol::Http1 => self.take_idle(),
            Protocol::Http2 => self.join_shared(),
        }
    }

    /// A connection that nobody has used; for HTTP/2 one that is not closed.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        protocol: Protocol,
        limit: Duration,
    ) -> Result<Connection, ConnectError> {
        match protocol {
            Protocol::Http1 => {
                let sender = self.clone().open_http1(limit).await?;
                Ok(Connection::http1(sender, self.clone(), false))
            }
            // A connection that closes at once is made again, but not for ever.
            Protocol::Http2 => within(limit, self.share(limit)).await,
        }
    }

    /// A connection for one request, HTTP/1.1, that may switch protocols. What it
    /// switched to comes out of the channel, if it does.
    pub(crate) async fn connect_to_switch(
        self: &Rc<Self>,
        limit: Duration,
    ) -> Result<(Connection, oneshot::Receiver<Switched>), ConnectError> {
        let (stream, open) = self.clone().open(false, limit).await?;
        let (sender, task) = http1_builder()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(handshake_failed)?;
        let (out, switched) = oneshot::channel();
        tokio::task::spawn_local(async move {
            // How it ends without switching, its request is told.
            if let Ok(Parts { io, read_buf, .. }) = task.without_shutdown().await {
                let backend = io.into_inner();
                // Nobody takes it if it did not switch.
                let _ = out.send(Switched {
                    backend,
                    early: read_buf,
                    open,
                });
            }
        });
        let connection = Connection::http1(sender, self.clone(), false);
        Ok((connection, switched))
    }

    /// Keeps a connection for later; one whose task has not seen the end of its
    /// request yet, once it has.
    pub(crate) fn keep(self: Rc<Self>, mut sender: http1::SendRequest<Upload>, idle: Duration) {
        let until = Instant::now() + idle;
        if self.retired.get() {
            return;
        }
        if sender.is_ready() {
            self.idle.borrow_mut().push_back(Idle { sender, until });
        } else if !sender.is_closed() {
            tokio::task::spawn_local(async move {
                let ready = timeout(READY_AGAIN, sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) && !self.retired.get() {
                    self.idle.borrow_mut().push_back(Idle { sender, until });
                }
            });
        }
    }

    fn take_idle(self: &Rc<Self>) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let Idle { sender, until } = idle.pop_back()?;
            if until > Instant::now() && sender.is_ready() {
                return Some(Connection::http1(sender, self.clone(), true));
            }
        }
    }

    async fn share(self: &Rc<Self>, limit: Duration) -> Result<Connection, ConnectError> {
        loop {
            if let Some(connection) = self.join_shared() {
                return Ok(connection);
            }
            let pending = self.connecting.borrow().clone();
            let pending = pending.unwrap_or_else(|| self.start_connecting(limit));
            let made = pending.clone().await;
            self.file(&pending, made)?;
        }
    }

    fn start_connecting(self: &Rc<Self>, limit: Duration) -> Connecting {
        let task = tokio::task::spawn_local(self.clone().open_http2(limit));
        let made = task
            .map(|ended| ended.unwrap_or_else(|error| Err(ConnectError::Internal(Rc::new(error)))));
        let made = made.boxed_local().shared();
        *self.connecting.borrow_mut() = Some(made.clone());
        made
    }

    /// The first to see the end of an attempt files its result for the others.
    fn file(
        &self,
        attempt: &Connecting,
        made: Result<Multiplexed, ConnectError>,
    ) -> Result<(), ConnectError> {
        let mut current = self.connecting.borrow_mut();
        let first = current.as_ref().is_some_and(|now| now.ptr_eq(attempt));
        if first {
            *current = None;
        }
        let made = made?;
        if first {
            self.shared.borrow_mut().push(made);
        }
        Ok(())
    }

    fn join_shared(&self) -> Option<Connection> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.is_closed());
        Some(
            shared
                .iter()
                .find(|connection| connection.has_room())?
                .lend(),
        )
    }

    async fn open_http1(
        self: Rc<Self>,
        limit: Duration,
    ) -> Result<http1::SendRequest<Upload>, ConnectError> {
        let (stream, open) = self.open(false, limit).await?;
        let (sender, task) = http1_builder()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(handshake_failed)?;
        run(task, open);
        Ok(sender)
    }

    async fn open_http2(self: Rc<Self>, limit: Duration) -> Result<Multiplexed, ConnectError> {
        let (stream, open) = self.open(true, limit).await?;
        let (interval, patience) = H2_PING;
        let (sender, task) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_BYTES as u32)
            .max_send_buf_size(H2_SEND_BUFFER)
            .keep_alive_interval(interval)
            .keep_alive_timeout(patience)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(handshake_failed)?;
        run(task, open);
        Ok(Multiplexed::new(sender))
    }

    /// A connection to its address; or, as nothing was sent yet, to another of the
    /// same name, each with its part of the time.
    async fn open(
        self: Rc<Self>,
        http2: bool,
        limit: Duration,
    ) -> Result<(Stream, Open), ConnectError> {
        let allowed = self.share.of(self.live.max_connections.load(Relaxed));
        if self.open.get() >= allowed && self.standing.evict_one(Instant::now()) {
            // Its connection ends.
            tokio::task::yield_now().await;
        }
        if self.open.get() >= allowed {
            return Err(ConnectError::Limit);
        }
        self.open.update(|n| n + 1);
        let open = Open(self.clone());
        let reach = &self.live.reach;
        let mut targets = vec![self.target.clone()];
        targets.extend(reach.siblings(&self.target));
        targets.truncate(MAX_ADDRESSES_TRIED);
        let each = limit / targets.len() as u32;
        let mut failed = ConnectError::Timeout(limit);
        for target in &targets {
            let tls = self.live.tls.load_full();
            let dialled = dial(&target.endpoint, target.address, tls.as_deref(), http2);
            match timeout(each, dialled).await {
                Ok(Ok(stream)) => return Ok((stream, open)),
                Ok(Err(error)) => {
                    self.tell(&error);
                    failed = error.into();
                }
                Err(_) => failed = ConnectError::Timeout(each),
            }
            reach.failed(target, std::time::Instant::now());
        }
        Err(failed)
    }

    /// Logs what an operator must mend, but not for every connection.
    fn tell(&self, error: &DialError) {
        let due = |told: Instant| told.elapsed() >= TELL_EVERY;
        if let DialError::Tls(why) = error
            && self.told.get().is_none_or(due)
        {
            self.told.set(Some(Instant::now()));
            tracing::warn!(endpoint = %self.endpoint(), %why, "no TLS connection to an endpoint");
        }
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES);
    builder
}

fn handshake_failed(error: hyper::Error) -> ConnectError {
    ConnectError::Handshake(Rc::new(error))
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let done = timeout(limit, work).await;
    done.unwrap_or(Err(ConnectError::Timeout(limit)))
}

/// Drives a connection until it ends; how it ends, its requests are told.
fn run(task: impl Future<Output = hyper::Result<()>> + 'static, open: Open) {
    tokio::task::spawn_local(async move {
        let _ = task.await;
        drop(open);
    });
}
