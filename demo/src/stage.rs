//! The stage: the fleet with its traffic, and what can be seen of it from
//! outside, over the same gRPC services that grpcurl uses.

use std::time::{Duration, Instant};

use anyhow::Context;
use rampmeter_api::v1::{
    self, Backend, BreakerState, Event, EventKind, fleet_service_client::FleetServiceClient,
};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::{
    backend::ScriptedBackend,
    fleet::Fleet,
    load::{Running, Tally},
    patience::{PATIENCE, POLL},
    scene::{self, Backends, PAYMENTS_RATE, SEARCH_RATE},
    view::{View, bar, human},
};

/// Between two pictures.
const FRAME: Duration = Duration::from_millis(100);

/// Events waiting to be told: the story has a few dozen.
const EVENTS_WAITING: usize = 1024;

const SECOND: Duration = Duration::from_secs(1);

/// Everything that plays, and the view of it.
pub struct Stage {
    /// Where it is told.
    pub view: View,
    /// The scripted backends.
    pub backends: Backends,
    /// Control plane and agents.
    pub fleet: Fleet,
    /// Traffic for payments.
    pub payments: Running,
    /// Traffic for search.
    pub search: Running,
    /// Events so far, oldest first, and when each was heard.
    pub events: Vec<(Instant, Event)>,
    api: FleetServiceClient<Channel>,
    heard: mpsc::Receiver<Event>,
    drawn: Instant,
}

impl Stage {
    /// Starts everything and waits until every agent is ready.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn set(mut view: View) -> anyhow::Result<Self> {
        let backends = Backends::start().await?;
        let fleet = Fleet::start(&backends.fleet_file()).await?;
        let endpoint = Endpoint::from_shared(format!("http://{}", fleet.control_plane))?;
        let api = FleetServiceClient::new(
            endpoint
                .connect()
                .await
                .context("the control plane is not there")?,
        );
        let heard = listen(api.clone()).await?;
        view.tell(format!(
            "a control plane, {} agents in {} POPs, three backends: all on this machine, over real sockets",
            fleet.agents.iter().count(),
            scene::POPS.len(),
        ));
        let addresses = fleet.agents.addresses();
        Ok(Self {
            view,
            payments: scene::load(&addresses, "payments", PAYMENTS_RATE, 1).start(),
            search: scene::load(&addresses, "search", SEARCH_RATE, 2).start(),
            backends,
            fleet,
            events: Vec::new(),
            api,
            heard,
            drawn: Instant::now() - FRAME,
        })
    }

    /// Plays on until `holds`.
    ///
    /// # Errors
    /// It does not, in [`PATIENCE`].
    pub async fn until(
        &mut self,
        what: &str,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Ok(event) = self.heard.try_recv() {
                self.hear(event);
            }
            if self.drawn.elapsed() >= FRAME {
                self.drawn = Instant::now();
                self.draw().await?;
            }
            if holds(self) {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "waited {PATIENCE:?} in vain for {what}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// When the victim's breaker first reached this state after `start`.
    pub fn reached(&self, state: BreakerState, start: Instant) -> Option<Instant> {
        let mut moves = self
            .events
            .iter()
            .filter(|(at, event)| *at >= start && event.kind() == EventKind::Transition);
        moves
            .find(|(_, event)| event.to_state() == state)
            .map(|(at, _)| *at)
    }

    /// When something of this kind first happened after `start`.
    pub fn happened(&self, kind: EventKind, start: Instant) -> Option<Instant> {
        let mut events = self.events.iter().filter(|(at, _)| *at >= start);
        events
            .find(|(_, event)| event.kind() == kind)
            .map(|(at, _)| *at)
    }

    fn hear(&mut self, event: Event) {
        let at = Instant::now();
        if event.backend == scene::VICTIM {
            self.view.tell_at(at, line(&event));
            self.events.push((at, event));
        }
    }

    async fn draw(&mut self) -> anyhow::Result<()> {
        let request = v1::ListBackendsRequest::default();
        let backends = self.api.list_backends(request).await?.into_inner().backends;
        let lately = Instant::now() - SECOND;
        let records = [self.payments.lately(lately), self.search.lately(lately)].concat();
        let tally = Tally::of(&records);
        let mut refusals: Vec<_> = records
            .iter()
            .filter(|r| r.is_refused())
            .map(|r| r.latency)
            .collect();
        refusals.sort();
        let clients = format!(
            "served {:>4}/s   refused {:>4}/s   failed {:>4}/s",
            tally.served, tally.refused, tally.failed
        );
        let waited = refusals
            .get(refusals.len() / 2)
            .map_or(String::new(), |wait| {
                format!("   a refusal takes {}", human(*wait))
            });
        let rows: Vec<_> = backends.iter().map(|backend| self.row(backend)).collect();
        let mut lines = vec![String::new()];
        lines.extend(rows.iter().map(|row| format!("  {}", row.long)));
        lines.push(format!("  {:<18} {clients}{waited}", "clients"));
        let short = || {
            let rows: Vec<_> = rows.iter().map(|row| row.short.clone()).collect();
            format!(
                "{} | clients: {} served, {} refused, {} failed",
                rows.join(" | "),
                tally.served,
                tally.refused,
                tally.failed
            )
        };
        self.view.status(&lines, short);
        Ok(())
    }

    fn row(&self, backend: &Backend) -> Row {
        let state = backend
            .state()
            .as_str_name()
            .trim_start_matches("BREAKER_STATE_")
            .to_owned();
        let rate = self.scripted(&backend.name).map_or(0, |scripted| {
            scripted
                .receipts()
                .between(Instant::now() - SECOND, Instant::now())
        });
        let percent = backend.admission() * 100.0;
        let shown = bar(backend.admission());
        Row {
            long: format!(
                "{:<18} {state:<10} {shown} {percent:>4.0} %   {rate:>4} req/s",
                backend.name
            ),
            short: format!("{} {state} {percent:.0} % {rate}/s", backend.name),
        }
    }

    fn scripted(&self, name: &str) -> Option<&ScriptedBackend> {
        let Backends { east, west, search } = &self.backends;
        [east, west, search]
            .into_iter()
            .find(|backend| backend.name() == name)
    }
}

struct Row {
    long: String,
    short: String,
}

/// Passes events on as they happen.
async fn listen(mut api: FleetServiceClient<Channel>) -> anyhow::Result<mpsc::Receiver<Event>> {
    let mut stream = api
        .watch_events(v1::WatchEventsRequest::default())
        .await?
        .into_inner();
    let (sender, heard) = mpsc::channel(EVENTS_WAITING);
    tokio::spawn(async move {
        while let Ok(Some(message)) = stream.message().await {
            let Some(event) = message.event else { continue };
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    Ok(heard)
}

/// One line of the timeline.
fn line(event: &Event) -> String {
    let state = |state: BreakerState| {
        state
            .as_str_name()
            .trim_start_matches("BREAKER_STATE_")
            .to_owned()
    };
    match event.kind() {
        EventKind::Transition => {
            format!(
                "{} → {}: {}",
                state(event.from_state()),
                state(event.to_state()),
                event.summary
            )
        }
        _ => event.summary.clone(),
    }
}
