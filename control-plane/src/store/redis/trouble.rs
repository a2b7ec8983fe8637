//! What a Redis error means to us.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Kinds of trouble, by what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection is no good any more, or leads to the wrong server.
    Link(String),
    /// No answer in time: once may be chance.
    Late,
    /// This command failed; the link is fine.
    Command(String),
    /// Waiting will not help: a person must look.
    Wrong(String),
}

impl Trouble {
    pub(super) fn of(error: &RedisError) -> Self {
        let said = error.to_string();
        if error.is_timeout() {
            return Self::Late;
        }
        match error.kind() {
            ErrorKind::Io => Self::Link(said),
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown,
            ) => Self::Link(said),
            ErrorKind::AuthenticationFailed => Self::Wrong(format!(
                "it refuses the user or the password ({said}); check the credentials in the URL"
            )),
            ErrorKind::RESP3NotSupported => Self::Wrong(too_old("older than 6")),
            ErrorKind::Parse => Self::Wrong(
                "what it answers is not Redis's protocol: is something else listening there?"
                    .to_owned(),
            ),
            ErrorKind::Server(ServerErrorKind::NoPerm) => Self::Wrong(format!(
                "its user may not do what is needed ({said}); allow keys and channels rm:* and scripts"
            )),
            _ => Self::of_code(error.code().unwrap_or_default(), said),
        }
    }

    fn of_code(code: &str, said: String) -> Self {
        let contains = |part: &str| said.to_ascii_lowercase().contains(part);
        match code {
            _ if contains("user_script") => Self::Wrong(format!("our script failed ({said})")),
            "NOAUTH" => Self::Wrong(
                "it wants a password: give it in the URL, as redis://USER:PASSWORD@HOST".to_owned(),
            ),
            "WRONGPASS" => Self::Wrong(format!("it refuses the user or the password ({said})")),
            "OOM" | "MISCONF" | "WRONGTYPE" | "MOVED" | "CROSSSLOT" => Self::Wrong(said),
            _ if contains("unknown command") => Self::Wrong(too_old(&said)),
            _ if contains("db index") || contains("switch database") || contains("select") => {
                Self::Wrong(format!("it does not have that database ({said})"))
            }
            _ => Self::Command(said),
        }
    }
}

/// The oldest Redis that has what the scripts and queries use.
pub(super) const OLDEST: (u32, u32) = (6, 2);

pub(super) fn too_old(found: &str) -> String {
    let (major, minor) = OLDEST;
    format!("it is too old ({found}); Redis {major}.{minor} or later, or Valkey, is needed")
}
