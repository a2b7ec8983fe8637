//! One client's connection, HTTP/1 or HTTP/2, from its first byte to its last.
//!
//! hyper-util's builder would tell the two apart as well, but it waits for the
//! first bytes without a time limit and does not let HTTP/1's header size be
//! set. One timer for each connection watches all time limits of reading and
//! writing, and is set for when the next of them may run out, so that requests
//! pay nothing for it.

use std::{
    convert::Infallible,
    future::ready,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use fleet_config::HostLimits;
use futures_util::{FutureExt, future::Either};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::{
    server::conn::{
        http1::{self, Parts},
        http2,
    },
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::AsyncWriteExt,
    sync::watch,
    time::{Duration, Instant, sleep_until, timeout},
};

use crate::{
    backend::{classify, relay::Broken, upstream::Core},
    limits::{
        H2_CONNECTION_WINDOW, H2_PENDING_RESETS, H2_SEND_BUFFER, H2_STREAM_WINDOW,
        MAX_BUFFER_BYTES, header_buffer_bytes, header_list_bytes,
    },
    request::{
        answer::{self, Fault},
        body::Body,
        proxy,
    },
    serve::{
        opening::{Arrived, Opened, open},
        pulse::{Health, Pulse, Running},
        stalled::Streams,
        tunnel::Tunnel,
        watched::Watched,
    },
    stream::Stream,
};

/// For one more request on an idle connection once a drain begins. It may be on its
/// way already, and closing would lose it; its answer then says that it was the
/// last. HTTP/2 says which requests it takes no more, but not every client sends
/// those again.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// For a connection that is told to end, until it is dropped.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves a connection to its end.
pub(crate) async fn serve(core: Rc<Core>, arrived: Arrived, drain: watch::Receiver<bool>) {
    let accepted = Instant::now();
    let host = arrived.host.clone();
    let limits = &host.limits;
    let Ok(opened) = timeout(limits.header_read_timeout, open(arrived)).await else {
        return;
    };
    let Opened {
        stream,
        first,
        http2,
        client,
        seat: _seat,
    } = match opened {
        Ok(opened) => opened,
        Err(error) => return tracing::debug!(%error, "a connection is of no use"),
    };
    let client = Rc::new(client);
    let pulse = Rc::new(Pulse::new(
        http2,
        accepted,
        host.clone(),
        core.crowd(limits),
    ));
    let io = Watched::new(stream, first, http2, host.clone(), pulse.clone());
    let in_request = pulse.clone();
    let in_tunnel = Rc::new(drain.clone());
    let service = service_fn(move |request| {
        let runs = Running::new(&in_request);
        let drain = in_tunnel.clone();
        let unfit = in_request.refusal(request.method()).map(Fault::Unfit);
        let fault = unfit.or(in_request.is_crowded().then_some(Fault::Full));
        let answer = match fault {
            Some(fault) => {
                let grpc = classify::is_grpc(request.headers());
                Either::Left(ready(answer::fault(fault, None, grpc)))
            }
            None => Either::Right(proxy::serve(core.clone(), client.clone(), request)),
        };
        answer.map(move |mut response| {
            match response.body_mut().take_tunnel() {
                None => {}
                Some(tunnel) if http2 => run_in_stream(tunnel, runs.again(), &drain),
                Some(tunnel) => runs.ends_in(tunnel),
            }
            Ok::<_, Infallible>(tracked(response, runs))
        })
    });
    match http2 {
        true => {
            let streams = Streams::new(pulse.clone(), limits.body_idle_timeout);
            let mut connection = pin!(http2_builder(streams, limits).serve_connection(io, service));
            drive(connection.as_mut(), &pulse, drain).await;
        }
        false => {
            let mut connection = http1_builder(limits).serve_connection(io, service);
            let ended = drive(Pin::new(&mut connection), &pulse, drain.clone()).await;
            let tunnel = pulse.take_tunnel();
            match ended {
                Ended::Late => {
                    let mut io = connection.into_parts().io;
                    // A client that does not take it has gone.
                    let told = match pulse.is_in_small_body() {
                        true => answer::BODY_TIMEOUT,
                        false => answer::HEADER_TIMEOUT,
                    };
                    let _ = timeout(GOODBYE, say_late(io.socket(), told)).await;
                }
                Ended::Whole => {
                    if let Some(tunnel) = tunnel {
                        // What its socket holds back of the client follows `read_buf`.
                        let Parts { io, read_buf, .. } = connection.into_parts();
                        let runs = Running::new(&pulse);
                        // Boxed: every connection would have to be as large.
                        Box::pin(tunnel.run(TokioIo::new(io), read_buf, drain, runs)).await;
                    }
                }
                Ended::Cut => {}
            }
        }
    }
}

/// Joins a stream of HTTP/2 to its backend once it has its answer, as a request
/// that runs for as long.
fn run_in_stream(mut tunnel: Box<Tunnel>, runs: Running, drain: &watch::Receiver<bool>) {
    let drain = drain.clone();
    tokio::task::spawn_local(async move {
        // A client that has gone did not get its answer.
        if let Ok(stream) = (&mut tunnel.client).await {
            let stream = TokioIo::new(stream);
            tunnel.run(stream, Bytes::new(), drain, runs).await;
        }
    });
}

/// An answer on its way, as the connection's state wants it.
fn tracked(mut response: Response<Body>, runs: Running) -> Response<Tracked> {
    runs.answers();
    let pulse = runs.pulse();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        pulse.switch();
    } else if pulse.closes_after_answer() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response.map(|body| Tracked { body, runs })
}

