//! One agent's stream: hello, then two halves that run side by side. The reading
//! half takes in what the agent saw; the writing half sends what has changed
//! since it last sent. It holds one message, so a slow agent costs no memory:
//! what it has not read yet is merged in the table.

pub mod asking;
mod hello;
mod reading;
mod writing;

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::{
    plane::Plane,
    wire::{Inbound, Outbound},
};

pub use hello::HelloLimit;

/// Messages between the writing half and the connection: one on its way.
const OUTBOUND_WAITING: usize = 1;

/// Heartbeats go out this often.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a refused agent has to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Answers one `Connect`.
pub async fn connect(
    plane: Arc<Plane>,
    mut inbound: Streaming<Inbound>,
) -> Result<Response<ReceiverStream<Outbound>>, Status> {
    let hello = hello::receive(&mut inbound).await?;
    let accepted = hello::accept(&plane, hello).await?;
    let (outbound, receiver) = mpsc::channel(OUTBOUND_WAITING);
    tokio::spawn(run(plane, accepted, inbound, outbound));
    Ok(Response::new(ReceiverStream::new(receiver)))
}

async fn run(
    plane: Arc<Plane>,
    accepted: hello::Accepted,
    inbound: Streaming<Inbound>,
    outbound: mpsc::Sender<Outbound>,
) {
    let session = accepted.session.clone();
    // A heartbeat that finds no room is answered by the next one.
    let (answers, answered) = mpsc::channel(1);
    let end = tokio::select! {
        end = reading::run(&plane, &session, inbound, answers) => end,
        () = writing::run(&plane, accepted, &outbound, answered) => reading::End::Lost,
    };
    if matches!(end, reading::End::Silent) {
        session.lose();
    }
    plane
        .agents
        .leave(&session, matches!(end, reading::End::Goodbye));
    tracing::info!(agent = %session.who.agent, pop = %session.who.pop, %end, "an agent left");
    if let reading::End::Refused(status) = end {
        // A peer that does not read needs no explanation.
        let _ = tokio::time::timeout(LAST_WORDS, outbound.send(Err(status))).await;
    }
}
