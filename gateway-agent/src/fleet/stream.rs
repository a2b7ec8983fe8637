//! Reaching the control plane: who is called, and when again. What is then said
//! is in `session.rs`.

use std::{net::SocketAddr, time::Duration};

use rampmeter_api::v1::{
    self, agent_service_client::AgentServiceClient, connect_request::Message as Up,
    connect_response::Message as Down,
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Endpoint};
use tonic_types::StatusExt;

use crate::{
    dice::uniform,
    fleet::{
        drive::{Shared, stopped},
        link::{QUEUE, wrap},
        session::Session,
    },
};

/// For connecting, and then for Welcome: a control plane that accepts and never
/// answers is as good as none.
const PATIENCE: Duration = Duration::from_secs(3);

/// HTTP/2 keepalive: ping after this long, give up after that.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));

/// Reconnects: full jitter under a bound that doubles from the one to the other.
/// A control plane that returns hears its agents for a second before it believes
/// an empty store, and the fleet agrees again within two.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// After an answer that another attempt will not change, such as a duplicate name.
const SLOWLY: Duration = Duration::from_secs(5);

/// Longest wait that a control plane can ask for.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Largest message from the control plane: the largest fleet file, and some.
const MAX_MESSAGE_BYTES: usize = fleet_config::MAX_FILE_BYTES + (4 << 20);

/// Where a control plane is.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    address: String,
    endpoint: Endpoint,
}

impl ControlPlane {
    /// From a URL, `http://HOST:PORT`.
    ///
    /// # Errors
    /// In a sentence that says what is allowed.
    pub fn new(url: &str) -> Result<Self, String> {
        let allowed = "allowed is http://HOST:PORT, for example http://127.0.0.1:7700";
        let uri: http::Uri = url
            .parse()
            .map_err(|error| format!("{url:?} is no URL ({error}): {allowed}"))?;
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let complete = uri.scheme_str() == Some("http") && uri.port().is_some();
        if uri.scheme_str() == Some("https") {
            return Err(format!(
                "{url:?}: TLS to the control plane is not supported yet; {allowed}"
            ));
        }
        if !(plain && complete) {
            return Err(format!("{url:?} cannot be a control plane: {allowed}"));
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(PATIENCE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true);
        Ok(Self {
            address: url.to_owned(),
            endpoint,
        })
    }
}

/// Why a stream ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Could not be made, or broke.
    Lost(String),
    /// The control plane said no.
    Refused(Status),
    /// It asked us to come back after this.
    GoAway(Duration),
    /// We stop.
    Stopped,
}

/// Keeps a stream to one of several control planes.
#[derive(Debug)]
pub struct Dialer {
    control: Shared,
    addresses: Vec<ControlPlane>,
    /// Unique for this start of the process.
    instance: String,
    /// Where we serve, for people.
    address: SocketAddr,
    /// Attempts since the last Welcome.
    attempts: u32,
}

impl Dialer {
    /// To the first of `addresses` that answers; `address` is where we serve.
    pub fn new(control: Shared, addresses: Vec<ControlPlane>, address: SocketAddr) -> Self {
        Self {
            control,
            addresses,
            instance: uuid::Uuid::new_v4().to_string(),
            address,
            attempts: 0,
        }
    }

