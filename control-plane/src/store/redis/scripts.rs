//! The Lua scripts. EVALSHA rather than Functions: a function is state of the
//! server that a failover or a restore can lose, a script is sent again.

use redis::Script;

/// All scripts, hashed once.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) sync: Script,
    pub(super) commit: Script,
    pub(super) append: Script,
    pub(super) config: Script,
    pub(super) heartbeat: Script,
}

const CLOCK: &str = include_str!("../scripts/clock.lua");
const EPOCH: &str = include_str!("../scripts/epoch.lua");

impl Scripts {
    pub(super) fn new() -> Self {
        let of = |parts: &[&str]| Script::new(&parts.join("\n"));
        Self {
            sync: of(&[CLOCK, EPOCH, include_str!("../scripts/sync.lua")]),
            commit: of(&[CLOCK, EPOCH, include_str!("../scripts/commit.lua")]),
            append: of(&[include_str!("../scripts/append.lua")]),
            config: of(&[include_str!("../scripts/config.lua")]),
            heartbeat: of(&[CLOCK, include_str!("../scripts/heartbeat.lua")]),
        }
    }

    pub(super) fn all(&self) -> [&Script; 5] {
        [
            &self.sync,
            &self.commit,
            &self.append,
            &self.config,
            &self.heartbeat,
        ]
    }
}
