//! The blast-radius limit over the backends on the board.

use breaker_core::{BackendName, Timestamp, blast};

use crate::board::Board;

/// Whether one more backend may open now.
pub fn may_open(board: &Board, name: &BackendName, now: Timestamp) -> bool {
    let all = board.all();
    let others = all.iter().filter(|(other, _)| other != name);
    blast::may_open(others.map(|(_, seen)| &seen.breaker), now)
}
