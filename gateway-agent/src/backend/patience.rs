//! How long a backend may keep us waiting for a response's header. What the client
//! keeps us waiting for does not count.

use std::{pin::Pin, pin::pin, time::Duration};

use fleet_config::Timeouts;
use tokio::time::{Instant, sleep_until};

use crate::backend::upload::Progress;

/// The time that is left for a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) time: Duration,
    /// It is the one that was set for one attempt.
    pub(crate) per_try: bool,
}

/// How long a header may take once `spent` went by for the connection, and whether
/// it is the attempt's own limit: a trial's lease counts on `total` for all of a
/// request.
pub(crate) fn header_limit(timeouts: &Timeouts, spent: Duration) -> Limit {
    let left = timeouts.total.saturating_sub(spent);
    let limit = timeouts.response_headers.min(left);
    match timeouts.per_try.map(|limit| limit.saturating_sub(spent)) {
        Some(of_try) if of_try < limit => Limit {
            time: of_try,
            per_try: true,
        },
        Some(_) | None => Limit {
            time: limit,
            per_try: false,
        },
    }
}

/// Waits for a response's header while the backend owes it, for `limit`.
pub(crate) async fn header_within<T>(
    limit: Duration,
    mut sent: Pin<&mut impl Future<Output = T>>,
    progress: &Progress,
) -> Option<T> {
    let started = Instant::now();
    let mut alarm = pin!(sleep_until(started + limit));
    loop {
        tokio::select! {
            biased;
            response = &mut sent => return Some(response),
            () = &mut alarm => {
                let now = Instant::now();
                let owed_since = progress.owed_since(started).unwrap_or(now);
                if owed_since + limit <= now {
                    return None;
                }
                alarm.as_mut().reset(owed_since + limit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_owes_a_header_has_the_limit() {
        let started = Instant::now();
        let progress = Progress::new(true);
        assert_eq!(
            header_within(LIMIT, pin!(pending::<()>()), &progress).await,
            None
        );
        assert_eq!(started.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_runs_from_the_client_s_last_byte() {
        let started = Instant::now();
        let progress = Progress::new(false);
        let client = async {
            progress.wait_for_client();
            tokio::time::sleep(3 * LIMIT).await;
            progress.moved();
            pending::<()>().await;
        };
        assert_eq!(header_within(LIMIT, pin!(client), &progress).await, None);
        assert_eq!(started.elapsed().as_secs(), 4 * LIMIT.as_secs());
    }

    #[test]
    fn connecting_and_the_header_together_take_no_longer_than_the_total() {
        let timeouts = Timeouts {
            connect: Duration::from_secs(8),
            response_headers: Duration::from_secs(9),
            per_try: None,
            total: Duration::from_secs(10),
        };
        for (spent, left) in [(0, 9), (1, 9), (7, 3), (10, 0), (11, 0)] {
            let limit = header_limit(&timeouts, Duration::from_secs(spent));
            assert_eq!(
                (limit.time.as_secs(), limit.per_try),
                (left, false),
                "after {spent} s"
            );
        }
    }

    #[test]
    fn one_attempt_takes_no_longer_than_its_limit() {
        let timeouts = Timeouts {
            per_try: Some(Duration::from_secs(3)),
            ..Timeouts::default()
        };
        for (spent, expected) in [
            (0, (3, true)),
            (1, (2, true)),
            (4, (0, true)),
            (30, (0, false)),
        ] {
            let limit = header_limit(&timeouts, Duration::from_secs(spent));
            assert_eq!(
                (limit.time.as_secs(), limit.per_try),
                expected,
                "after {spent} s"
            );
        }
    }
}