    /// Until stopped.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut next = 0;
        loop {
            let to = self.addresses[next % self.addresses.len()].clone();
            let end = self.call(&to, &mut stop).await;
            self.control.lock().disconnected(describe(&end));
            if matches!(end, End::Stopped) {
                return;
            }
            let wait = self.wait(&end);
            self.log(&to, &end, wait);
            next += 1;
            tokio::select! {
                () = sleep(wait) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// One stream, from connecting to its end.
    async fn call(&mut self, to: &ControlPlane, stop: &mut watch::Receiver<bool>) -> End {
        let (up, queue) = mpsc::channel(QUEUE);
        let opened = tokio::select! {
            opened = self.open(to, &up, queue) => opened,
            () = stopped(stop) => return End::Stopped,
        };
        match opened {
            Err(end) => end,
            Ok((down, welcome)) => {
                self.attempts = 0;
                let session = Session::begin(&self.control, &to.address, &welcome, up);
                session.run(down, stop).await
            }
        }
    }

    /// Connects, says hello and waits for Welcome.
    async fn open(
        &self,
        to: &ControlPlane,
        up: &mpsc::Sender<v1::ConnectRequest>,
        queue: mpsc::Receiver<v1::ConnectRequest>,
    ) -> Result<(Streaming<v1::ConnectResponse>, v1::Welcome), End> {
        let lost = |error: tonic::transport::Error| End::Lost(with_causes(&error));
        let channel = to.endpoint.connect().await.map_err(lost)?;
        let mut client =
            AgentServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let hello = self.hello();
        // The queue is new, so there is room.
        let _ = up.try_send(wrap(Up::Hello(hello)));
        let answered = timeout(PATIENCE, async {
            let response = client.connect(ReceiverStream::new(queue)).await?;
            let mut down = response.into_inner();
            let first = down.message().await?;
            Ok::<_, Status>((down, first))
        });
        match answered.await {
            Err(_) => Err(End::Lost(format!("no answer within {PATIENCE:?}"))),
            Ok(Err(status)) => Err(ended_by(status)),
            Ok(Ok((down, Some(first)))) => match first.message {
                Some(Down::Welcome(welcome)) => Ok((down, welcome)),
                Some(Down::GoAway(go)) => Err(go_away(&go)),
                _ => Err(End::Lost("the first message was no Welcome".to_owned())),
            },
            Ok(Ok((_, None))) => Err(End::Lost("the stream ended before Welcome".to_owned())),
        }
    }

    fn hello(&self) -> v1::Hello {
        let control = self.control.lock();
        v1::Hello {
            agent: control.identity.agent.as_str().to_owned(),
            instance: self.instance.clone(),
            pop: control.identity.pop.as_str().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_revision: control.config_revision(),
            held: control.decisions.to_wire(control.clock.now()),
            address: self.address.to_string(),
            held_services: control.steerings.to_wire(control.clock.now()),
        }
    }

    /// How long to stay away.
    fn wait(&mut self, end: &End) -> Duration {
        let jittered = |wait: Duration| wait.min(MAX_WAIT).mul_f64(0.5 + uniform());
        match end {
            End::Stopped => Duration::ZERO,
            End::GoAway(wait) => jittered((*wait).max(BACKOFF.0)),
            End::Refused(status) => {
                let asked = status.get_details_retry_info();
                let asked = asked.and_then(|info| info.retry_delay).unwrap_or(SLOWLY);
                jittered(asked.max(BACKOFF.0))
            }
            End::Lost(_) => {
                let rounds = self.attempts / self.addresses.len() as u32;
                self.attempts += 1;
                backoff(rounds).mul_f64(uniform())
            }
        }
    }

    fn log(&self, to: &ControlPlane, end: &End, wait: Duration) {
        let (address, again_in) = (&to.address, format!("{wait:.1?}"));
        match end {
            End::Refused(status) if status.code() == Code::AlreadyExists => tracing::error!(
                address,
                again_in,
                "another agent of this name is connected: give one of them another --id ({})",
                status.message()
            ),
            End::Refused(status) => tracing::error!(
                address,
                again_in,
                "the control plane refuses this agent: {}",
                status.message()
            ),
            // A control plane that is away says so once, not twice a second.
            End::Lost(why) if self.attempts <= 1 => {
                tracing::warn!(address, again_in, "no control plane: {why}");
            }
            End::Lost(why) => tracing::debug!(address, again_in, "no control plane: {why}"),
            End::GoAway(_) => {
                tracing::info!(address, again_in, "asked to come back later or elsewhere");
            }
            End::Stopped => {}
        }
    }
}

/// Bound of the wait after so many failed rounds over all addresses.
fn backoff(rounds: u32) -> Duration {
    let doubled = BACKOFF.0.saturating_mul(2u32.saturating_pow(rounds));
    doubled.min(BACKOFF.1)
}

pub(crate) fn go_away(go: &v1::GoAway) -> End {
    let wait = go.retry_in.and_then(|wait| Duration::try_from(wait).ok());
    End::GoAway(wait.unwrap_or(BACKOFF.0))
}

/// What a status at the end of a stream means for the next attempt.
pub(crate) fn ended_by(status: Status) -> End {
    let asked = status.get_details_retry_info();
    match status.code() {
        Code::AlreadyExists
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => End::Refused(status),
        // Busy: it names a time.
        _ if asked.is_some() => {
            End::GoAway(asked.and_then(|info| info.retry_delay).unwrap_or(SLOWLY))
        }
        _ => End::Lost(format!("{:?}: {}", status.code(), status.message())),
    }
}

/// For `/state`.
fn describe(end: &End) -> Option<String> {
    match end {
        End::Lost(why) => Some(why.clone()),
        End::Refused(status) => Some(format!("refused: {}", status.message())),
        End::GoAway(_) => Some("asked to come back later or elsewhere".to_owned()),
        End::Stopped => None,
    }
}

/// Tonic's own message is "transport error"; what went wrong is behind it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fleet::control::Control, tests::control::identity};

    #[test]
    fn a_control_plane_that_names_no_time_is_not_called_in_a_loop() {
        let control = Shared::new(Control::new(identity(), 1));
        let to = ControlPlane::new("http://127.0.0.1:1").expect("an address");
        let mut dialer = Dialer::new(control, vec![to], ([127, 0, 0, 1], 1).into());
        let at_once = go_away(&v1::GoAway {
            retry_in: Some(prost_types::Duration::default()),
            ..v1::GoAway::default()
        });
        assert!(dialer.wait(&at_once) >= BACKOFF.0 / 2);
    }
}
