//! A request's record while it runs. Whatever happens, it is told once: when the
//! response is over, or when this is dropped because the client left.

use std::{
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use breaker_core::{
    breaker::Version,
    ids::{BackendName, ServiceName},
};
use fleet_config::Endpoint;
use http::{HeaderMap, Method, Request, Response, header};
use http_body::Body as _;

use crate::{
    backend::upload::Progress,
    request::{
        answer::{Fault, GRPC_STATUS, OURS},
        body::Body,
        proxy::Client,
    },
    sight::{
        context::{self, Flags, Parent, SpanId, TRACEPARENT, TRACESTATE},
        record::{
            Attempt, CLIENT_GONE, MAX_ATTEMPTS, MAX_HOST, MAX_METHOD, MAX_PATH, MAX_STATE,
            MAX_USER_AGENT, Ours, Record, Trace, cut, cut_bytes,
        },
        setup::{Outlet, View},
        watched::Watched,
    },
};

/// What will be told about a request; nothing, if nobody wants to know.
#[derive(Debug)]
pub(crate) struct Telling(Option<Running>);

#[derive(Debug)]
struct Running {
    record: Box<Record>,
    view: Rc<View>,
    started: Instant,
    uploaded: Option<Rc<Progress>>,
    /// We made its answer.
    ours: bool,
    /// The client got everything.
    complete: bool,
}

impl Telling {
    /// Of a request whose header is there, from this client.
    pub(crate) fn begin<B>(view: Option<Rc<View>>, client: &Client, request: &Request<B>) -> Self {
        Self(view.map(|view| {
            let trace = view.tracing.is_some();
            let trace = trace.then(|| place_in_trace(&view, request.headers()));
            let sampled = trace.as_ref().is_some_and(|trace| trace.flags.sampled());
            let told = view.log.is_some() || sampled;
            Running {
                record: Box::new(record(client, request, trace, told)),
                view,
                started: Instant::now(),
                uploaded: None,
                ours: false,
                complete: false,
            }
        }))
    }

    /// Of a request of our own.
    pub(crate) const fn nothing() -> Self {
        Self(None)
    }

    /// Its answer is one of ours, though it looks like a backend's.
    pub(crate) fn ours(&mut self) {
        if let Some(running) = &mut self.0 {
            running.ours = true;
        }
    }

    /// It is for this service.
    pub(crate) fn service(&mut self, service: &ServiceName) {
        if let Some(running) = &mut self.0 {
            running.record.service = Some(service.clone());
        }
    }

    /// Its body goes out like this.
    pub(crate) fn uploads(&mut self, progress: &Rc<Progress>) {
        if let Some(running) = &mut self.0 {
            running.uploaded = Some(progress.clone());
        }
    }

    /// It goes to this endpoint now, over HTTP/2 or not, with this header.
    pub(crate) fn attempt(
        &mut self,
        (backend, endpoint): (&BackendName, &Endpoint),
        decision: Version,
        http2: bool,
        headers: &mut HeaderMap,
    ) {
        let Some(running) = &mut self.0 else { return };
        let view = running.view.clone();
        let span = running.record.trace.as_ref();
        let span = span.and_then(|trace| lead(trace, &view, headers));
        let record = &mut running.record;
        record.tries += 1;
        if record.attempts.len() < MAX_ATTEMPTS {
            record.attempts.push(Attempt {
                backend: backend.clone(),
                endpoint: endpoint.clone(),
                decision,
                started: running.started.elapsed(),
                answered: None,
                status: None,
                fault: None,
                http2,
                span,
            });
        }
    }

    /// What came of the attempt.
    pub(crate) fn attempted(&mut self, sent: &Result<Response<Body>, Fault>) {
        let Some(running) = &mut self.0 else { return };
        let first_too_many = running.record.tries as usize > MAX_ATTEMPTS;
        let attempt = running.record.attempts.last_mut();
        let Some(attempt) = attempt.filter(|_| !first_too_many) else {
            return;
        };
        attempt.answered = Some(running.started.elapsed());
        match sent {
            Ok(response) => attempt.status = Some(response.status()),
            Err(fault) => attempt.fault = Some(fault.reason()),
        }
    }

    /// This goes to the client; `ours` if no backend made it.
    pub(crate) fn respond(mut self, ours: bool, response: Response<Body>) -> Response<Body> {
        let Some(running) = &mut self.0 else {
            return response;
        };
        let headers = response.headers();
        let record = &mut running.record;
        record.first_byte = Some(running.started.elapsed());
        record.status = Some(response.status());
        record.grpc_status = grpc_status(headers);
        if ours || running.ours {
            record.answer = headers.get(OURS).and_then(Ours::read);
        }
        // What has no body is not asked for one.
        if response.body().is_end_stream() || &*record.method == Method::HEAD.as_str() {
            running.complete = true;
            return response;
        }
        response.map(|body| Body::Watched(Box::new(Watched::new(body, self))))
    }

    /// So much of the response's body went out.
    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(running) = &mut self.0 {
            running.record.response_bytes += bytes as u64;
        }
    }

    /// Its trailers do.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(running) = &mut self.0 {
            running.record.grpc_status = grpc_status(trailers).or(running.record.grpc_status);
        }
    }

    /// The backend broke it off.
    pub(crate) fn broke(&mut self, how: &'static str) {
        if let Some(running) = &mut self.0 {
            running.record.broken = Some(how);
        }
        self.tell();
    }

    /// The client got everything.
    pub(crate) fn complete(&mut self) {
        if let Some(running) = &mut self.0 {
            running.complete = true;
        }
        self.tell();
    }

    fn tell(&mut self) {
        if let Some(running) = self.0.take() {
            running.tell();
        }
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// `told`: somebody will read more of it than its place in the trace.
fn record<B>(client: &Client, request: &Request<B>, trace: Option<Trace>, told: bool) -> Record {
    let (uri, headers) = (request.uri(), request.headers());
    let host = || match uri.authority() {
        Some(authority) => cut(authority.as_str(), MAX_HOST).into(),
        None => {
            let host = headers.get(header::HOST).map_or(&[][..], |h| h.as_bytes());
            cut_bytes(host, MAX_HOST)
        }
    };
    let user_agent = headers.get(header::USER_AGENT).filter(|_| told);
    Record {
        at: SystemTime::now(),
        duration: Duration::ZERO,
        first_byte: None,
        method: cut(request.method().as_str(), MAX_METHOD).into(),
        host: if told { host() } else { Box::default() },
        path: cut(if told { uri.path() } else { "" }, MAX_PATH).into(),
        user_agent: user_agent.map(|agent| cut_bytes(agent.as_bytes(), MAX_USER_AGENT)),
        version: request.version(),
        client: client.address.clone(),
        scheme: match client.scheme.as_bytes() {
            b"https" => "https",
            _ => "http",
        },
        service: None,
        status: None,
        grpc_status: None,
        answer: None,
        broken: None,
        request_bytes: 0,
        response_bytes: 0,
        attempts: Vec::new(),
        tries: 0,
        suppressed: 0,
        trace,
    }
}

/// The caller's trace and its word on sampling; or a new trace.
fn place_in_trace(view: &View, headers: &HeaderMap) -> Trace {
    let span = view.ids.span();
    match Parent::of(headers) {
        Some(parent) => Trace {
            id: parent.trace,
            parent: Some(parent.span),
            span,
            flags: parent.flags,
            state: state(parent.flags, headers),
        },
        None => {
            let tracing = view.tracing.as_ref();
            let sampled = tracing.is_some_and(|outlet| view.ids.draw(outlet.sample));
            Trace {
                id: view.ids.trace(),
                parent: None,
                span,
                flags: Flags::fresh(sampled),
                state: None,
            }
        }
    }
}

/// The `tracestate` that goes on with a sampled request; nobody looks at another's.
fn state(flags: Flags, headers: &HeaderMap) -> Option<Box<str>> {
    if !(flags.sampled() && context::is_valid_state(headers)) {
        return None;
    }
    let values = headers.get_all(TRACESTATE).iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    let state = values.join(",");
    Some(match state.len() <= MAX_STATE {
        true => state.into(),
        false => Box::default(),
    })
}

/// Makes a span of ours the parent of what the backend sees, and names it. A
/// caller that does not sample is passed on as it is: without spans of ours, its
/// own is the parent. A trace that begins here says so to the backend also when it
/// is not sampled, so that all of it is decided once.
fn lead(trace: &Trace, view: &View, headers: &mut HeaderMap) -> Option<SpanId> {
    let sampled = trace.flags.sampled();
    if trace.parent.is_some() && !sampled {
        return None;
    }
    let span = if sampled { view.ids.span() } else { trace.span };
    let parent = Parent {
        trace: trace.id,
        span,
        flags: trace.flags,
    };
    headers.insert(TRACEPARENT, parent.value());
    if trace.state.is_none() {
        headers.remove(TRACESTATE);
    }
    sampled.then_some(span)
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.tell();
    }
}

