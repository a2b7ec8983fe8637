//! Waiting for conditions, not for ever.

use std::time::{Duration, Instant};

/// Longer than any act of the story takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks.
pub const POLL: Duration = Duration::from_millis(10);

/// Waits until `holds`.
///
/// # Errors
/// It does not, in [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
