//! What a sync costs Redis: by backends, not by traffic and not by agents.

use std::collections::{BTreeMap, BTreeSet};

use breaker_core::{BackendName, ids::ServiceName};
use bytes::Bytes;

use super::{RedisServer, join};
use crate::store::{
    About, EventQuery, Store, SyncRequest,
    redis::Group,
    testing::{Sample, backend, sync, view},
};

/// Calls of each command since the last reset.
fn commands(server: &RedisServer) -> BTreeMap<String, u64> {
    let info: String = server.run(&["INFO", "commandstats"]);
    let count = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = rest.split(',').next()?.parse().ok()?;
        Some((name.to_owned(), calls))
    };
    info.lines().filter_map(count).collect()
}

fn names() -> (Vec<BackendName>, Vec<ServiceName>) {
    let backends = (0..20).map(|n| backend(&format!("pay/r{n}")));
    let services = (0..5).map(|n| ServiceName::called(&format!("s{n}")));
    (backends.collect(), services.collect())
}

async fn cost_of_sync(server: &RedisServer, requests: u32, agents: u32) -> BTreeMap<String, u64> {
    let store = join(server, "a").await;
    let (backends, services) = names();
    let mut view = view(requests.into());
    view.fleet.agents_known = agents;
    view.fleet.pops[0].agents = agents;
    let of_service = Some(ServiceName::view(requests));
    let request = SyncRequest {
        registers: backends
            .into_iter()
            .map(|name| (name, view.clone()))
            .collect(),
        services: services
            .into_iter()
            .map(|name| (name, of_service.clone()))
            .collect(),
        ..SyncRequest::default()
    };
    sync(&*store, request.clone()).await;
    let _: String = server.run(&["CONFIG", "RESETSTAT"]);
    for _ in 0..10 {
        sync(&*store, request.clone()).await;
    }
    commands(server)
}

#[tokio::test]
async fn a_sync_costs_the_same_whatever_the_traffic_and_the_number_of_agents() {
    let server = RedisServer::start(&[]);
    let calm = cost_of_sync(&server, 10, 1).await;
    let busy = cost_of_sync(&server, 1_000_000, 5_000).await;
    assert_eq!(calm, busy);
    let (backends, services) = names();
    let all = backends.into_iter().map(About::Backend);
    let all = all.chain(services.into_iter().map(About::Service));
    let groups: BTreeSet<_> = all.map(|about| Group::of(&about)).collect();
    assert_eq!(
        calm["evalsha"],
        10 * groups.len() as u64,
        "one for each group, be it of backends, services or both"
    );
    assert!(!calm.contains_key("eval") && !calm.contains_key("script|load"));
}

#[tokio::test]
async fn a_page_from_one_busy_group_takes_few_round_trips() {
    let server = RedisServer::start(&[]);
    let store = join(&server, "a").await;
    let events = (0..480).map(|n| Bytes::from(format!("{n}"))).collect();
    let appended = store
        .append(About::Backend(backend("pay/us")), events)
        .await;
    appended.expect("an append");
    let _: String = server.run(&["CONFIG", "RESETSTAT"]);
    let query = EventQuery {
        limit: 480,
        ..EventQuery::default()
    };
    let page = store.events(query).await.expect("a page");
    assert_eq!(page.events.len(), 480);
    let reads = commands(&server)["xrevrange"];
    let groups = Group::all().count() as u64;
    assert!(reads <= groups + 6, "{reads} reads of {groups} groups");
}

#[test]
fn all_keys_of_a_group_are_in_one_slot() {
    for group in Group::all() {
        let tag = |key: String| {
            let (_, rest) = key.split_once('{').expect("a tag");
            rest.split_once('}').expect("its end").0.to_owned()
        };
        let nouns = ["meta", "records", "registers", "events", "hints:0"];
        let tags: BTreeSet<_> = nouns.map(|noun| tag(group.key(noun))).into();
        assert_eq!(tags.len(), 1);
    }
    assert_eq!(Group::FLEET.key("config"), "rm:{fleet}:config");
}

#[test]
fn groups_never_change() {
    // Replicas of all versions must agree on them.
    assert_eq!(
        Group::of(&backend("pay/us-east").into()).key("records"),
        "rm:{p052}:records"
    );
    let names = (0..10_000).map(|n| backend(&format!("s{n}/r")));
    let used: BTreeSet<_> = names.map(|name| Group::of(&name.into())).collect();
    assert_eq!(used.len(), 256, "all groups are used");
}
