//! The connection to one Redis, rebuilt whenever it stops being useful.
//!
//! The client library's own manager reconnects neither on `READONLY` (the
//! server was demoted) nor when answers stop coming (the server hangs, or a
//! firewall forgot us), and both are how failovers look from here. So one task
//! owns the connection: callers clone what it published last, never wait for
//! it, and report what they met. Each rebuild resolves the name again.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{check::check, scripts::Scripts, trouble::Trouble, url::Target};
use crate::store::{CALL_LIMIT, OpenError, StoreError};

/// To connect and greet: a healthy server takes a few round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// For one answer: ten times what a busy server takes, below [`CALL_LIMIT`].
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(250);

/// Time-outs in a row after which the connection, not the moment, is to blame.
const LATE_LIMIT: u32 = 2;

/// First pause between attempts to rebuild, doubled up to the last, jittered.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Reports of a broken connection that may wait: the first one decides.
const REPORTS_KEPT: usize = 8;

/// The link's state, as published to callers.
#[derive(Clone)]
enum State {
    /// Use this.
    Up(Built),
    /// It is being rebuilt; the error to give meanwhile.
    Down(StoreError),
}

#[derive(Clone)]
struct Built {
    connection: MultiplexedConnection,
    generation: u64,
    /// Time-outs in a row.
    late: Arc<AtomicU32>,
}

/// A connection was found broken.
struct Broken {
    generation: u64,
    why: String,
}

/// What the link tells its owner.
pub(super) trait Listener: Send + Sync + 'static {
    /// A new connection is up: anything may have happened since the last one.
    fn connected(&self);
    /// A message on one of our channels.
    fn message(&self, channel: &[u8], payload: &[u8]);
}

/// See the module.
pub(super) struct Link {
    shown: String,
    state: watch::Receiver<State>,
    broken: mpsc::Sender<Broken>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Tries once to connect. A Redis out of reach is waited for in the
    /// background; one that answers wrongly is an error.
    pub(super) async fn open(
        target: Target,
        pattern: &'static str,
        scripts: Arc<Scripts>,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, OpenError> {
        let client = Client::open(target.info.clone()).map_err(|error| OpenError::Url {
            url: target.shown.clone(),
            reason: error.to_string(),
        })?;
        let (broken, reports) = mpsc::channel(REPORTS_KEPT);
        let mut builder = Builder {
            client,
            shown: target.shown.clone(),
            pattern,
            scripts,
            listener,
            broken: broken.clone(),
            generation: 0,
        };
        let first = builder.build().await;
        if let Err(StoreError::Wrong(reason)) = &first {
            return Err(OpenError::Wrong {
                url: target.shown,
                reason: reason.clone(),
            });
        }
        if let Err(error) = &first {
            tracing::warn!(store = %target.shown, %error, "starting without the store, and trying on");
        }
        let first = first.map_err(|error| named(&target.shown, error));
        let (publish, state) = watch::channel(State::of(first));
        let task = tokio::spawn(builder.keep_up(publish, reports));
        Ok(Self {
            shown: target.shown,
            state,
            broken,
            task,
        })
    }

    /// Runs `call` on the connection, for at most [`CALL_LIMIT`].
    pub(super) async fn run<T, F>(
        &self,
        call: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let built = match &*self.state.borrow() {
            State::Up(built) => built.clone(),
            State::Down(error) => return Err(error.clone()),
        };
        let trouble = match timeout(CALL_LIMIT, call(built.connection.clone())).await {
            Ok(Ok(answer)) => {
                built.late.store(0, Relaxed);
                return Ok(answer);
            }
            Ok(Err(error)) => Trouble::of(&error),
            Err(_) => Trouble::Late,
        };
        Err(named(&self.shown, self.judge(&built, trouble)))
    }

    fn judge(&self, built: &Built, trouble: Trouble) -> StoreError {
        match trouble {
            Trouble::Link(why) => {
                self.report(built, &why);
                StoreError::Unavailable(why)
            }
            Trouble::Late => {
                let late = built.late.fetch_add(1, Relaxed) + 1;
                let why = format!("{late} calls in a row had no answer in time");
                if late >= LATE_LIMIT {
                    self.report(built, &why);
                }
                StoreError::Unavailable(why)
            }
            Trouble::Command(why) => StoreError::Unavailable(why),
            Trouble::Wrong(why) => StoreError::Wrong(why),
        }
    }

    fn report(&self, built: &Built, why: &str) {
        let generation = built.generation;
        let why = why.to_owned();
        // Full: enough others have reported it.
        let _ = self.broken.try_send(Broken { generation, why });
    }
}

impl State {
    fn of(built: Result<Built, StoreError>) -> Self {
        match built {
            Ok(built) => Self::Up(built),
            Err(error) => Self::Down(error),
        }
    }
}

struct Builder {
    client: Client,
    shown: String,
    pattern: &'static str,
    scripts: Arc<Scripts>,
    listener: Arc<dyn Listener>,
    broken: mpsc::Sender<Broken>,
    generation: u64,
}

impl Builder {
    /// Rebuilds whenever the newest connection is reported broken, for ever.
    async fn keep_up(mut self, state: watch::Sender<State>, mut reports: mpsc::Receiver<Broken>) {
        loop {
            let up = matches!(&*state.borrow(), State::Up(_));
            if up {
                let why = self.wait_until_broken(&mut reports).await;
                tracing::warn!(store = %self.shown, %why, "lost the store, reconnecting");
                let error = StoreError::Unavailable(why);
                state.send_replace(State::Down(named(&self.shown, error)));
            }
            let built = self.rebuild(&state).await;
            state.send_replace(State::Up(built));
            tracing::info!(store = %self.shown, "connected to the store");
            self.listener.connected();
        }
    }

