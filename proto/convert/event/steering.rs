//! What happened to a service as a whole.

use breaker_core::{
    explain::steering::{plan as plan_in_words, steered as in_words},
    ids::ServiceName,
    plan::Plan,
    steering::{Drill, Steered},
};

use super::Stamp;
use crate::{
    convert::steering::{drill, plan},
    v1::{self, EventKind},
};

/// To the wire.
pub fn steered(service: &ServiceName, happening: &Steered, stamp: Stamp<'_>) -> v1::Event {
    let service = service.as_str();
    let version = stamp.version.unwrap_or_default();
    let wire = |of: &Plan| Some(plan(of, version, plan_in_words(service, of)));
    let event = v1::Event {
        service: service.to_owned(),
        ..stamp.event(kind(happening), in_words(service, happening))
    };
    let of_drill = |of: &Drill, event: v1::Event| v1::Event {
        backend: of.backend.as_str().to_owned(),
        drill: Some(drill(of)),
        ..event
    };
    match happening {
        Steered::PlanChanged { plan, .. }
        | Steered::PlanProposed(plan)
        | Steered::PlanApproved(plan) => v1::Event {
            plan: wire(plan),
            ..event
        },
        Steered::DrainSet(_, drain) => v1::Event {
            actor: drain.actor.clone(),
            ..event
        },
        Steered::DrillStarted(drill) => v1::Event {
            actor: drill.actor.clone(),
            ..of_drill(drill, event)
        },
        Steered::DrillEnded(drill) => of_drill(drill, event),
        Steered::ShedStarted { .. } | Steered::ShedEnded | Steered::DrainEnded(..) => event,
    }
}

const fn kind(happening: &Steered) -> EventKind {
    match happening {
        Steered::PlanChanged { .. } => EventKind::PlanChanged,
        Steered::PlanProposed(_) => EventKind::PlanProposed,
        Steered::PlanApproved(_) => EventKind::PlanApproved,
        Steered::ShedStarted { .. } => EventKind::ShedStarted,
        Steered::ShedEnded => EventKind::ShedEnded,
        Steered::DrainSet(..) => EventKind::DrainSet,
        Steered::DrainEnded(..) => EventKind::DrainCleared,
        Steered::DrillStarted(_) => EventKind::DrillStarted,
        Steered::DrillEnded(_) => EventKind::DrillEnded,
    }
}
