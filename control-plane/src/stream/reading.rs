//! The reading half: what an agent says, taken in and bounded.

use std::{collections::BTreeSet, fmt, sync::Arc};

use breaker_core::{BackendName, ids::ServiceName};
use rampmeter_api::{
    convert::words,
    v1::{self, connect_request::Message},
};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Status, Streaming};

use crate::{
    agents::{SILENCE, Session},
    config::Fleet,
    figures::Noted,
    plane::{Plane, TrialAnswer},
    services::status,
    wire::{Inbound, REPORT_LIMIT},
};

/// Unknown names of one agent that are logged by name.
const NAMED_IN_LOG: usize = 16;

/// Longest reason of a refused configuration that is kept.
const CONFIG_ERROR_LIMIT: usize = 2000;

/// Longest lease id: ours are UUIDs.
const LEASE_LIMIT: usize = 64;

/// How a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// The agent went away on purpose.
    Goodbye,
    /// The connection ended.
    Lost,
    /// It said nothing for too long.
    Silent,
    /// It said what it must not.
    Refused(Status),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goodbye => f.write_str("goodbye"),
            Self::Lost => f.write_str("connection ended"),
            Self::Silent => write!(f, "silent for {} s", SILENCE.as_secs()),
            Self::Refused(status) => write!(f, "refused: {}", status.message()),
        }
    }
}

struct Reader<'a> {
    plane: &'a Arc<Plane>,
    session: &'a Session,
    answers: mpsc::Sender<u64>,
    sequence: u64,
    /// Unknown names already logged, and whether a cut was.
    logged: BTreeSet<String>,
    cut_logged: bool,
}

/// Reads until the stream ends.
pub(super) async fn run(
    plane: &Arc<Plane>,
    session: &Session,
    mut inbound: Streaming<Inbound>,
    answers: mpsc::Sender<u64>,
) -> End {
    let mut reader = Reader {
        plane,
        session,
        answers,
        sequence: 0,
        logged: BTreeSet::new(),
        cut_logged: false,
    };
    loop {
        let message = match timeout(SILENCE, inbound.message()).await {
            Err(_) => return End::Silent,
            Ok(Err(status)) if status.code() == tonic::Code::InvalidArgument => {
                return End::Refused(status);
            }
            Ok(Err(_) | Ok(None)) => return End::Lost,
            Ok(Ok(Some(message))) => message,
        };
        session.hear(plane.clock.now());
        if let Some(end) = reader.take_in(message) {
            return end;
        }
    }
}

