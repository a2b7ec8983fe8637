//! Two regions, one dies: what callers get from Rampmeter and from Envoy, on the
//! same load and the same backends.
//!
//! Each region has so many workers, and a queue that nobody bounds, as a thread
//! pool behind a listening socket has: more than it can do makes everyone wait,
//! and past the time-out all its work is for nobody.
//!
//! `cargo build --release --bins && ENVOY=… cargo run --release -p bench --bin failover`

use std::{net::SocketAddr, path::Path, time::Duration};

use bench::envoy::Envoy;
use e2e::{Fleet, FleetFile, eventually, settled};
use rampmeter_demo::{
    backend::{Answer, Behaviour, ScriptedBackend},
    load::{Caller, Load, Pacing, Record, Running, Target},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// 40 workers of 100 ms: 400 requests a second in each region.
const WORKERS: u32 = 40;
const WORK: Duration = Duration::from_millis(100);
const CAPACITY: f64 = 400.0;

/// us-east at 80 % of its capacity, us-west with 40 % of headroom below 80 %.
const EAST: f64 = 0.8 * CAPACITY;
const WEST: f64 = 0.4 * CAPACITY;

/// When a gateway gives up on a request.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Before us-east dies: long enough to know the demand.
const CALM: Duration = Duration::from_secs(12);
const OUTAGE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!(
        "two regions of {CAPACITY} requests/s; {EAST:.0}/s want us-east, {WEST:.0}/s us-west; us-east \
         dies, {} s",
        OUTAGE.as_secs()
    );
    println!(
        "{:<10} {:>10} {:>10} {:>12} {:>12} {:>14} {:>16}",
        "gateway", "served/s", "of wanted", "CRITICAL", "LOW", "p99 of served", "us-west, worst s"
    );
    let dir = TempDir::with_prefix("rampmeter-failover-")?;
    for round in 0..3 {
        rampmeter(round).await?;
        envoy(round, dir.path()).await?;
    }
    Ok(())
}

async fn regions() -> anyhow::Result<(ScriptedBackend, ScriptedBackend)> {
    let east = ScriptedBackend::local("us-east").await?;
    let west = ScriptedBackend::local("us-west").await?;
    east.behave(Behaviour::workers(WORKERS, WORK));
    west.behave(Behaviour::workers(WORKERS, WORK));
    Ok((east, west))
}

async fn rampmeter(round: u64) -> anyhow::Result<()> {
    let (east, west) = regions().await?;
    let file = FleetFile::default()
        .pop("iad1", &["us-east", "us-west"])
        .pop("sfo1", &["us-west", "us-east"])
        .service(
            "pay",
            &[("us-east", east.address()), ("us-west", west.address())],
        )
        .capacity("pay", "us-east", CAPACITY)
        .capacity("pay", "us-west", CAPACITY)
        .setting("priority", "header", "x-priority")
        .timeout("total", "2s");
    let fleet = Fleet::start(&file, 2).await?;
    let of = |pop: &str| -> Vec<SocketAddr> {
        let agents = fleet.agents.iter().filter(|a| a.start.pop == pop);
        agents.map(|agent| agent.address).collect()
    };
    measure("rampmeter", round, &of("iad1"), &of("sfo1"), &east, &west).await;
    Ok(())
}

async fn envoy(round: u64, dir: &Path) -> anyhow::Result<()> {
    let (east, west) = regions().await?;
    let (to_east, to_west) = (east.address(), west.address());
    let mut proxies = Vec::new();
    for (name, regions) in [
        ("iad1-0", [to_east, to_west]),
        ("iad1-1", [to_east, to_west]),
        ("sfo1-0", [to_west, to_east]),
        ("sfo1-1", [to_west, to_east]),
    ] {
        proxies.push(Envoy::start(name, &regions, TIMEOUT, dir).await?);
    }
    let addresses: Vec<_> = proxies.iter().map(|proxy| proxy.address).collect();
    measure(
        "envoy",
        round,
        &addresses[..2],
        &addresses[2..],
        &east,
        &west,
    )
    .await;
    Ok(())
}

async fn measure(
    gateway: &str,
    round: u64,
    eastern: &[SocketAddr],
    western: &[SocketAddr],
    east: &ScriptedBackend,
    west: &ScriptedBackend,
) {
    let eastern = traffic(eastern, EAST, round);
    let western = traffic(western, WEST, round + 100);
    sleep(CALM).await;
    let killed = Instant::now();
    east.behave(Behaviour::all(Answer::Refuse));
    sleep(OUTAGE).await;
    let end = Instant::now();
    eventually("everyone is answered", 3 * TIMEOUT, || async {
        settled(end.elapsed() >= TIMEOUT)
    })
    .await;
    let mut records = eastern.stop().await;
    records.extend(western.stop().await);
    records.retain(|r| r.at >= killed.into_std() && r.at < end.into_std());
    let worst = west
        .receipts()
        .per_second(killed.into_std(), end.into_std())
        .into_iter()
        .max();
    print(gateway, &records, worst.unwrap_or_default());
}

fn traffic(gateways: &[SocketAddr], rate: f64, seed: u64) -> Running {
    let targets = gateways.iter().map(|at| Target::new(&at.to_string(), *at));
    let caller = |priority, weight| Caller::new(priority, "x-priority", priority).weighing(weight);
    Load {
        rate,
        pacing: Pacing::Poisson,
        seed,
        path: "/pay/".to_owned(),
        timeout: 2 * TIMEOUT,
        callers: vec![
            caller("CRITICAL", 0.2),
            caller("NORMAL", 0.5),
            caller("LOW", 0.3),
        ],
        ..Load::new(targets.collect())
    }
    .start()
}

fn print(gateway: &str, records: &[Record], worst: usize) {
    let share = |caller: &str| {
        let of_caller = records
            .iter()
            .filter(|r| caller.is_empty() || &*r.caller == caller);
        let (all, served) = of_caller.fold((0_u32, 0_u32), |(all, served), record| {
            (all + 1, served + u32::from(record.is_served()))
        });
        100.0 * f64::from(served) / f64::from(all.max(1))
    };
    let mut latencies: Vec<_> = records
        .iter()
        .filter(|r| r.is_served())
        .map(|r| r.latency)
        .collect();
    latencies.sort_unstable();
    let p99 = latencies
        .get(latencies.len() * 99 / 100)
        .copied()
        .unwrap_or_default();
    println!(
        "{gateway:<10} {:>10.0} {:>8.1} % {:>10.1} % {:>10.1} % {:>11.0} ms {worst:>16}",
        latencies.len() as f64 / OUTAGE.as_secs_f64(),
        share(""),
        share("CRITICAL"),
        share("LOW"),
        p99.as_secs_f64() * 1000.0,
    );
}
