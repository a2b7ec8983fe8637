//! Connections to one endpoint, kept by one core: no lock, no task that owns
//! them, last used first, so that what is not needed ages and goes.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    time::Duration,
};

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
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::{
    backend::{
        lent::{Connection, Multiplexed},
        upload::Upload,
    },
    limits::{
        H2_CONNECTION_WINDOW, H2_SEND_BUFFER, H2_STREAM_WINDOW, MAX_BUFFER_BYTES,
        MAX_ENDPOINT_CONNECTIONS, MAX_HEADER_BYTES, MAX_HEADERS,
    },
    serve::executor::LocalExecutor,
};

/// How often an HTTP/2 connection with open streams is asked whether it lives,
/// and how long it may take to say so.
const H2_PING: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));

/// For what is left of a request on a connection after its response; then the
/// connection is not worth keeping.
const READY_AGAIN: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ConnectError {
    /// [`MAX_ENDPOINT_CONNECTIONS`] are in use. Says nothing about the endpoint.
    #[error("every connection is in use")]
    Limit,
    /// The name does not resolve, or nobody listens.
    #[error("{0}")]
    Refused(Rc<io::Error>),
    /// It took longer than allowed.
    #[error("it took longer than {0:?}")]
    Timeout(Duration),
    /// The other side does not speak HTTP.
    #[error("{0}")]
    Handshake(Rc<hyper::Error>),
}

/// What we speak to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// One endpoint and one core's connections to it.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) endpoint: Endpoint,
    /// For requests that name no host.
    pub(crate) authority: HeaderValue,
    /// Connections this core may open.
    max_open: u32,
    open: Cell<u32>,
    in_flight: Cell<u32>,
    /// Its endpoint left the configuration: nothing is kept any more.
    retired: Cell<bool>,
    idle: RefCell<VecDeque<Idle>>,
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
    pub(crate) backend: TcpStream,
    /// What came right after the 101.
    pub(crate) early: Bytes,
    pub(crate) open: Open,
}

impl Pool {
    /// Without connections. One core of `cores` has its share of what is allowed.
    pub(crate) fn new(endpoint: Endpoint, cores: usize) -> Rc<Self> {
        let cores = u32::try_from(cores.max(1)).unwrap_or(u32::MAX);
        let text = endpoint.to_string();
        let authority = text.split_once("://").map_or(&*text, |(_, rest)| rest);
        Rc::new(Self {
            authority: HeaderValue::from_str(authority)
                .unwrap_or(HeaderValue::from_static("upstream.invalid")),
            endpoint,
            max_open: (MAX_ENDPOINT_CONNECTIONS / cores).max(1),
            open: Cell::new(0),
            in_flight: Cell::new(0),
            retired: Cell::new(false),
            idle: RefCell::default(),
            shared: RefCell::default(),
            connecting: RefCell::default(),
        })
    }

    /// Requests at this endpoint now, of this core.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.get()
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
                let sender = within(limit, self.clone().open_http1()).await?;
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
        within(limit, async {
            let (stream, open) = self.clone().open_tcp().await?;
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
        })
        .await
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
        let task = tokio::task::spawn_local(within(limit, self.clone().open_http2()));
        let made = task.map(|ended| {
            let failed = |error| ConnectError::Refused(Rc::new(io::Error::other(error)));
            ended.unwrap_or_else(|error| Err(failed(error)))
        });
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

    async fn open_http1(self: Rc<Self>) -> Result<http1::SendRequest<Upload>, ConnectError> {
        let (stream, open) = self.open_tcp().await?;
        let (sender, task) = http1_builder()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(handshake_failed)?;
        run(task, open);
        Ok(sender)
    }

    async fn open_http2(self: Rc<Self>) -> Result<Multiplexed, ConnectError> {
        let (stream, open) = self.open_tcp().await?;
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

    async fn open_tcp(self: Rc<Self>) -> Result<(TcpStream, Open), ConnectError> {
        if self.open.get() >= self.max_open {
            return Err(ConnectError::Limit);
        }
        self.open.update(|n| n + 1);
        let open = Open(self);
        let Endpoint { host, port, .. } = &open.0.endpoint;
        let refused = |error| ConnectError::Refused(Rc::new(error));
        let stream = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        Ok((stream, open))
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