impl Reader<'_> {
    fn take_in(&mut self, inbound: Inbound) -> Option<End> {
        match inbound.message {
            Some(Message::Report(_)) if inbound.size > REPORT_LIMIT => {
                let size = inbound.size;
                let allowed = format!("a report has {size} bytes: allowed are {REPORT_LIMIT}");
                return Some(End::Refused(status::invalid("report", allowed)));
            }
            Some(Message::Report(report)) => self.report(&report),
            Some(Message::Acknowledge(ack)) => self.acknowledge(ack),
            Some(Message::TrialResult(result)) => self.trial(result),
            Some(Message::Heartbeat(beat)) => self.heartbeat(beat.nonce),
            Some(Message::Goodbye(_)) => return Some(End::Goodbye),
            Some(Message::Hello(_)) => {
                let again = "only the first message of a stream may be hello";
                return Some(End::Refused(status::invalid("hello", again)));
            }
            // A newer agent's message.
            None => {}
        }
        None
    }

    fn report(&mut self, report: &v1::Report) {
        let metrics = &self.plane.metrics;
        if report.sequence != 0 && report.sequence <= self.sequence {
            metrics.reports_repeated.add(1);
            return;
        }
        self.sequence = report.sequence;
        metrics.reports.add(1);
        let Some(fleet) = self.plane.fleet() else {
            return;
        };
        let who = &self.session.who;
        let known = |name: &BackendName| fleet.config.backend(name).is_some();
        let now = self.plane.clock.now();
        let figures = &self.plane.figures;
        let intake = figures.record(&who.agent, &who.pop, report, known, now);
        let has_quota = |name: &ServiceName| {
            let service = fleet.config.services.get(name);
            service.is_some_and(|s| s.throttle.is_some())
        };
        let quotas = figures.quotas.record(&who.agent, report, has_quota, now);
        let known = |name: &ServiceName| fleet.config.services.contains_key(name);
        let services = &figures.services;
        let taken = services.record(&who.agent, &who.pop, report, known, now);
        self.ask_others(&intake.overloaded, &fleet);
        if !intake.urgent.is_empty() {
            metrics.reports_urgent.add(1);
            self.plane.mailbox.urge(intake.urgent);
        }
        if let Some(assignment) = self.session.probes.borrow().clone() {
            let probes = &figures.probes;
            let news = probes.record(who, &report.probes, &assignment, &fleet.config, now);
            self.plane.mailbox.urge(news);
        }
        for (unknown, cut) in [(intake.unknown, intake.cut), (taken.unknown, taken.cut)] {
            metrics.unknown_backends.add(unknown.count);
            self.log_unknown(unknown.first);
            self.count_cuts(&cut);
        }
        self.count_cuts(&quotas);
    }

    /// Asks the other agents what they saw of backends that refuse requests.
    fn ask_others(&self, overloaded: &[BackendName], fleet: &Fleet) {
        let metered = |name: &&BackendName| {
            let policy = fleet.config.policy(name);
            policy.is_some_and(|policy| policy.overload_throttle)
        };
        let metered: Vec<_> = overloaded.iter().filter(metered).cloned().collect();
        if metered.is_empty() {
            return;
        }
        let due = self.plane.asked.due(&metered);
        if due.is_empty() {
            return;
        }
        for session in self.plane.agents.connected() {
            session.asking.put(&due);
        }
    }

    fn count_cuts(&mut self, cut: &Noted) {
        self.plane.metrics.figures_cut.add(cut.count);
        if cut.count > 0 && !std::mem::replace(&mut self.cut_logged, true) {
            tracing::warn!(
                agent = %self.session.who.agent, count = cut.count, first = %cut.first,
                "a report claims more than can be true; it is cut, and cuts are counted from here on"
            );
        }
    }

    fn log_unknown(&mut self, name: String) {
        if name.is_empty() || self.logged.len() >= NAMED_IN_LOG || self.logged.contains(&name) {
            return;
        }
        tracing::warn!(
            agent = %self.session.who.agent, %name,
            "a report names a backend or a service that is not in the configuration; the rest of \
             it is kept"
        );
        self.logged.insert(name);
    }

    fn acknowledge(&self, ack: v1::Acknowledge) {
        let mut told = self.session.told();
        if ack.decisions_sequence > told.acknowledged {
            // The snapshot tells of changes that are older than the stream.
            let snapshot = told.acknowledged == 0;
            let lag = self.plane.table.age(ack.decisions_sequence);
            if let Some(lag) = lag.filter(|_| !snapshot) {
                self.plane.metrics.convergence.observe(lag);
            }
            told.acknowledged = ack.decisions_sequence.min(told.sent);
        }
        told.config_revision = ack.config_revision;
        let error: String = ack.config_error.chars().take(CONFIG_ERROR_LIMIT).collect();
        if !error.is_empty() && error != told.config_error {
            let agent = &self.session.who.agent;
            tracing::warn!(%agent, %error, "an agent refuses the configuration");
        }
        told.config_error = error;
    }

    fn trial(&self, result: v1::TrialResult) {
        let backend = BackendName::parse(&result.backend).map_err(|e| e.to_string());
        let outcome = words::trial_outcome(result.outcome).map_err(|e| e.to_string());
        let agent = &self.session.who.agent;
        match (backend, outcome) {
            (Ok(backend), Ok(outcome)) if result.lease_id.len() <= LEASE_LIMIT => {
                let answer = TrialAnswer {
                    backend,
                    lease: result.lease_id,
                    outcome,
                };
                if !self.plane.mailbox.trial(answer) {
                    tracing::warn!(%agent, "too many trial results at once; one is dropped");
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%agent, %error, "a trial result cannot be read");
            }
            (Ok(_), Ok(_)) => tracing::warn!(%agent, "a trial result names no lease of ours"),
        }
    }

    /// Answers a heartbeat of the agent's own; an answer to ours is the round
    /// trip.
    fn heartbeat(&self, nonce: u64) {
        if !self.session.pong(nonce) && nonce < super::writing::OUR_NONCES {
            // Full: the answer before this one is still on its way.
            let _ = self.answers.try_send(nonce);
        }
    }
}
