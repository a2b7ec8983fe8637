//! Puts into force what is to be told, and starts and ends what tells it: a
//! thread for the log and one for the spans, so that neither a disk nor encoding
//! ever keeps a request or a decision waiting.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use fleet_config::{AccessLog, HostConfig, Tracing};
use tokio::{
    runtime::Builder,
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    config::host::SharedHost,
    fleet::drive::stopped,
    sight::{
        export::{Exporter, PACE, Pace, collector},
        setup::{Kept, Queues, Setup, Sight, queues},
        writer::Writer,
    },
};

/// For the last lines and spans, when the agent stops.
const CLOSING: Duration = Duration::from_secs(3);

/// How often the host in force is looked at, once it is.
const LOOK: Duration = Duration::from_secs(1);

/// What is being told, and by whom.
#[derive(Debug)]
pub(crate) struct Desk {
    sight: Sight,
    /// The agent's name.
    agent: String,
    pace: Pace,
    /// What is to be told: less is, if some of it cannot.
    told: (Option<AccessLog>, Option<Tracing>),
    log: Option<(AccessLog, Kept)>,
    tracing: Option<(Tracing, Kept)>,
    /// Threads; each drops its end when it is done.
    running: Vec<Receiver<()>>,
}

impl Desk {
    /// Nothing is told yet.
    pub(crate) fn new(sight: &Sight, agent: &str) -> Self {
        Self {
            sight: sight.clone(),
            agent: agent.to_owned(),
            pace: PACE,
            told: (None, None),
            log: None,
            tracing: None,
            running: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn with_pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// Tells what a host file says, if it says something new.
    pub(crate) fn follow(&mut self, host: &HostConfig) {
        if self.told != (host.access_log.clone(), host.tracing.clone()) {
            self.apply(host.access_log.as_ref(), host.tracing.as_ref());
        }
    }

    /// Tells this from the next request on. Requests that run are told as it was
    /// when they began. What cannot be told is logged and left out: traffic does not
    /// stop for it.
    pub(crate) fn apply(&mut self, log: Option<&AccessLog>, tracing: Option<&Tracing>) {
        self.told = (log.cloned(), tracing.cloned());
        self.running.retain(is_running);
        self.log = log.and_then(|log| self.log(log));
        self.tracing = tracing.and_then(|tracing| self.spans(tracing));
        let log = self.log.as_ref().map(|(_, kept)| kept.clone());
        let tracing = self.tracing.as_ref().map(|(_, kept)| kept.clone());
        self.sight.install(Setup { log, tracing });
    }

    /// The running thread, if it writes to the same place.
    fn log(&mut self, log: &AccessLog) -> Option<(AccessLog, Kept)> {
        let before = self
            .log
            .take()
            .filter(|(before, _)| before.file == log.file);
        let kept = match before {
            Some((_, kept)) => kept,
            None => {
                let writer = Writer::new(log.file.as_deref(), &self.sight);
                self.start("access-log", |queues| writer.run(queues))?
            }
        };
        let sample = log.sample;
        Some((log.clone(), Kept { sample, ..kept }))
    }

    /// The running thread, if it calls the same collector by the same name.
    fn spans(&mut self, tracing: &Tracing) -> Option<(Tracing, Kept)> {
        let before = self.tracing.take().filter(|(before, _)| {
            let sample = tracing.sample;
            Tracing {
                sample,
                ..before.clone()
            } == *tracing
        });
        let kept = match before {
            Some((_, kept)) => kept,
            None => {
                let collector = collector(tracing).map_err(|error| tracing::error!("{error}"));
                let exporter = Exporter {
                    collector: collector.ok()?,
                    service_name: tracing.service_name.clone(),
                    agent: self.agent.clone(),
                    sight: self.sight.clone(),
                    pace: self.pace,
                };
                self.start("spans", |queues| {
                    let runtime = Builder::new_current_thread().enable_all().build();
                    match runtime {
                        Ok(runtime) => runtime.block_on(exporter.run(queues)),
                        Err(error) => tracing::error!("spans cannot be exported: {error}"),
                    }
                })?
            }
        };
        let sample = tracing.sample;
        Some((tracing.clone(), Kept { sample, ..kept }))
    }

    /// Starts a thread at the other end of new queues; it ends when the last core
    /// has let go of them.
    fn start(&mut self, name: &str, work: impl FnOnce(Queues) + Send + 'static) -> Option<Kept> {
        let (queues, ends) = queues(self.sight.cores);
        let (running, thread) = sync_channel(0);
        let started = thread::Builder::new().name(name.to_owned()).spawn(move || {
            work(ends);
            drop::<SyncSender<()>>(running);
        });
        match started {
            Ok(_) => self.running.push(thread),
            Err(error) => {
                tracing::error!("{name} cannot run: {error}");
                return None;
            }
        }
        Some(Kept {
            sample: 0.0,
            queues: queues.into(),
        })
    }

    /// Writes and sends what there still is, but not for ever. To be called when
    /// the cores have ended.
    pub(crate) fn close(mut self) {
        self.apply(None, None);
        let until = Instant::now() + CLOSING;
        for thread in &self.running {
            let left = until.saturating_duration_since(Instant::now());
            if thread.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the last records of requests are lost");
            }
        }
    }
}

/// Tells what the host in force says, until stopped, and then to the end.
pub(crate) async fn run(mut desk: Desk, host: SharedHost, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => desk.follow(&host.load().config),
            () = stopped(&mut stop) => break,
        }
    }
    // Whether it panicked is all the same now.
    let _ = tokio::task::spawn_blocking(move || desk.close()).await;
}

fn is_running(thread: &Receiver<()>) -> bool {
    thread.try_recv() == Err(TryRecvError::Empty)
}
