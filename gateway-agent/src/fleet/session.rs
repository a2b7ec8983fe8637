//! One stream to the control plane, from Welcome to its end: what comes down is
//! done, heartbeats go up. Reports go up from the control side, over the same
//! bounded queue.

use std::time::Duration;

use rampmeter_api::{
    convert::duration_up_to,
    v1::{self, connect_request::Message as Up, connect_response::Message as Down},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tonic::Streaming;

use crate::{
    clock::unix_ms,
    config::configuration::{ConfigSource, FleetText},
    dice::random,
    fleet::{
        drive::{Shared, stopped},
        link::{CALM, Connected, HOT, Link, wrap},
        stream::{End, ended_by, go_away},
    },
};

/// Heartbeats go up this often, and something comes down at least as often.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Heartbeats missed until the stream is given up.
const MISSED: u32 = 3;

/// For the last messages of an agent that stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// A stream that was welcomed.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    control: &'a Shared,
    up: mpsc::Sender<v1::ConnectRequest>,
    pulse: Pulse,
    /// Of the newest decisions applied.
    decisions_sequence: u64,
}

/// The control plane does not read what we send.
struct Deaf;

impl<'a> Session<'a> {
    /// Welcome came.
    pub(crate) fn begin(
        control: &'a Shared,
        address: &str,
        welcome: &v1::Welcome,
        up: mpsc::Sender<v1::ConnectRequest>,
    ) -> Self {
        let interval = |field, given: &Option<prost_types::Duration>, default| {
            let given = duration_up_to(field, given.as_ref(), Duration::from_secs(60));
            let given = given.ok().filter(|given| !given.is_zero());
            given.unwrap_or(default)
        };
        let calm = interval("calm_interval", &welcome.calm_interval, CALM);
        let hot = interval("hot_interval", &welcome.hot_interval, HOT);
        let connected = Connected {
            address: address.to_owned(),
            replica: welcome.replica.clone(),
            since_unix_ms: unix_ms(),
        };
        tracing::info!(
            address,
            replica = welcome.replica,
            "connected to the control plane"
        );
        let link = Link::new(up.clone(), calm, hot);
        control.lock().welcome(welcome, link, connected);
        Self {
            control,
            up,
            pulse: Pulse::new(),
            decisions_sequence: 0,
        }
    }

