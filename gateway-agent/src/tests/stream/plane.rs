//! A control plane that does as the test says.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use rampmeter_api::v1::{
    self,
    agent_service_server::{AgentService, AgentServiceServer},
    connect_request::Message as Up,
    connect_response::Message as Down,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(15);

pub(in crate::tests) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("did not happen in time: {what}"),
    }
}

pub(in crate::tests) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// One stream of an agent, seen from the control plane.
pub(in crate::tests) struct Call {
    up: Streaming<v1::ConnectRequest>,
    down: mpsc::Sender<Result<v1::ConnectResponse, Status>>,
}

impl Call {
    pub(in crate::tests) async fn next(&mut self) -> Up {
        let message = within("a message of the agent", self.up.message()).await;
        let message = message.expect("the stream is up").expect("it goes on");
        message.message.expect("it says something")
    }

    /// The next of a kind; answers heartbeats meanwhile.
    pub(in crate::tests) async fn find<T>(&mut self, pick: impl Fn(&Up) -> Option<T>) -> T {
        loop {
            let message = self.next().await;
            if let Up::Heartbeat(beat) = &message {
                self.say(Down::Heartbeat(*beat)).await;
            }
            if let Some(found) = pick(&message) {
                return found;
            }
        }
    }

    pub(in crate::tests) async fn acknowledged(&mut self) -> v1::Acknowledge {
        self.find(|up| match up {
            Up::Acknowledge(acknowledge) => Some(acknowledge.clone()),
            _ => None,
        })
        .await
    }

    pub(in crate::tests) async fn say(&self, message: Down) {
        let response = v1::ConnectResponse {
            message: Some(message),
        };
        let said = self.down.send(Ok(response)).await;
        said.expect("the stream is up");
    }

    /// Hello and Welcome.
    pub(in crate::tests) async fn greet(&mut self) -> v1::Hello {
        let Up::Hello(hello) = self.next().await else {
            panic!("the first message is no hello");
        };
        self.say(Down::Welcome(v1::Welcome {
            replica: "r1".to_owned(),
            ..v1::Welcome::default()
        }))
        .await;
        hello
    }

    pub(in crate::tests) async fn configure(
        &mut self,
        revision: u64,
        yaml: String,
    ) -> v1::Acknowledge {
        self.say(Down::Config(v1::Config { revision, yaml })).await;
        self.acknowledged().await
    }

    pub(in crate::tests) async fn decide(
        &mut self,
        sequence: u64,
        decision: v1::Decision,
    ) -> v1::Acknowledge {
        let decisions = v1::Decisions {
            sequence,
            decisions: vec![decision],
            complete: true,
            ..v1::Decisions::default()
        };
        self.say(Down::Decisions(decisions)).await;
        self.acknowledged().await
    }
}

/// Hands every stream to the test.
struct Service(mpsc::Sender<Call>, Arc<Mutex<Option<Status>>>);

#[tonic::async_trait]
impl AgentService for Service {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ConnectResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let refusal = self.1.lock().expect("no test panics with it").clone();
        if let Some(status) = refusal {
            return Err(status);
        }
        let (down, answers) = mpsc::channel(64);
        let up = request.into_inner();
        let _ = self.0.send(Call { up, down }).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// A control plane.
pub(in crate::tests) struct Plane {
    pub(in crate::tests) address: SocketAddr,
    calls: mpsc::Receiver<Call>,
    refusal: Arc<Mutex<Option<Status>>>,
    server: JoinHandle<()>,
}

impl Plane {
    pub(in crate::tests) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (calls_tx, calls) = mpsc::channel(8);
        let refusal = Arc::new(Mutex::new(None));
        let service = AgentServiceServer::new(Service(calls_tx, refusal.clone()));
        let server = tonic::transport::Server::builder().add_service(service);
        let server = tokio::spawn(async move {
            let _ = server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await;
        });
        Self {
            address,
            calls,
            refusal,
            server,
        }
    }

    pub(in crate::tests) async fn call(&mut self) -> Call {
        let call = within("a stream of the agent", self.calls.recv()).await;
        call.expect("the server runs")
    }

    pub(in crate::tests) fn refuse(&self, status: Option<Status>) {
        *self.refusal.lock().expect("no test panics with it") = status;
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.server.abort();
    }
}
