//! What one forwarded request holds until it is over: its permit, its place in
//! the endpoint's load, its upstream connection.

use std::{rc::Rc, time::Duration};

use breaker_core::FailureKind;

use crate::{
    admit::permit::{Owed, Permit},
    backend::{classify::Verdict, lent::Connection, pool::Load, upload::Progress},
};

/// One request at one endpoint. Dropping it frees everything; the connection is
/// closed then, as nobody knows what is still on it.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// `None` once settled.
    permit: Option<Permit>,
    pub(crate) connection: Connection,
    upload: Rc<Progress>,
    load: Load,
}

impl Exchange {
    pub(crate) fn new(
        permit: Permit,
        connection: Connection,
        upload: Rc<Progress>,
        load: Load,
    ) -> Self {
        Self {
            permit: Some(permit),
            connection,
            upload,
            load,
        }
    }

    /// The next move is the client's: it has not sent its whole body.
    pub(crate) fn client_owes(&self) -> bool {
        !self.upload.ended() && self.upload.waits_for_client()
    }

    /// Records a failure; or nobody's, if the client's own body broke off: the
    /// connection to the backend did not outlast that.
    pub(crate) fn broke(mut self, kind: FailureKind) {
        if self.upload.fault().is_none() {
            self.settle(Verdict::failure(kind));
        }
    }

    /// The header is there, and it is a good one, after so long.
    pub(crate) fn observe(&self, waited: Duration) {
        self.load.observe(waited);
    }

    /// Records the outcome, if that has not been done.
    pub(crate) fn settle(&mut self, verdict: Verdict) {
        if let Some(permit) = self.permit.take() {
            self.load.judge(verdict.class);
            permit.finish(verdict.class, verdict.retry_after);
        }
    }

    /// Records the outcome of an attempt that another may follow.
    pub(crate) fn settle_attempt(&mut self, verdict: Verdict) -> Option<Owed> {
        let permit = self.permit.take()?;
        self.load.judge(verdict.class);
        Some(permit.finish_attempt(verdict.class, verdict.retry_after))
    }

    /// The response is over: records its outcome and gives the connection back,
    /// unless the backend answered before it had the whole request.
    pub(crate) fn complete(mut self, verdict: Verdict) {
        self.settle(verdict);
        if self.upload.ended() {
            self.connection.give_back();
        }
    }
}
