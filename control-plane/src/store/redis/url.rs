//! `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, and what is refused and why.

use redis::{ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

use crate::store::OpenError;

/// Where the Redis is.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// How to connect.
    pub(super) info: ConnectionInfo,
    /// The URL without its password, for people.
    pub(super) shown: String,
    /// The database.
    pub(super) db: i64,
}

const ALLOWED: &str = "allowed are memory and redis://[USER:PASSWORD@]HOST[:PORT][/DB]";

/// Parses a store's URL.
pub(super) fn parse(url: &str) -> Result<Target, OpenError> {
    let shown = without_password(url);
    let refuse = |reason: String| OpenError::Url {
        url: shown.clone(),
        reason,
    };
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("redis") => {}
        Some(later @ ("rediss" | "redis+sentinel" | "redis+cluster")) => {
            let reason = format!("{later}:// is not supported by this version; {ALLOWED}");
            return Err(refuse(reason));
        }
        _ => return Err(refuse(format!("unknown kind of store; {ALLOWED}"))),
    }
    let parsed = redis::parse_redis_url(url).ok_or_else(|| refuse(ALLOWED.to_owned()))?;
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(refuse(format!("the host is missing; {ALLOWED}")));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(refuse(format!("parameters are not allowed; {ALLOWED}")));
    }
    let path = parsed.path().trim_start_matches('/');
    let db = match path {
        "" => 0,
        path => path.parse::<u32>().map(i64::from).map_err(|_| {
            refuse(format!(
                "the database {path:?} must be a number such as 0; {ALLOWED}"
            ))
        })?,
    };
    let info = parsed
        .into_connection_info()
        .map_err(|error| refuse(format!("{error}; {ALLOWED}")))?;
    // Hints are pushed on the same connection, which needs RESP3.
    let settings = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("rampmeter", env!("CARGO_PKG_VERSION"));
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
    Ok(Target { info, shown, db })
}

/// Hides whatever stands before the last `@`: passwords may contain anything.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let separator = if scheme.is_empty() { "" } else { "://" };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{separator}***@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        parse(url).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_url_has_defaults() {
        let target = parse("redis://cache.internal").unwrap();
        assert_eq!(target.info.addr().to_string(), "cache.internal:6379");
        assert_eq!(target.db, 0);
    }

    #[test]
    fn a_url_names_user_password_port_and_database() {
        let target = parse("redis://ramp:p%40ss@[::1]:7000/3").unwrap();
        assert_eq!(target.info.redis_settings().username(), Some("ramp"));
        assert_eq!(target.info.redis_settings().password(), Some("p@ss"));
        assert_eq!(target.db, 3);
        assert_eq!(target.shown, "redis://***@[::1]:7000/3");
    }

    #[test]
    fn a_refusal_says_what_is_allowed_and_hides_the_password() {
        for url in [
            "",
            "redis",
            "redis://",
            "http://localhost:6379",
            "redis://ramp:secret@",
            "redis://:secret@host:port/0",
            "redis://:secret@host/first",
            "redis://:secret@host/-1",
            "redis://:secret@host/0?protocol=resp2",
            "rediss://:secret@host",
            "redis+sentinel://:secret@host/main",
            "redis+cluster://:secret@host",
            "memcached://:secret@host",
        ] {
            let said = refusal(url);
            assert!(said.contains("allowed are memory and redis://"), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn kinds_that_will_come_are_named() {
        let said = refusal("rediss://host:6380/0");
        assert!(
            said.contains("rediss:// is not supported by this version"),
            "{said}"
        );
    }
}
