//! Events: what happened, with its evidence, for people and for ever.

use breaker_core::{
    BackendName, Breaker, Steering, Version,
    breaker::{Happening, StateName},
    evidence::Suspect,
    ids::ServiceName,
    steering::Steered,
};
use bytes::Bytes;
use prost::Message;
use rampmeter_api::{
    convert::event::{self, Stamp, steering::steered},
    v1,
};

use crate::{plane::Plane, quota::News, store::QuotaView};

/// Longest summary: a refused file can have a thousand errors.
const SUMMARY_LIMIT: usize = 4000;

/// Who changes something, why, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Who, as claimed.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Where the call came from.
    pub address: String,
    /// It turns a service off, and the operator said so.
    pub broke_glass: bool,
}

impl Caller {
    /// Puts who it was into an event.
    fn sign(&self, event: &mut v1::Event) {
        event.actor.clone_from(&self.actor);
        event.actor_address.clone_from(&self.address);
    }

    /// Says who ended something, and why.
    fn explain(&self, event: &mut v1::Event) {
        let Self { actor, reason, .. } = self;
        event.summary.push_str(&format!(", by {actor}: {reason}"));
    }
}

/// An event about the configuration.
pub fn of_config(plane: &Plane, kind: v1::EventKind, summary: String, source: &str) -> v1::Event {
    let mut summary = summary;
    if summary.len() > SUMMARY_LIMIT {
        let end = (0..=SUMMARY_LIMIT)
            .rev()
            .find(|at| summary.is_char_boundary(*at));
        summary.truncate(end.unwrap_or(0));
        summary.push('…');
    }
    v1::Event {
        actor: source.to_owned(),
        ..stamp(plane, None, None).event(kind, summary)
    }
}

/// The store lost or changed its history.
pub fn of_epoch(plane: &Plane, epoch: u64) -> Bytes {
    let summary = format!(
        "epoch {epoch} started: the store lost or changed its history; what replicas and agents \
         held was committed again"
    );
    let event = stamp(plane, None, None).event(v1::EventKind::EpochStarted, summary);
    Bytes::from(event.encode_to_vec())
}

/// Events of one step, encoded, and the one that the record keeps: the last
/// transition of the fleet's circuit.
pub fn of_step(
    plane: &Plane,
    name: &BackendName,
    next: &Breaker,
    happenings: &[Happening],
    caller: Option<&Caller>,
) -> (Vec<Bytes>, Option<Bytes>) {
    let mut transition = None;
    let encoded = happenings.iter().map(|happening| {
        let stamp = stamp(plane, Some(name), Some(next.version));
        let mut event = event::event(happening, stamp);
        if let Some(caller) = caller {
            match happening {
                Happening::OverrideEnded(_, false) => caller.explain(&mut event),
                Happening::OverrideSet(_) if caller.broke_glass => {
                    let text = " (break-glass: no other region takes requests)";
                    event.summary.push_str(text);
                }
                _ => {}
            }
            caller.sign(&mut event);
        }
        let bytes = Bytes::from(event.encode_to_vec());
        if matches!(happening, Happening::Transition { pop: None, .. }) {
            transition = Some(bytes.clone());
        }
        bytes
    });
    let encoded = encoded.collect();
    (encoded, transition)
}

/// As [`of_step`], for a service.
pub fn of_steering(
    plane: &Plane,
    name: &ServiceName,
    next: &Steering,
    happenings: &[Steered],
    caller: Option<&Caller>,
) -> Vec<Bytes> {
    let encoded = happenings.iter().map(|happening| {
        let stamp = stamp(plane, None, Some(next.version));
        let mut event = steered(name, happening, stamp);
        // A drain that ran out meanwhile is nobody's doing.
        if let Some(caller) = caller.filter(|_| !matches!(happening, Steered::DrainEnded(.., true)))
        {
            if let Steered::DrainEnded(..) | Steered::PlanApproved(_) | Steered::DrillEnded(_) =
                happening
            {
                caller.explain(&mut event);
            }
            caller.sign(&mut event);
        }
        Bytes::from(event.encode_to_vec())
    });
    encoded.collect()
}

