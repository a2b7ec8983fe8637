//! Notices a body that stands still. It costs nothing while data flows: the
//! timer exists only once something was waited for.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Counts the time that we wait for the other side; what it spends waiting for
/// us is not held against it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// For one wait.
    idle: Duration,
    /// For all waits together; `None`: as many as it likes.
    budget: Option<Duration>,
    waiting_since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Watchdog {
    /// Bites after `idle` without anything, or once all waits exceed `budget`.
    pub(crate) fn new(idle: Duration, budget: Option<Duration>) -> Self {
        Self {
            idle,
            budget,
            waiting_since: None,
            sleep: None,
        }
    }

    /// Something came.
    pub(crate) fn fed(&mut self) {
        if let (Some(since), Some(budget)) = (self.waiting_since.take(), &mut self.budget) {
            *budget = budget.saturating_sub(since.elapsed());
        }
    }

    /// What came is worth a whole new budget.
    pub(crate) fn renew(&mut self, budget: Duration) {
        if let Some(left) = &mut self.budget {
            *left = budget;
        }
    }

    /// It bit, but for no fault of the other side: the wait begins anew.
    pub(crate) fn forgive(&mut self) {
        let now = Instant::now();
        self.waiting_since = Some(now);
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(now + self.idle);
        }
    }

    /// Nothing came: ready once that is too long.
    pub(crate) fn poll_bite(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting_since.is_none() {
            let now = Instant::now();
            let patience = self.budget.map_or(self.idle, |left| left.min(self.idle));
            self.waiting_since = Some(now);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(now + patience),
                None => self.sleep = Some(Box::pin(sleep_until(now + patience))),
            }
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const SECOND: Duration = Duration::from_secs(1);

    async fn bite(watchdog: &mut Watchdog) -> u64 {
        let since = Instant::now();
        poll_fn(|cx| watchdog.poll_bite(cx)).await;
        since.elapsed().as_secs()
    }

    /// Waits for so long, then feeds it.
    async fn wait(watchdog: &mut Watchdog, time: Duration) {
        let bitten = tokio::time::timeout(time, poll_fn(|cx| watchdog.poll_bite(cx)));
        assert!(bitten.await.is_err(), "it bit before");
        watchdog.fed();
    }

    #[tokio::test(start_paused = true)]
    async fn one_wait_may_be_as_long_as_the_idle_limit() {
        let mut watchdog = Watchdog::new(10 * SECOND, None);
        for _ in 0..5 {
            wait(&mut watchdog, 9 * SECOND).await;
        }
        assert_eq!(bite(&mut watchdog).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn all_waits_together_may_be_as_long_as_the_budget() {
        let mut watchdog = Watchdog::new(10 * SECOND, Some(20 * SECOND));
        wait(&mut watchdog, 9 * SECOND).await;
        // Time in which nothing was asked of the other side does not count.
        tokio::time::sleep(100 * SECOND).await;
        wait(&mut watchdog, 9 * SECOND).await;
        assert_eq!(bite(&mut watchdog).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgiven_costs_nothing_and_waits_anew() {
        let mut watchdog = Watchdog::new(10 * SECOND, Some(Duration::ZERO));
        assert_eq!(bite(&mut watchdog).await, 0);
        watchdog.forgive();
        assert_eq!(bite(&mut watchdog).await, 10);
    }
}
