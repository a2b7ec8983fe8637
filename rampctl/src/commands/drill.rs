//! Rehearsals, from the start to the report.

use std::time::Duration;

use rampmeter_api::v1::{
    Drill, DrillFault, DrillGuard, DrillState, Event, GetDrillRequest, GetDrillResponse,
    ListDrillsRequest, StartDrillRequest, StopDrillRequest, WatchEventsRequest,
    WatchEventsResponse,
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Streaming;

use super::{Io, user};
use crate::{
    cli::{Failover, Fault, Output, Why},
    client::Client,
    failure::Failure,
    view::{drills, events},
    words,
};

/// How often a drill that runs is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// For how long its control plane may be away before nobody waits any more.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn failover(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    args: Failover,
) -> Result<(), Failure> {
    let never: super::Interrupt = Box::pin(std::future::pending());
    // Listened to from here on, so that nothing is started that Ctrl-C only
    // leaves alone.
    let mut interrupted = tokio::spawn(std::mem::replace(&mut io.interrupt, never));
    let everything = WatchEventsRequest::default();
    let events = client.answer(client.fleet().watch_events(everything).await)?;
    let service = args.service.clone();
    let request = client.request(start_request(args)?);
    let answer = client.answer(client.operator().start_drill(request).await)?;
    let mut drill = answer.drill.unwrap_or_default();
    if output == Output::Table {
        io.print(&drills::started(&drill))?;
    }
    let mut following = Following {
        client,
        service,
        events: Some(events),
        answered: Instant::now(),
    };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = false;
    while drill.state() == DrillState::Running {
        tokio::select! {
            event = following.event() => if output == Output::Table {
                io.print(&events::line(&event, io.eye()))?;
            },
            _ = look.tick() => drill = following.look(drill).await?,
            _ = &mut interrupted, if !stopping => {
                stopping = true;
                writeln!(io.notes, "ending the drill")?;
                drill = following.stop(drill).await?;
            }
        }
    }
    interrupted.abort();
    let answer = GetDrillResponse { drill: Some(drill) };
    io.answer(output, &answer, |answer, eye| {
        format!("\n{}", drills::render(answer, eye))
    })?;
    match answer.drill.unwrap_or_default() {
        passed if passed.state() == DrillState::Passed => Ok(()),
        other => Err(Failure::NotPassed(drills::ending(&other))),
    }
}

fn start_request(args: Failover) -> Result<StartDrillRequest, Failure> {
    let fault = match (args.fault, args.delay) {
        (None | Some(Fault::Delay), Some(_)) | (Some(Fault::Delay), None) => DrillFault::Delay,
        (None | Some(Fault::Dead), None) => DrillFault::Dead,
        (Some(Fault::Error), None) => DrillFault::Error,
        (Some(Fault::Dead | Fault::Error), Some(_)) => {
            let message = "--delay says by how much requests are late: it goes with --fault delay";
            return Err(Failure::Refused(message.to_owned()));
        }
    };
    Ok(StartDrillRequest {
        backend: format!("{}/{}", args.service, args.region),
        fault: fault.into(),
        share: args.share,
        delay: args.delay.and_then(|delay| delay.try_into().ok()),
        pops: args.pops,
        duration: args.duration.try_into().ok(),
        guard: Some(DrillGuard {
            min_success_rate: args.min_success,
            max_latency_p99: args.max_p99.and_then(|p99| p99.try_into().ok()),
            grace: args.grace.try_into().ok(),
        }),
        success_rate: args.success,
        reason: args.why.reason,
        actor: args.why.actor.unwrap_or_else(user),
    })
}

/// A drill that somebody watches.
struct Following<'a> {
    client: &'a Client,
    service: String,
    /// `None` once the stream has ended: the drill goes on without its lines.
    events: Option<Streaming<WatchEventsResponse>>,
    /// When the control plane was last heard of.
    answered: Instant,
}

impl Following<'_> {
    /// The next event that is about the service. Cancel safe.
    async fn event(&mut self) -> Event {
        while let Some(stream) = &mut self.events {
            match stream.message().await {
                Ok(Some(message)) => match message.event {
                    Some(event) if is_about(&event, &self.service) => return event,
                    _ => {}
                },
                Ok(None) | Err(_) => self.events = None,
            }
        }
        std::future::pending().await
    }

    /// The drill as it is now; as it was while nobody can tell.
    async fn look(&mut self, drill: Drill) -> Result<Drill, Failure> {
        let request = self.client.request(GetDrillRequest {
            id: drill.id.clone(),
        });
        let answer = self.client.fleet().get_drill(request).await;
        match self.client.answer(answer) {
            Ok(answer) => {
                self.answered = Instant::now();
                Ok(answer.drill.unwrap_or(drill))
            }
            Err(failure @ Failure::NotFound(_)) => Err(failure),
            Err(_) if self.answered.elapsed() < PATIENCE => Ok(drill),
            Err(failure) => Err(left_alone(&drill, &failure)),
        }
    }

    /// Ends it. One that has just ended by itself is looked at again.
    async fn stop(&mut self, drill: Drill) -> Result<Drill, Failure> {
        let request = self.client.request(StopDrillRequest {
            id: drill.id.clone(),
            reason: "ended with Ctrl-C".to_owned(),
            actor: user(),
        });
        let answer = self.client.operator().stop_drill(request).await;
        match self.client.answer(answer) {
            Ok(answer) => Ok(answer.drill.unwrap_or(drill)),
            Err(Failure::Refused(_)) => self.look(drill).await,
            Err(failure) => Err(left_alone(&drill, &failure)),
        }
    }
}

fn left_alone(drill: &Drill, failure: &Failure) -> Failure {
    Failure::LeftAlone {
        until: words::clock(drill.end_time),
        why: failure.to_string(),
    }
}

/// About the service, or one of its backends.
fn is_about(event: &Event, service: &str) -> bool {
    let of_backend = event.backend.split('/').next() == Some(service);
    of_backend || event.service == service
}

pub(super) async fn list(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    service: Option<String>,
) -> Result<(), Failure> {
    let request = client.request(ListDrillsRequest {
        service: service.unwrap_or_default(),
    });
    let answer = client.answer(client.fleet().list_drills(request).await)?;
    io.answer(output, &answer, |answer, eye| {
        drills::table(&answer.drills).render(eye.colour)
    })
}

pub(super) async fn show(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    id: String,
) -> Result<(), Failure> {
    let request = client.request(GetDrillRequest { id });
    let answer = client.answer(client.fleet().get_drill(request).await)?;
    io.answer(output, &answer, drills::render)
}

pub(super) async fn stop(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    id: String,
    why: Why,
) -> Result<(), Failure> {
    let request = client.request(StopDrillRequest {
        id,
        reason: why.reason,
        actor: why.actor.unwrap_or_else(user),
    });
    let answer = client.answer(client.operator().stop_drill(request).await)?;
    let answer = GetDrillResponse {
        drill: answer.drill,
    };
    io.answer(output, &answer, drills::render)
}
