//! The writing half: what changed since it last wrote. It wakes on changes, looks
//! at the state, and writes the difference; it never queues.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use rampmeter_api::{
    convert::duration,
    v1::{self, connect_response::Message},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{HEARTBEAT, hello::Accepted};
use crate::{
    agents::{Grant, Session},
    clock::jitter,
    config::Fleet,
    plane::{Plane, until_set},
    probes::Assignment,
    wire::Outbound,
};

/// Numbers of our heartbeats start here, so that an agent's own never look like
/// answers to ours.
pub(super) const OUR_NONCES: u64 = 1 << 63;

/// Agents report this often in calm times.
const CALM_REPORTS: Duration = Duration::from_secs(1);

/// And this often when something is wrong.
const HOT_REPORTS: Duration = Duration::from_millis(100);

/// Decisions not heard of for this long are stale to an agent (decisions.md §8).
const VALID_FOR: Duration = Duration::from_secs(30);

/// Agents sent away come back over this span.
const COME_BACK_WITHIN: Duration = Duration::from_secs(2);

/// The other end is gone.
struct Gone;

struct Writer<'a> {
    plane: &'a Arc<Plane>,
    session: Arc<Session>,
    outbound: &'a mpsc::Sender<Outbound>,
    /// Sequence of the decisions sent; `None` before the snapshot.
    sent: Option<u64>,
    config_sent: u64,
    nonce: u64,
}

/// Writes until the stream ends.
pub(super) async fn run(
    plane: &Arc<Plane>,
    accepted: Accepted,
    outbound: &mpsc::Sender<Outbound>,
    answers: mpsc::Receiver<u64>,
) {
    let mut writer = Writer {
        plane,
        // Sent again whatever the agent holds: a store that was lost counts
        // its revisions anew, so equal numbers may be different files.
        config_sent: 0,
        session: accepted.session,
        outbound,
        sent: None,
        nonce: OUR_NONCES,
    };
    // Gone: the reading half tells why.
    let _ = writer.run(accepted.granted, answers).await;
}