    async fn wait_until_broken(&self, reports: &mut mpsc::Receiver<Broken>) -> String {
        loop {
            match reports.recv().await {
                Some(report) if report.generation == self.generation => return report.why,
                Some(_) => {}
                // Not while we hold a sender ourselves.
                None => std::future::pending().await,
            }
        }
    }

    /// Tries until it is up, saying why not each time the reason changes.
    async fn rebuild(&mut self, state: &watch::Sender<State>) -> Built {
        let mut pause = PAUSES.0;
        let mut said = None;
        loop {
            match self.build().await {
                Ok(built) => return built,
                Err(error) => {
                    if said.as_ref() != Some(&error) {
                        self.tell(&error);
                        said = Some(error.clone());
                    }
                    state.send_replace(State::Down(named(&self.shown, error)));
                }
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn tell(&self, error: &StoreError) {
        let store = &self.shown;
        match error {
            StoreError::Wrong(_) => tracing::error!(%store, %error, "cannot use the store"),
            _ => tracing::warn!(%store, %error, "cannot reach the store"),
        }
    }

    async fn build(&mut self) -> Result<Built, StoreError> {
        self.generation += 1;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_push_sender(self.pushes());
        let connect = async {
            let mut connection = self
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            connection.psubscribe(self.pattern).await?;
            for script in self.scripts.all() {
                script.load_async(&mut connection).await?;
            }
            Ok(connection)
        };
        let mut connection = connect.await.map_err(explain)?;
        check(&mut connection, &self.shown).await?;
        Ok(Built {
            connection,
            generation: self.generation,
            late: Arc::default(),
        })
    }

    /// Takes what the server pushes. Must not block: it runs in the connection.
    fn pushes(&self) -> impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static {
        let (listener, broken) = (self.listener.clone(), self.broken.clone());
        let generation = self.generation;
        move |push| {
            match push.kind {
                PushKind::PMessage => {
                    if let [_, Value::BulkString(channel), Value::BulkString(payload)] =
                        &push.data[..]
                    {
                        listener.message(channel, payload);
                    }
                }
                PushKind::Disconnection => {
                    let why = "the connection was closed".to_owned();
                    let _ = broken.try_send(Broken { generation, why });
                }
                _ => {}
            }
            Ok(())
        }
    }
}

fn explain(error: RedisError) -> StoreError {
    match Trouble::of(&error) {
        Trouble::Wrong(why) => StoreError::Wrong(why),
        Trouble::Link(why) | Trouble::Command(why) => StoreError::Unavailable(why),
        Trouble::Late => StoreError::Unavailable("no answer in time".to_owned()),
    }
}

/// Says which store it is.
fn named(shown: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(format!("{shown}: {why}")),
        StoreError::Wrong(why) => StoreError::Wrong(format!("store {shown}: {why}")),
        other @ (StoreError::Repairing | StoreError::Corrupt(_)) => other,
    }
}

/// Between half of it and all of it, so that replicas do not return in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8);
    pause.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}