/// Tells a client whose header, or small body, did not come in time.
async fn say_late(stream: &mut Stream, told: &str) -> io::Result<()> {
    stream.write_all(told.as_bytes()).await?;
    stream.shutdown().await
}

/// [`Watched`] has refused what is longer than allowed; hyper is given room for
/// what is not.
fn http1_builder(limits: &HostLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    let header = header_buffer_bytes(limits);
    builder
        .header_read_timeout(None)
        .max_headers(limits.max_headers as usize)
        .max_header_size(header)
        .max_buf_size(header.max(MAX_BUFFER_BYTES));
    builder
}

fn http2_builder(streams: Streams, limits: &HostLimits) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        // For WebSocket (RFC 8441).
        .enable_connect_protocol()
        .max_concurrent_streams(limits.max_streams)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_header_list_size(header_list_bytes(limits))
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS);
    builder
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// By itself, after its last answer.
    Whole,
    /// It broke or idled, or its client did not read.
    Cut,
    /// A header of HTTP/1 did not come in time.
    Late,
}

/// Drives a connection; ends it when it is overdue, and gently on drain.
async fn drive<C: GracefulConnection>(
    mut connection: Pin<&mut C>,
    pulse: &Pulse,
    mut drain: watch::Receiver<bool>,
) -> Ended {
    let mut look = pin!(sleep_until(Instant::now()));
    let mut draining = false;
    let mut last_call = false;
    loop {
        tokio::select! {
            biased;
            // First, so that a response that is ready just now says so.
            _ = drain.wait_for(|drain| *drain), if !draining => {
                draining = true;
                last_call = pulse.rests();
                match last_call {
                    true => look.as_mut().reset(Instant::now() + LAST_REQUEST),
                    false => connection.as_mut().graceful_shutdown(),
                }
            }
            // How it broke is the client's affair: its requests were settled.
            ended = connection.as_mut() => return match ended {
                Ok(()) => Ended::Whole,
                Err(_) => Ended::Cut,
            },
            () = pulse.busy(), if last_call => {
                connection.as_mut().graceful_shutdown();
                last_call = false;
            }
            () = look.as_mut() => {
                let now = Instant::now();
                if std::mem::take(&mut last_call) {
                    connection.as_mut().graceful_shutdown();
                }
                match pulse.check(now) {
                    Health::Fine(next) => look.as_mut().reset(next),
                    Health::Late => return Ended::Late,
                    Health::Dead => return Ended::Cut,
                    Health::Idle if draining => return Ended::Cut,
                    Health::Idle => {
                        connection.as_mut().graceful_shutdown();
                        draining = true;
                        look.as_mut().reset(now + GOODBYE);
                    }
                }
            }
        }
    }
}

/// A body that keeps its request running.
#[derive(Debug)]
struct Tracked {
    body: Body,
    runs: Running,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = contained(|| Pin::new(&mut self.body).poll_frame(cx));
        if let Poll::Ready(Some(Err(Broken::Panicked))) = polled {
            self.body = Body::Empty;
        }
        self.runs.polled(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A bug that panics costs this body only, not the connection's task.
fn contained<T>(
    poll: impl FnOnce() -> Poll<Option<Result<T, Broken>>>,
) -> Poll<Option<Result<T, Broken>>> {
    catch_unwind(AssertUnwindSafe(poll)).unwrap_or_else(|_| {
        tracing::error!("a response's body panicked");
        Poll::Ready(Some(Err(Broken::Panicked)))
    })
}

#[cfg(test)]
mod tests;
