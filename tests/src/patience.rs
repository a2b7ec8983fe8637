//! Waiting for conditions instead of for time.

use std::{future::Future, time::Duration};

use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};

/// Between two looks at a condition: well below anything a test measures.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `look` finds something.
///
/// # Panics
/// It finds nothing `within` this time; the message says what was awaited.
pub async fn eventually<T, F>(what: &str, within: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {within:?} in vain: {what}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// `Some(())` if the condition holds: for [`eventually`].
pub fn settled(condition: bool) -> Option<()> {
    condition.then_some(())
}

/// Held by a test that measures milliseconds: it shares the machine with no
/// other such test.
pub async fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::const_new(());
    MACHINE.lock().await
}

/// The middle one; of an even number, the higher of the two.
///
/// # Panics
/// There is none.
pub fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("comparable"));
    sorted[sorted.len() / 2]
}
