//! The attempts after the first one, where they are safe, wanted and affordable.
//! Which failures are worth one is [`retry`]'s to say; here it is where and when.

use std::{rc::Rc, time::Duration};

use breaker_core::Version;
use fleet_config::HostLimits;
use http::Response;
use tokio::time::sleep;

use crate::{
    admit::{
        permit::Permit,
        recorder::Tally,
        service::{Service, Wish},
    },
    backend::{
        forward::{Again, Attempt, Call},
        pool::Pool,
        retry,
        upstream::{Core, Table, Upstream},
    },
    dice::unit,
    request::{
        attempts::{conclude, send},
        body::Body,
        deadline::Deadline,
        rejection::Rejection,
    },
    sight::telling::Telling,
};

/// What all attempts of a request have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trip<'a> {
    pub(crate) core: &'a Core,
    pub(crate) table: &'a Table,
    pub(crate) service: &'a Service,
    pub(crate) wish: Wish,
    pub(crate) grpc: bool,
    pub(crate) limits: &'a HostLimits,
    pub(crate) deadline: Option<Deadline>,
}

impl<'a> Trip<'a> {
    /// Makes more attempts until one need not be followed, or may not be. The last
    /// one's answer is the request's: while it is not known whether another may be
    /// made, the backend's own answer is worth more than one of ours.
    pub(crate) async fn again(
        self,
        mut last: Attempt,
        mut again: Box<Again>,
        (mut upstream, pool): (&'a Upstream, Rc<Pool>),
        mut decision: Version,
        telling: &mut Telling,
    ) -> Result<Response<Body>, Rejection> {
        let mut tried = vec![pool];
        let mut spent = last.waited;
        let mut nth = 0;
        while let Some(wait) = self.wait(upstream, nth, spent) {
            nth += 1;
            sleep(wait).await;
            let Some((permit, next)) = self.readmit(upstream, &tried) else {
                break;
            };
            let Some(pool) = next.endpoints.pick_other(self.core.roll(), &tried) else {
                break;
            };
            let Again { mut request, owed } = *again;
            owed.forget();
            request.body().restart();
            next.count(self.core, Tally::Retry);
            (upstream, decision) = (next, permit.version());
            tried.push(pool.clone());
            let mut timeouts = upstream.timeouts.within(spent + wait);
            if let Some(deadline) = self.deadline {
                timeouts = deadline.bound(timeouts);
                deadline.pass_on(request.headers_mut());
            }
            let (at, call) = ((upstream, &pool), self.call(upstream, nth));
            last = send(permit, at, &timeouts, (request, None), call, telling).await;
            spent += wait + last.waited;
            again = match last.again.take() {
                Some(again) => again,
                None => return conclude(last.answer, upstream, decision),
            };
        }
        drop(again);
        conclude(last.answer, upstream, decision)
    }

    fn call(self, upstream: &'a Upstream, nth: u32) -> Call<'a> {
        let settings = upstream.retries.as_ref().map(|retries| &retries.settings);
        Call {
            grpc: self.grpc,
            limits: self.limits,
            retry: settings.filter(|settings| nth < settings.max_retries),
        }
    }

    /// How long to wait before the retry after `nth` others; `None`: there is none.
    fn wait(self, upstream: &Upstream, nth: u32, spent: Duration) -> Option<Duration> {
        let retries = upstream.retries.as_ref()?;
        let wait = retry::backoff(&retries.settings, nth + 1, unit(self.core.roll()));
        let given_up = self
            .deadline
            .is_some_and(|deadline| deadline.left() <= wait);
        if given_up || spent + wait >= upstream.timeouts.total {
            return None;
        }
        let affordable = retries.take(self.core.second());
        if !affordable {
            upstream.count(self.core, Tally::RetryBudget);
        }
        affordable.then_some(wait)
    }

    /// Another endpoint of the backend that failed, another region, or the same once
    /// more, in this order.
    fn readmit(self, failed: &Upstream, tried: &[Rc<Pool>]) -> Option<(Permit, &'a Upstream)> {
        let gate = &self.core.gate;
        let elsewhere = !failed.endpoints.has_other(tried);
        let permit = gate.readmit(self.service, &self.wish, failed.index(), elsewhere);
        let next = permit.and_then(|permit| {
            let upstream = self.table.upstream(permit.backend())?;
            Some((permit, upstream))
        });
        if next.is_none() {
            failed.count(self.core, Tally::RetryRefused);
        }
        next
    }
}
