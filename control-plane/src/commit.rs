//! Decide, then persist, then tell. A transition that the store did not accept
//! was never made.

use breaker_core::{
    BackendName, Breaker, BreakerPolicy, Steering, Timestamp, Version,
    breaker::{Input, Step},
    ids::ServiceName,
    steering::{SteeringInput, SteeringSettings, SteeringStep},
};
use bytes::Bytes;

use crate::{
    events::{self, Caller},
    plane::Plane,
    store::{BackendState, Commit, Record, ServiceState, StoreError},
};

/// How often a decision is made anew when another replica was faster. Each loss
/// means that somebody else made progress.
pub const ATTEMPTS: usize = 4;

/// A backend's record, as last heard from the store.
#[derive(Debug, Clone)]
pub struct Known {
    /// The backend.
    pub name: BackendName,
    /// What the next commit has to expect.
    pub version: Option<Version>,
    /// The breaker: one that was always closed if there is no record.
    pub breaker: Breaker,
    /// What brought it where it is; may be empty.
    pub last_transition: Bytes,
    epoch: u64,
}

/// A service's record, as last heard from the store.
#[derive(Debug, Clone)]
pub struct KnownService {
    /// The service.
    pub name: ServiceName,
    /// What the next commit has to expect.
    pub version: Option<Version>,
    /// The record: an empty one if there is none.
    pub steering: Steering,
    epoch: u64,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Attempt<S = Step> {
    /// There was nothing to commit.
    Unchanged(S),
    /// It is committed and published.
    Done(S),
    /// Another replica was faster: decide again.
    Lost,
}

impl Known {
    /// From the store's answer.
    pub fn of(state: BackendState) -> Self {
        let mut known = Self {
            name: state.name,
            version: state.version,
            breaker: Breaker::new(state.epoch, Timestamp::default()),
            last_transition: Bytes::new(),
            epoch: state.epoch,
        };
        known.take(state.record);
        known
    }

    fn take(&mut self, record: Option<Record>) {
        match record {
            Some(record) => {
                self.breaker = record.breaker;
                self.last_transition = record.last_transition;
            }
            None => {
                // Closed since ever: evidence of any age counts.
                self.breaker = Breaker::new(self.epoch, Timestamp::default());
                self.last_transition = Bytes::new();
            }
        }
    }

    /// Shows the record to agents and readers.
    pub fn publish(&self, plane: &Plane, policy: &BreakerPolicy) {
        // First the board: the table wakes those who watch it, and they look there.
        plane
            .board
            .show_breaker(&self.name, &self.breaker, &self.last_transition);
        plane.table.publish(&self.name, &self.breaker, policy);
    }

    /// Decides once; commits and publishes what changed.
    pub async fn attempt(
        &mut self,
        plane: &Plane,
        policy: &BreakerPolicy,
        input: Input<'_>,
        now: Timestamp,
    ) -> Result<Attempt, StoreError> {
        self.attempt_by(plane, policy, input, now, None).await
    }

    /// As [`attempt`](Self::attempt), for an operator.
    pub async fn attempt_by(
        &mut self,
        plane: &Plane,
        policy: &BreakerPolicy,
        input: Input<'_>,
        now: Timestamp,
        caller: Option<&Caller>,
    ) -> Result<Attempt, StoreError> {
        let step = self.breaker.step(input, policy, now);
        let Some(next) = step.next.clone() else {
            return Ok(Attempt::Unchanged(step));
        };
        let (news, transition) =
            events::of_step(plane, &self.name, &next, &step.happenings, caller);
        let record = Record {
            breaker: next,
            last_transition: transition.unwrap_or_else(|| self.last_transition.clone()),
        };
        let commit = plane
            .store
            .commit(self.name.clone(), self.version, record.clone(), news);
        match plane.ask("commit", commit).await? {
            Commit::Done(version) => {
                self.version = Some(version);
                self.take(Some(record));
                self.breaker.version = version;
                self.publish(plane, policy);
                events::tell(plane, &self.name, version, &step.happenings);
                Ok(Attempt::Done(step))
            }
            Commit::Lost(other) => {
                plane.metrics.commits_lost.add(1);
                self.version = other.as_ref().map(|o| o.breaker.version);
                self.take(other.map(|o| *o));
                self.publish(plane, policy);
                Ok(Attempt::Lost)
            }
        }
    }
}

impl KnownService {
    /// From the store's answer.
    pub fn of(state: ServiceState) -> Self {
        let mut known = Self {
            name: state.name,
            version: state.version,
            steering: Steering::default(),
            epoch: state.epoch,
        };
        known.take(state.record);
        known
    }

    fn take(&mut self, record: Option<Steering>) {
        self.steering = record.unwrap_or_else(|| Steering {
            version: Version {
                epoch: self.epoch,
                revision: 0,
            },
            ..Steering::default()
        });
    }

    /// Shows the record to agents and readers.
    pub fn publish(&self, plane: &Plane) {
        plane.board.services.show(&self.name, &self.steering);
        plane.table.publish_service(&self.name, &self.steering);
    }

    /// Decides once; commits and publishes what changed. `caller`: the operator
    /// who asks for it.
    pub async fn attempt(
        &mut self,
        plane: &Plane,
        settings: &SteeringSettings,
        input: SteeringInput<'_>,
        now: Timestamp,
        caller: Option<&Caller>,
    ) -> Result<Attempt<SteeringStep>, StoreError> {
        let step = self.steering.step(input, settings, now);
        let Some(next) = step.next.clone() else {
            return Ok(Attempt::Unchanged(step));
        };
        let news = events::of_steering(plane, &self.name, &next, &step.happenings, caller);
        let name = self.name.clone();
        let commit = plane
            .store
            .commit_service(name, self.version, next.clone(), news);
        match plane.ask("commit_service", commit).await? {
            Commit::Done(version) => {
                self.version = Some(version);
                self.take(Some(Steering { version, ..next }));
                self.publish(plane);
                events::tell_steering(plane, &self.name, version, &step.happenings);
                Ok(Attempt::Done(step))
            }
            Commit::Lost(other) => {
                plane.metrics.commits_lost.add(1);
                self.version = other.as_ref().map(|other| other.version);
                self.take(other.map(|other| *other));
                self.publish(plane);
                Ok(Attempt::Lost)
            }
        }
    }
}
