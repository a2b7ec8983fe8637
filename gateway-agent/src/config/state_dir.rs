//! What an agent keeps on disk, so that it can start while the control plane is
//! away: its name, the last good configuration, the last decisions.
//!
//! Each file is replaced whole (written beside, synced, renamed) and carries its
//! length and checksum. One that is damaged is ignored with a warning: an agent
//! that does not start is worse than one that starts without a memory.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use breaker_core::AgentId;
use prost::Message;

use crate::clock::unix_ms;

/// First word of every file, with the format's version.
const MAGIC: &str = "rampmeter-agent-1";

/// Largest file that is read back: a fleet file and some.
const MAX_BYTES: u64 = 64 << 20;

/// A directory of this agent's own.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// A message from the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved<M> {
    /// When it was written, in Unix milliseconds.
    pub unix_ms: u64,
    /// The message.
    pub message: M,
}

impl StateDir {
    /// Opens it, and creates it if it is missing.
    ///
    /// # Errors
    /// When it cannot be created or is not writable.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let probe = path.join(".probe");
        File::create(&probe)?;
        fs::remove_file(&probe)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The agent's name from an earlier run, else `fresh`, which is kept.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn agent_id(&self, fresh: AgentId) -> io::Result<AgentId> {
        let path = self.path.join("agent-id");
        match fs::read_to_string(&path).map(|text| AgentId::new(text.trim())) {
            Ok(Ok(id)) => return Ok(id),
            Ok(Err(error)) => tracing::warn!(path = %path.display(), "ignored: {error}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), "ignored: {error}"),
        }
        self.replace("agent-id", format!("{fresh}\n").as_bytes())?;
        Ok(fresh)
    }

    /// Keeps a message.
    ///
    /// # Errors
    /// When it cannot be written; the one before it is still there.
    pub fn save(&self, name: &str, message: &impl Message) -> io::Result<()> {
        let body = message.encode_to_vec();
        let head = format!(
            "{MAGIC} {} {} {:016x}\n",
            unix_ms(),
            body.len(),
            checksum(&body)
        );
        self.replace(name, &[head.as_bytes(), &body].concat())
    }

    /// The message kept last; `None`, with a warning, if it is damaged.
    pub fn load<M: Message + Default>(&self, name: &str) -> Option<Saved<M>> {
        let path = self.path.join(name);
        let bytes = match fs::metadata(&path).map(|file| file.len()) {
            Ok(length) if length > MAX_BYTES => {
                tracing::warn!(path = %path.display(), length, "too large to be ours: ignored");
                return None;
            }
            Ok(_) => fs::read(&path),
            Err(error) => Err(error),
        };
        match bytes {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), "cannot be read: {error}");
                None
            }
            Ok(bytes) => {
                let saved = decode(&bytes);
                if saved.is_none() {
                    tracing::warn!(path = %path.display(), "damaged, or of another version: ignored");
                }
                saved
            }
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.path.join(format!("{name}.new"));
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Option<Saved<M>> {
    let end = bytes.iter().take(128).position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let body = &bytes[end + 1..];
    let mut words = head.split(' ');
    let ours = words.next() == Some(MAGIC);
    let unix_ms = words.next()?.parse().ok()?;
    let length: usize = words.next()?.parse().ok()?;
    let sum = u64::from_str_radix(words.next()?, 16).ok()?;
    let whole = ours && length == body.len() && sum == checksum(body);
    let message = M::decode(body).ok().filter(|_| whole)?;
    Some(Saved { unix_ms, message })
}

/// FNV-1a, 64 bits: against bad disks and half-written files, not against people.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use rampmeter_api::v1;

    use super::*;

    fn config() -> v1::Config {
        v1::Config {
            revision: 7,
            yaml: "pops: {}\n".to_owned(),
        }
    }

    fn dir() -> (tempfile::TempDir, StateDir) {
        let root = tempfile::tempdir().expect("a directory for the test");
        let dir = StateDir::open(&root.path().join("state")).expect("it is writable");
        (root, dir)
    }

    #[test]
    fn what_was_saved_is_loaded_and_the_newest_wins() {
        let (_root, dir) = dir();
        assert_eq!(dir.load::<v1::Config>("config"), None);
        dir.save("config", &v1::Config::default()).expect("saved");
        dir.save("config", &config()).expect("saved");
        let loaded = dir.load::<v1::Config>("config").expect("it was saved");
        assert_eq!(loaded.message, config());
        assert!(loaded.unix_ms > 0);
    }

    #[test]
    fn a_file_that_is_cut_or_changed_anywhere_is_ignored() {
        let (_root, dir) = dir();
        dir.save("config", &config()).expect("saved");
        let path = dir.path.join("config");
        let whole = fs::read(&path).expect("it was saved");
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).expect("written");
            assert_eq!(dir.load::<v1::Config>("config"), None, "cut at {at}");
            // The time of writing may be anything.
            let is_time = (MAGIC.len() + 1..MAGIC.len() + 14).contains(&at);
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).expect("written");
            let loaded = dir.load::<v1::Config>("config");
            assert!(is_time || loaded.is_none(), "changed at {at}");
        }
    }

    #[test]
    fn an_agent_keeps_its_name_over_restarts() {
        let (_root, dir) = dir();
        let name = |name| AgentId::new(name).expect("a valid name");
        assert_eq!(dir.agent_id(name("a")).expect("kept"), name("a"));
        assert_eq!(dir.agent_id(name("b")).expect("kept"), name("a"));
        fs::write(dir.path.join("agent-id"), "no name!").expect("written");
        assert_eq!(dir.agent_id(name("c")).expect("kept"), name("c"));
    }
}