/// As [`tell`], for a service.
pub fn tell_steering(plane: &Plane, name: &ServiceName, version: Version, happenings: &[Steered]) {
    for happening in happenings {
        let wide = steered(name, happening, stamp(plane, None, Some(version)));
        tracing::info!(
            service = %name, epoch = version.epoch, revision = version.revision,
            kind = wide.kind().as_str_name(), "{}", wide.summary
        );
    }
}

/// Encoded event of a lone failing agent.
pub fn of_suspect(plane: &Plane, name: &BackendName, suspect: &Suspect) -> Bytes {
    let event = event::suspect(suspect, stamp(plane, Some(name), None));
    Bytes::from(event.encode_to_vec())
}

/// A quota began, or ceased, to refuse requests. `total` is the fleet's.
pub fn of_quota(
    plane: &Plane,
    service: &ServiceName,
    key: u64,
    rate: f64,
    total: QuotaView,
    news: News,
) -> v1::Event {
    let of_key = match key {
        0 => String::new(),
        key => format!(" for key {key:016x}"),
    };
    let QuotaView {
        wanted,
        admitted,
        agents,
    } = total;
    let (kind, what) = match news {
        News::Exhausted => (
            v1::EventKind::QuotaExhausted,
            format!("is exhausted: {agents} agents want {wanted:.0}/s, {admitted:.0}/s pass"),
        ),
        News::Recovered { lasted, refused } => (
            v1::EventKind::QuotaRecovered,
            format!(
                "refuses nothing any more: {agents} agents want {wanted:.0}/s; over {:.0} s it \
                 refused {refused:.0} requests",
                lasted.as_secs_f64()
            ),
        ),
    };
    let summary = format!("the quota of {service}{of_key}, {rate}/s, {what}");
    v1::Event {
        service: service.as_str().to_owned(),
        ..stamp(plane, None, None).event(kind, summary)
    }
}

/// Encoded event about a backend that comes with no commit.
pub fn of_backend(
    plane: &Plane,
    name: &BackendName,
    kind: v1::EventKind,
    summary: String,
) -> Bytes {
    let event = stamp(plane, Some(name), None).event(kind, summary);
    Bytes::from(event.encode_to_vec())
}

/// Counts transitions and tells the log, one wide line each.
pub fn tell(plane: &Plane, name: &BackendName, version: Version, happenings: &[Happening]) {
    for happening in happenings {
        let stamp = stamp(plane, Some(name), Some(version));
        let wide = event::event(happening, stamp);
        if let Happening::Transition { to, .. } = happening {
            let counter = match to {
                StateName::Open => &plane.metrics.opened,
                StateName::HalfOpen => &plane.metrics.half_opened,
                StateName::Closed => &plane.metrics.closed,
            };
            counter.add(1);
        }
        tracing::info!(
            backend = %name, epoch = version.epoch, revision = version.revision,
            kind = wide.kind().as_str_name(), "{}", wide.summary
        );
    }
}

fn stamp<'a>(
    plane: &'a Plane,
    backend: Option<&'a BackendName>,
    version: Option<Version>,
) -> Stamp<'a> {
    let at = plane.clock.now();
    Stamp {
        id: id(at.as_millis()),
        at,
        backend,
        version,
        actor: plane.name.as_str(),
    }
}

/// A version 7 UUID on the store's clock: sortable by time, unique.
pub fn id(millis: u64) -> String {
    static CONTEXT: std::sync::Mutex<uuid::ContextV7> =
        std::sync::Mutex::new(uuid::ContextV7::new());
    let context = &CONTEXT;
    let nanos = (millis % 1000) as u32 * 1_000_000;
    let at = uuid::Timestamp::from_unix(context, millis / 1000, nanos);
    uuid::Uuid::new_v7(at).to_string()
}
