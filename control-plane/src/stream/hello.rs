//! Who may connect, and in what order: names are checked, ids are unique, and
//! streams are let in at a bounded rate, so that a restart is not a storm.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use breaker_core::{AgentId, PopId};
use rampmeter_api::{
    convert::{WireError, decision, steering},
    v1::{self, connect_request::Message},
};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Status, Streaming};

use crate::{
    agents::{Duplicate, Grant, Identity, SILENCE, Session, Told},
    clock::jitter,
    config::Fleet,
    plane::Plane,
    services::status,
    store::SyncRequest,
    wire::Inbound,
};

/// Hellos let in a second, after a burst of as many: a snapshot of a thousand
/// backends takes about a millisecond to make, so this is a fifth of a core.
const HELLOS_PER_SECOND: f64 = 200.0;

/// Longest free text of a hello: instance, version, address.
const TEXT_LIMIT: usize = 200;

/// How long the first message may take.
const HELLO_WITHIN: Duration = SILENCE;

/// When to try again with an id in use: by then other replicas have told who left.
const RETRY_DUPLICATE: Duration = Duration::from_secs(1);

/// A stream that was let in.
pub(super) struct Accepted {
    pub(super) session: Arc<Session>,
    pub(super) granted: mpsc::Receiver<Grant>,
}

/// Waits for the hello.
pub(super) async fn receive(inbound: &mut Streaming<Inbound>) -> Result<v1::Hello, Status> {
    let first = tokio::time::timeout(HELLO_WITHIN, inbound.message()).await;
    let Ok(first) = first else {
        let within = HELLO_WITHIN.as_secs();
        return Err(Status::deadline_exceeded(format!(
            "no hello came within {within} s"
        )));
    };
    match first?.and_then(|inbound| inbound.message) {
        Some(Message::Hello(hello)) => Ok(hello),
        Some(_) => Err(status::invalid(
            "message",
            "the first message of a stream must be hello",
        )),
        None => Err(status::invalid(
            "message",
            "the stream ended before its hello",
        )),
    }
}

/// Lets an agent in, or says why not.
pub(super) async fn accept(plane: &Arc<Plane>, hello: v1::Hello) -> Result<Accepted, Status> {
    plane.hellos.admit()?;
    let fleet = plane.fleet();
    let who = identity(&hello, fleet.as_deref())?;
    let now = plane.clock.now();
    if let Some(other) = plane.peers.duplicate(&plane.name, &who, now) {
        return Err(duplicate(&who, &other));
    }
    adopt(plane, &who, &hello).await;
    // Nothing is awaited from here until the stream runs: a caller that gives up
    // would leave an agent behind that never leaves.
    let told = Told {
        config_revision: hello.config_revision,
        ..Told::default()
    };
    let joined = plane.agents.join(who.clone(), told, plane.clock.now());
    let (session, granted) = joined.map_err(|other| duplicate(&who, &other))?;
    tracing::info!(
        agent = %who.agent, pop = %who.pop, instance = %who.instance,
        version = %who.version, address = %who.address, held = hello.held.len(),
        "an agent connected"
    );
    Ok(Accepted { session, granted })
}

fn identity(hello: &v1::Hello, fleet: Option<&Fleet>) -> Result<Identity, Status> {
    let name_error = |field: &'static str| {
        move |error: breaker_core::ids::NameError| status::invalid(field, error.to_string())
    };
    let agent = AgentId::new(&hello.agent).map_err(name_error("hello.agent"))?;
    let pop = PopId::new(&hello.pop).map_err(name_error("hello.pop"))?;
    if let Some(fleet) = fleet {
        known_pop(&pop, fleet)?;
    }
    if hello.instance.is_empty() {
        return Err(status::invalid(
            "hello.instance",
            "must be unique for each start of the agent",
        ));
    }
    Ok(Identity {
        agent,
        instance: text("hello.instance", &hello.instance)?,
        pop,
        version: text("hello.version", &hello.version)?,
        address: text("hello.address", &hello.address)?,
    })
}

fn known_pop(pop: &PopId, fleet: &Fleet) -> Result<(), Status> {
    if fleet.config.pops.contains_key(pop) {
        return Ok(());
    }
    let known: Vec<_> = fleet.config.pops.keys().map(PopId::as_str).collect();
    let message = format!(
        "POP {pop} is not in the configuration (revision {}): known are {}",
        fleet.revision,
        known.join(", ")
    );
    Err(status::invalid("hello.pop", message))
}

fn text(field: &'static str, value: &str) -> Result<String, Status> {
    if value.len() > TEXT_LIMIT || value.chars().any(char::is_control) {
        let allowed = format!("must have at most {TEXT_LIMIT} bytes and no control characters");
        return Err(status::invalid(field, allowed));
    }
    Ok(value.to_owned())
}

fn duplicate(who: &Identity, other: &Duplicate) -> Status {
    tracing::warn!(
        agent = %who.agent, refused = %who.address, serving = %other.address,
        "two agents use one id: the one that is connected keeps it"
    );
    status::already_exists(
        format!(
            "agent id {:?} is in use by another live agent at {:?} (instance {:?}): \
             give each agent an id of its own",
            who.agent.as_str(),
            other.address,
            other.instance
        ),
        RETRY_DUPLICATE,
    )
}

/// What the agent holds goes to the store before the agent is answered: a store
/// that came back empty takes it over, any other knows better. While the store
/// is away it is kept, and goes with the first sync that succeeds.
async fn adopt(plane: &Plane, who: &Identity, hello: &v1::Hello) {
    let now = plane.clock.now();
    let unread = |error: WireError| {
        tracing::warn!(agent = %who.agent, %error, "a held decision cannot be read");
    };
    let mut backends = Vec::new();
    for wire in &hello.held {
        match decision::from_decision(wire, now) {
            Ok(decision) => {
                backends.push(decision.backend.clone());
                plane.held.keep(decision);
            }
            Err(error) => unread(error),
        }
    }
    let mut services = Vec::new();
    for wire in &hello.held_services {
        match steering::from_service_decision(wire, now) {
            Ok((name, held)) => {
                services.push(name.clone());
                plane.held.keep_service(name, held);
            }
            Err(error) => unread(error),
        }
    }
    let nothing = backends.is_empty() && services.is_empty();
    if nothing || plane.fleet().is_none() {
        return;
    }
    if plane.sync(SyncRequest::default()).await.is_ok() {
        plane.mailbox.urge(backends);
        plane.mailbox.urge_services(services);
    }
}

/// A token bucket over hellos.
#[derive(Debug)]
pub struct HelloLimit(Mutex<(f64, Instant)>);

impl Default for HelloLimit {
    fn default() -> Self {
        Self(Mutex::new((HELLOS_PER_SECOND, Instant::now())))
    }
}

impl HelloLimit {
    fn admit(&self) -> Result<(), Status> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, at) = *bucket;
        let filled = tokens + at.elapsed().as_secs_f64() * HELLOS_PER_SECOND;
        let tokens = filled.min(HELLOS_PER_SECOND);
        let admitted = tokens >= 1.0;
        *bucket = (if admitted { tokens - 1.0 } else { tokens }, Instant::now());
        if admitted {
            return Ok(());
        }
        let wait = Duration::from_millis(500).mul_f64(1.0 + jitter());
        Err(status::try_later(
            format!("more than {HELLOS_PER_SECOND} agents connect in a second"),
            wait,
        ))
    }
}