    /// Until it ends, or we stop.
    pub(crate) async fn run(
        mut self,
        mut down: Streaming<v1::ConnectResponse>,
        stop: &mut watch::Receiver<bool>,
    ) -> End {
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = down.message() => match message {
                    Ok(Some(message)) => {
                        if let Some(end) = self.take(message).await {
                            return end;
                        }
                    }
                    Ok(None) => return End::Lost("the control plane ended the stream".to_owned()),
                    Err(status) => return ended_by(status),
                },
                _ = beat.tick() => {
                    if self.pulse.heard.elapsed() > HEARTBEAT * MISSED {
                        return End::Lost(format!("nothing was heard for {MISSED} heartbeats"));
                    }
                    let beat = self.pulse.next();
                    if let Err(Deaf) = self.say(Up::Heartbeat(beat)) {
                        return deaf();
                    }
                }
                () = stopped(stop) => {
                    self.farewell(down).await;
                    return End::Stopped;
                }
            }
        }
    }

    /// Queues a message. A queue that is full holds seconds of messages.
    fn say(&self, message: Up) -> Result<(), Deaf> {
        self.up.try_send(wrap(message)).map_err(|_| Deaf)
    }

    /// Does what a message says. Returns why the stream must end, if it must.
    async fn take(&mut self, message: v1::ConnectResponse) -> Option<End> {
        self.pulse.heard = Instant::now();
        // A message of a newer control plane that we do not know is no error.
        let said = match message.message? {
            Down::Welcome(_) => Ok(()),
            Down::Decisions(decisions) => self.decide(&decisions),
            Down::Config(config) => self.configure(config).await,
            Down::TrialGrant(grant) => {
                let mut control = self.control.lock();
                let now = control.clock.now();
                control.grant(&grant, now);
                Ok(())
            }
            Down::Heartbeat(beat) if self.pulse.is_mine(beat.nonce) => Ok(()),
            Down::Heartbeat(beat) => self.say(Up::Heartbeat(beat)),
            Down::QuotaGrant(grant) => {
                let mut control = self.control.lock();
                let now = control.clock.now();
                control.lend(&grant, now);
                Ok(())
            }
            Down::ReportNow(ask) => {
                let mut control = self.control.lock();
                let now = control.clock.now();
                control.report_now(&ask, now);
                Ok(())
            }
            Down::ProbeAssignment(assignment) => {
                self.control.lock().probing.assign(&assignment);
                Ok(())
            }
            Down::GoAway(go) => return Some(go_away(&go)),
        };
        let mut control = self.control.lock();
        let now = control.clock.now();
        control.heard(now);
        said.is_err().then(deaf)
    }

    fn decide(&mut self, decisions: &v1::Decisions) -> Result<(), Deaf> {
        {
            let mut control = self.control.lock();
            let now = control.clock.now();
            control.apply(decisions, now);
        }
        self.decisions_sequence = self.decisions_sequence.max(decisions.sequence);
        self.acknowledge(String::new())
    }

    async fn configure(&mut self, config: v1::Config) -> Result<(), Deaf> {
        let revision = config.revision;
        if self.control.lock().keeps(&config) {
            return self.acknowledge(String::new());
        }
        // A large fleet file takes a while to read; reports must go on.
        let read = move || FleetText::read(config.revision, config.yaml);
        let installed = match tokio::task::spawn_blocking(read).await {
            Err(error) => Err(format!("cannot be read: {error}")),
            Ok(text) => {
                let mut control = self.control.lock();
                let now = control.clock.now();
                control.install_text(ConfigSource::ControlPlane, text, now)
            }
        };
        if let Err(error) = &installed {
            tracing::error!(
                revision,
                "configuration refused, the one before stays in force: {error}"
            );
        }
        self.acknowledge(installed.err().unwrap_or_default())
    }

    fn acknowledge(&self, config_error: String) -> Result<(), Deaf> {
        let config_revision = self.control.lock().config_revision();
        self.say(Up::Acknowledge(v1::Acknowledge {
            decisions_sequence: self.decisions_sequence,
            config_revision,
            config_error,
        }))
    }

    /// The last report, goodbye, and time for both to arrive.
    async fn farewell(self, mut down: Streaming<v1::ConnectResponse>) {
        {
            let mut control = self.control.lock();
            let now = control.clock.now();
            control.turn(now);
            control.disconnected(None);
        }
        let goodbye = v1::Goodbye {
            reason: "stopping".to_owned(),
        };
        // Full or gone: then nobody hears it.
        let _ = self.say(Up::Goodbye(goodbye));
        drop(self.up);
        let rest = async { while let Ok(Some(_)) = down.message().await {} };
        let _ = timeout(FAREWELL, rest).await;
    }
}

fn deaf() -> End {
    End::Lost("the control plane does not read".to_owned())
}

/// Heartbeats of one stream.
#[derive(Debug)]
struct Pulse {
    /// When anything last came.
    heard: Instant,
    /// Numbers of ours: from the first to the next.
    first: u64,
    next: u64,
}

impl Pulse {
    fn new() -> Self {
        // Somewhere below the middle: numbers of the control plane's own that
        // come by chance are then told from answers to ours.
        let first = random() >> 1;
        Self {
            heard: Instant::now(),
            first,
            next: first,
        }
    }

    fn next(&mut self) -> v1::Heartbeat {
        let nonce = self.next;
        self.next += 1;
        v1::Heartbeat { nonce }
    }

    /// An answer to one of ours, and not to be answered again.
    fn is_mine(&self, nonce: u64) -> bool {
        (self.first..self.next).contains(&nonce)
    }
}
