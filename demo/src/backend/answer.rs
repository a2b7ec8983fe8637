//! One request's way through the script.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming};
use tokio::sync::{Semaphore, watch};

use super::{Affected, Answer, Behaviour, MARK, Receipt, Receipts};
use crate::random::Random;

/// Path of the remote control: `POST /_script/503`.
const SCRIPT: &str = "/_script/";

/// A capacity is met over this much time.
const BURST: Duration = Duration::from_millis(50);

/// An empty gRPC message: not compressed, length 0.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

type Reply = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

/// The connection is closed without an answer.
#[derive(Debug)]
pub(super) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the script closes the connection")
    }
}

impl std::error::Error for Cut {}

/// What all connections of one backend share.
#[derive(Debug)]
pub(super) struct Answering {
    name: String,
    behaviour: watch::Receiver<Behaviour>,
    receipts: Arc<Receipts>,
    remote: Option<Arc<watch::Sender<Behaviour>>>,
    chance: Mutex<Chance>,
    /// The workers of [`Answer::Work`], and how many.
    pool: Mutex<Option<(u32, Arc<Semaphore>)>>,
}

#[derive(Debug)]
struct Chance {
    random: Random,
    /// Requests that may be served now, and as of when, for [`Affected::Beyond`].
    tokens: (f64, Instant),
}

impl Answering {
    pub(super) fn new(
        name: &str,
        behaviour: watch::Receiver<Behaviour>,
        receipts: Arc<Receipts>,
        remote: Option<Arc<watch::Sender<Behaviour>>>,
    ) -> Self {
        let chance = Mutex::new(Chance {
            random: Random::new(0xBAC_E2D),
            tokens: (0.0, Instant::now()),
        });
        Self {
            name: name.to_owned(),
            behaviour,
            receipts,
            remote,
            chance,
            pool: Mutex::default(),
        }
    }

    /// The behaviour as it changes.
    pub(super) fn script(&self) -> watch::Receiver<Behaviour> {
        self.behaviour.clone()
    }

    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Reply, Cut> {
        if let (Some(remote), Some(word)) =
            (&self.remote, request.uri().path().strip_prefix(SCRIPT))
        {
            return Ok(control(remote, word));
        }
        let (head, body) = request.into_parts();
        let mark = head
            .headers
            .get(MARK)
            .and_then(|mark| mark.to_str().ok())
            .map(str::to_owned);
        let Behaviour { answer, affected } = self.behaviour.borrow().clone();
        let affected = answer != Answer::Ok && self.is_affected(&affected, mark.as_deref());
        let outstanding = self.receipts.arrive();
        self.receipts.keep(Receipt {
            at: Instant::now(),
            method: head.method,
            path: head.uri.path().to_owned(),
            mark,
            affected,
            outstanding: outstanding.count,
        });
        drain(body).await;
        let grpc = head
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        match if affected { answer } else { Answer::Ok } {
            Answer::Ok => {}
            Answer::Slow(delay) => tokio::time::sleep(delay).await,
            Answer::Work { workers, time } => self.work(workers, time).await,
            Answer::Status { code, retry_after } if grpc => {
                return Ok(grpc_error(code, retry_after));
            }
            Answer::Status { code, retry_after } => return Ok(self.status(code, retry_after)),
            Answer::Hang => std::future::pending().await,
            Answer::Reset | Answer::Refuse => return Err(Cut),
        }
        Ok(if grpc {
            grpc_ok()
        } else {
            self.status(200, None)
        })
    }

    /// Waits for a worker's time. Detached: the worker does not notice that its
    /// client has gone away.
    async fn work(&self, workers: u32, time: Duration) {
        let pool = self.pool(workers);
        let work = tokio::spawn(async move {
            // Nobody closes it.
            let _worker = pool.acquire_owned().await;
            tokio::time::sleep(time).await;
        });
        let _ = work.await;
    }

    fn pool(&self, workers: u32) -> Arc<Semaphore> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pool {
            Some((size, pool)) if *size == workers => pool.clone(),
            _ => {
                let fresh = Arc::new(Semaphore::new(workers as usize));
                *pool = Some((workers, fresh.clone()));
                fresh
            }
        }
    }

    fn is_affected(&self, affected: &Affected, mark: Option<&str>) -> bool {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        match affected {
            Affected::Everyone => true,
            Affected::Share(share) => chance.random.unit() < *share,
            Affected::Marked(marks) => mark.is_some_and(|mark| marks.iter().any(|m| m == mark)),
            Affected::Beyond(per_second) => chance.is_beyond(*per_second, Instant::now()),
        }
    }

    fn status(&self, code: u16, retry_after: Option<Duration>) -> Reply {
        let text = Full::from(format!("{} answers {code}\n", self.name));
        let mut response = Response::new(text.map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() =
            StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(after) = retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response
    }
}

impl Chance {
    /// A token bucket: what was served before the capacity changed says nothing.
    fn is_beyond(&mut self, per_second: u32, now: Instant) -> bool {
        let rate = f64::from(per_second);
        let (left, at) = self.tokens;
        let earned = now.duration_since(at).as_secs_f64() * rate;
        let left = (left + earned).min((rate * BURST.as_secs_f64()).max(1.0));
        let beyond = left < 1.0;
        self.tokens = (if beyond { left } else { left - 1.0 }, now);
        beyond
    }
}

/// Reads the body away; a client that stops sending ends it.
async fn drain(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    while let Some(Ok(_)) = body.frame().await {}
}

fn control(remote: &watch::Sender<Behaviour>, word: &str) -> Reply {
    let (code, text) = match word.replace("%25", "%").parse::<Behaviour>() {
        Ok(behaviour) => {
            remote.send_replace(behaviour);
            (StatusCode::OK, format!("now {word}\n"))
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let mut response = Response::new(
        Full::from(text)
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = code;
    response
}

fn grpc_ok() -> Reply {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(0));
    let frames = [
        Frame::data(Bytes::from_static(EMPTY_MESSAGE)),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(stream::iter(frames.map(Ok)));
    grpc_head(body.boxed_unsync())
}

fn grpc_error(http: u16, retry_after: Option<Duration>) -> Reply {
    let body = Full::default()
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = grpc_head(body);
    response
        .headers_mut()
        .insert("grpc-status", HeaderValue::from(grpc_code(http)));
    if let Some(after) = retry_after {
        response.headers_mut().insert(
            "grpc-retry-pushback-ms",
            HeaderValue::from(after.as_millis() as u64),
        );
    }
    response
}

fn grpc_head(body: UnsyncBoxBody<Bytes, hyper::Error>) -> Reply {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
}

/// The gRPC code that stands for an HTTP status, as gateways translate them.
fn grpc_code(http: u16) -> u16 {
    match http {
        200 => 0,
        404 => 5,
        429 => 8,
        503 => 14,
        504 => 4,
        _ => 13,
    }
}
