//! Is this a Redis that we can use?

use redis::aio::MultiplexedConnection;

use super::trouble::{OLDEST, Trouble, too_old};
use crate::store::StoreError;

/// Looks at a fresh connection's server. One that does not tell is trusted.
pub(super) async fn check(
    connection: &mut MultiplexedConnection,
    shown: &str,
) -> Result<(), StoreError> {
    let info: Result<String, _> = redis::cmd("INFO").query_async(connection).await;
    match info.map_err(|error| Trouble::of(&error)) {
        Ok(info) => judge(&info, shown),
        Err(Trouble::Wrong(why)) => {
            tracing::warn!(store = %shown, %why, "cannot look at the store's version and role");
            Ok(())
        }
        Err(Trouble::Link(why) | Trouble::Command(why)) => Err(StoreError::Unavailable(why)),
        Err(Trouble::Late) => Err(StoreError::Unavailable("no answer in time".to_owned())),
    }
}

fn judge(info: &str, shown: &str) -> Result<(), StoreError> {
    let value = |key: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.strip_prefix(':')).map(str::trim)
    };
    let wrong = |why: String| Err(StoreError::Wrong(why));
    let version = value("redis_version").unwrap_or_default();
    if parse_version(version).is_some_and(|version| version < OLDEST) {
        return wrong(too_old(version));
    }
    if value("cluster_enabled") == Some("1") {
        return wrong(
            "it is a node of a Redis Cluster, which this version does not support".into(),
        );
    }
    if value("role") == Some("slave") {
        let why = "it is a read-only replica; its master must be reached";
        return Err(StoreError::Unavailable(why.to_owned()));
    }
    let policy = value("maxmemory_policy").unwrap_or("noeviction");
    if policy.starts_with("allkeys") {
        tracing::warn!(store = %shown, policy, "the store may evict decisions; set maxmemory-policy noeviction");
    }
    Ok(())
}

fn parse_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(info: &str) -> String {
        let judged = judge(&info.replace('\n', "\r\n"), "redis://r");
        judged.map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn a_server_is_judged_by_what_it_tells() {
        let fine = "redis_version:7.0.15\nrole:master\ncluster_enabled:0\n";
        assert_eq!(verdict(fine), "fine");
        assert_eq!(verdict(""), "fine");
        assert!(verdict("redis_version:6.0.16\n").contains("6.2 or later"));
        assert!(verdict("redis_version:5.0.1\n").contains("too old (5.0.1)"));
        assert!(verdict("cluster_enabled:1\n").contains("Redis Cluster"));
        assert!(verdict("role:slave\n").contains("read-only replica"));
    }
}