impl Writer<'_> {
    async fn run(
        &mut self,
        mut granted: mpsc::Receiver<Grant>,
        mut answers: mpsc::Receiver<u64>,
    ) -> Result<(), Gone> {
        let session = self.session.clone();
        let mut table = self.plane.table.watch();
        let mut fleet = self.plane.fleet.subscribe();
        let mut settled = self.plane.settled.subscribe();
        let mut dismissed = self.session.dismissed.subscribe();
        let mut probes = self.session.probes.subscribe();
        // It may have been set before this began.
        probes.mark_changed();
        let mut beats = heartbeats();
        self.send(Message::Welcome(self.welcome())).await?;
        loop {
            if self.say_goodbye(&dismissed).await? {
                return Ok(());
            }
            self.send_config(&mut fleet).await?;
            if *settled.borrow_and_update() && self.plane.fleet.borrow().is_some() {
                table.mark_unchanged();
                self.send_decisions().await?;
            }
            tokio::select! {
                // The senders live in the plane and the session: no errors.
                _ = table.changed() => {}
                _ = fleet.changed() => {}
                _ = settled.changed() => {}
                _ = dismissed.changed() => {}
                _ = probes.changed() => self.send_probes(&mut probes).await?,
                Some(grant) = granted.recv() => self.send_grant(&grant).await?,
                () = session.quotas.filled() => self.send_quotas().await?,
                () = session.asking.filled() => self.ask().await?,
                Some(nonce) = answers.recv() => {
                    self.send(Message::Heartbeat(v1::Heartbeat { nonce })).await?;
                }
                _ = beats.tick() => self.beat().await?,
                () = until_set(&self.plane.ending) => {
                    return self.go_away("this replica shuts down").await;
                }
                () = self.outbound.closed() => return Err(Gone),
            }
        }
    }

    fn welcome(&self) -> v1::Welcome {
        v1::Welcome {
            replica: self.plane.name.as_str().to_owned(),
            calm_interval: Some(duration(CALM_REPORTS)),
            hot_interval: Some(duration(HOT_REPORTS)),
            valid_for: Some(duration(VALID_FOR)),
        }
    }

    async fn say_goodbye(&self, dismissed: &watch::Receiver<String>) -> Result<bool, Gone> {
        let reason = dismissed.borrow().clone();
        if reason.is_empty() {
            return Ok(false);
        }
        self.go_away(&reason).await?;
        Ok(true)
    }

    async fn send_config(
        &mut self,
        fleet: &mut watch::Receiver<Option<Arc<Fleet>>>,
    ) -> Result<(), Gone> {
        let current = fleet.borrow_and_update().clone();
        let Some(current) = current else {
            return Ok(());
        };
        if !current.config.pops.contains_key(&self.session.who.pop) {
            let pop = &self.session.who.pop;
            self.session
                .dismiss(&format!("POP {pop} is no longer in the configuration"));
        }
        if current.revision == self.config_sent {
            return Ok(());
        }
        self.config_sent = current.revision;
        let config = v1::Config {
            revision: current.revision,
            yaml: current.yaml.clone(),
        };
        self.send(Message::Config(config)).await
    }

    async fn send_decisions(&mut self) -> Result<(), Gone> {
        // The place in the connection first, so that what is encoded is fresh.
        let Ok(place) = self.outbound.reserve().await else {
            return Err(Gone);
        };
        let frame = self.plane.table.frame(self.sent, self.plane.clock.now());
        if let Some((frame, sequence)) = frame {
            self.sent = Some(sequence);
            self.session.told().sent = sequence;
            place.send(Ok(frame));
        }
        Ok(())
    }

    async fn send_grant(&self, grant: &Grant) -> Result<(), Gone> {
        // The place first, as above: the lease runs while we wait for it.
        let place = self.outbound.reserve().await.map_err(|_| Gone)?;
        if let Some(grant) = grant.wire(self.plane.clock.now()) {
            place.send(Ok(encoded(Message::TrialGrant(grant))));
        }
        Ok(())
    }

    async fn send_quotas(&self) -> Result<(), Gone> {
        // The place first, as above; what comes meanwhile replaces what waits.
        let place = self.outbound.reserve().await.map_err(|_| Gone)?;
        if let Some(grant) = self.session.quotas.take(self.plane.clock.now()) {
            place.send(Ok(encoded(Message::QuotaGrant(grant))));
        }
        Ok(())
    }

    async fn ask(&self) -> Result<(), Gone> {
        let place = self.outbound.reserve().await.map_err(|_| Gone)?;
        if let Some(ask) = self.session.asking.take() {
            place.send(Ok(encoded(Message::ReportNow(ask))));
        }
        Ok(())
    }

    async fn send_probes(
        &self,
        probes: &mut watch::Receiver<Option<Arc<Assignment>>>,
    ) -> Result<(), Gone> {
        let assignment = probes.borrow_and_update().clone();
        match assignment {
            Some(assignment) => self.send(Message::ProbeAssignment(assignment.wire())).await,
            None => Ok(()),
        }
    }

    async fn beat(&mut self) -> Result<(), Gone> {
        self.nonce += 1;
        self.session.ping(self.nonce);
        self.send(Message::Heartbeat(v1::Heartbeat { nonce: self.nonce }))
            .await
    }

    async fn go_away(&self, reason: &str) -> Result<(), Gone> {
        self.send(Message::GoAway(v1::GoAway {
            reason: reason.to_owned(),
            retry_in: Some(duration(COME_BACK_WITHIN.mul_f64(jitter()))),
        }))
        .await
    }

    async fn send(&self, message: Message) -> Result<(), Gone> {
        let frame = encoded(message);
        self.outbound.send(Ok(frame)).await.map_err(|_| Gone)
    }
}

fn encoded(message: Message) -> Bytes {
    let response = v1::ConnectResponse {
        message: Some(message),
    };
    Bytes::from(response.encode_to_vec())
}

fn heartbeats() -> Interval {
    let mut beats = interval(HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}
