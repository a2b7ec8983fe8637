//! The way up to the control plane, as the control side sees it: a bounded
//! queue that never blocks. When it is full the control plane does not read, and
//! what is unsent stays where it is and grows old.

use std::time::Duration;

use breaker_core::Timestamp;
use prost::Message;
use rampmeter_api::v1::{self, connect_request::Message as Up};
use tokio::sync::mpsc;

use crate::{
    fleet::{report::MAX_REPORT_BYTES, steered::Steered, watched::Watched},
    probe::findings::Findings,
};

/// Messages between us and the socket: at the hot rate, several seconds of a
/// control plane that stopped reading.
pub const QUEUE: usize = 64;

/// Report rates when Welcome names none.
pub const CALM: Duration = Duration::from_secs(1);
/// See [`CALM`].
pub const HOT: Duration = Duration::from_millis(100);

/// Room left for one part: a backend's 500 slots and full histogram, or a
/// service's 256 quotas.
const LARGEST_PART: usize = 32 * 1024;

/// A stream that is up.
#[derive(Debug)]
pub struct Link {
    /// Towards the control plane.
    up: mpsc::Sender<v1::ConnectRequest>,
    /// Of the last report.
    sequence: u64,
    /// Calm report interval.
    pub calm: Duration,
    /// Hot report interval.
    pub hot: Duration,
}

/// What is due.
pub(crate) enum Due<'a> {
    Backend(&'a mut Watched),
    Service(&'a mut Steered),
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Reports.
    pub reports: u64,
    /// Their size.
    pub bytes: u64,
}

impl Link {
    /// Over a queue of [`QUEUE`] messages.
    pub fn new(up: mpsc::Sender<v1::ConnectRequest>, calm: Duration, hot: Duration) -> Self {
        Self {
            up,
            sequence: 0,
            calm,
            hot,
        }
    }

    /// Queues a trial's result, if there is room.
    pub fn trial_result(&self, result: &v1::TrialResult) -> bool {
        self.up
            .try_send(wrap(Up::TrialResult(result.clone())))
            .is_ok()
    }

    /// Reports on `due`, in as many messages as it takes, while there is room.
    pub(crate) fn report(&mut self, due: Vec<Due<'_>>, now: Timestamp) -> Sent {
        let mut sent = Sent::default();
        let mut due = due.into_iter().peekable();
        while due.peek().is_some() {
            let Ok(slot) = self.up.try_reserve() else {
                break;
            };
            self.sequence += 1;
            let mut report = v1::Report {
                sequence: self.sequence,
                ..v1::Report::default()
            };
            let mut bytes = 0;
            while bytes < MAX_REPORT_BYTES - LARGEST_PART
                && let Some(due) = due.next()
            {
                bytes += add(due, &mut report, now, self.calm);
            }
            sent.reports += 1;
            sent.bytes += report.encoded_len() as u64;
            slot.send(wrap(Up::Report(report)));
        }
        sent
    }
}

/// Adds one part to a report, and says how large it is.
fn add(due: Due<'_>, report: &mut v1::Report, now: Timestamp, calm: Duration) -> usize {
    match due {
        Due::Backend(watched) => {
            let part = watched.report(now, calm);
            let bytes = part.encoded_len();
            report.backends.push(part);
            bytes
        }
        Due::Service(steered) => {
            let part = steered.report(now);
            let bytes = part.encoded_len();
            report.services.push(part);
            bytes
        }
    }
}

impl Link {
    /// Reports what probes found, if it is due. What finds no room is probed again
    /// within the interval.
    pub(crate) fn probes(&mut self, findings: &mut Findings, now: Timestamp) -> Sent {
        let mut sent = Sent::default();
        for mut report in findings.reports(now, self.calm) {
            self.sequence += 1;
            report.sequence = self.sequence;
            let bytes = report.encoded_len() as u64;
            if self.up.try_send(wrap(Up::Report(report))).is_ok() {
                sent.reports += 1;
                sent.bytes += bytes;
            }
        }
        sent
    }
}

/// As it goes over the wire.
pub(crate) fn wrap(message: Up) -> v1::ConnectRequest {
    v1::ConnectRequest {
        message: Some(message),
    }
}

/// What people want to know about the stream.
#[derive(Debug, Clone, Default)]
pub struct LinkStatus {
    /// The stream that is up.
    pub connected: Option<Connected>,
    /// Why the last one ended, or could not be made.
    pub last_error: Option<String>,
    /// Streams that were welcomed since the start.
    pub streams: u64,
    /// The control plane cannot reach its store.
    pub store_unavailable: bool,
    /// Reports sent since the start.
    pub reports: u64,
    /// Their size in bytes.
    pub report_bytes: u64,
}

/// A stream that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Where to.
    pub address: String,
    /// The replica's name.
    pub replica: String,
    /// Since when, in Unix milliseconds.
    pub since_unix_ms: u64,
}