impl Running {
    fn tell(self) {
        let now = Instant::now();
        let Self {
            mut record, view, ..
        } = self;
        record.duration = now.saturating_duration_since(self.started);
        record.request_bytes = self.uploaded.map_or(0, |progress| progress.bytes());
        if !self.complete && record.broken.is_none() {
            record.broken = Some(CLIENT_GONE);
        }
        let traced = record.trace.as_ref().is_some_and(|t| t.flags.sampled());
        let tracing = view.tracing.as_ref().filter(|_| traced);
        let log = view.log.as_ref();
        let log = log.filter(|log| is_written_down(&view, log, &mut record, now));
        let spans = 1 + record.attempts.len() as u64;
        let (to_log, to_export) = match (log, tracing) {
            (None, None) => return,
            (Some(log), None) => (Some((log, record)), None),
            (None, Some(tracing)) => (None, Some((tracing, record))),
            (Some(log), Some(tracing)) => (Some((log, record.clone())), Some((tracing, record))),
        };
        if to_log.is_some_and(|(log, record)| !log.put(record)) {
            view.counts.lines_dropped.add(1);
        }
        if to_export.is_some_and(|(tracing, record)| !tracing.put(record)) {
            view.counts.spans_dropped.add(spans);
        }
    }
}

fn is_written_down(view: &View, log: &Outlet, record: &mut Record, now: Instant) -> bool {
    if !record.is_failure() {
        return view.ids.draw(log.sample);
    }
    let through = view.let_failure_through(now);
    record.suppressed = through.unwrap_or(0);
    through.is_some()
}
