//! What a running fleet costs: CPU and report bytes of each agent, CPU of the
//! control plane, and commands that Redis serves, at no traffic and at two
//! rates. The last must not depend on the rate.
//!
//! `cargo build --release --bins && cargo run --release -p bench --bin cost`

use std::time::Duration;

use bench::usage::{counter, cpu_time};
use e2e::{Fleet, FleetFile, RedisServer, get};
use rampmeter_demo::{backend::ScriptedBackend, load::Load};
use tokio::time::{Instant, sleep};

/// POPs, agents in each, and control-plane replicas.
const POPS: usize = 4;
const AGENTS_PER_POP: usize = 5;
const REPLICAS: usize = 2;

/// Requests a second over the whole fleet.
const RATES: [f64; 3] = [0.0, 200.0, 1000.0];

/// Long enough that a tick of 10 ms is below a thousandth.
const MEASURED: Duration = Duration::from_secs(15);

/// Connections and baselines settle before a measurement.
const WARM_UP: Duration = Duration::from_secs(3);

/// Sums over all processes of a kind since they started.
struct Sample {
    at: Instant,
    agents: Duration,
    control_planes: Duration,
    report_bytes: f64,
    redis_commands: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let redis = RedisServer::start().await?;
    let backend = ScriptedBackend::start(([127, 0, 0, 1], 0).into(), "pay").await?;
    let file = FleetFile::new(POPS, &["us-east"]).service("pay", &[("us-east", backend.address())]);
    let fleet = Fleet::start_with(&file, AGENTS_PER_POP, REPLICAS, &redis.url()).await?;
    println!(
        "{} agents in {POPS} POPs, {REPLICAS} control-plane replicas, one Redis, one backend; {} s each",
        fleet.agents.len(),
        MEASURED.as_secs()
    );
    println!(
        "{:>10}  {:>16}  {:>19}  {:>20}  {:>16}",
        "requests/s",
        "CPU per agent",
        "reports per agent",
        "CPU of both replicas",
        "Redis commands/s"
    );
    for rate in RATES {
        let load = (rate > 0.0).then(|| {
            Load {
                duration: WARM_UP + MEASURED + WARM_UP,
                ..fleet.load("pay", rate)
            }
            .start()
        });
        sleep(WARM_UP).await;
        let before = sample(&fleet, &redis).await?;
        sleep(MEASURED).await;
        let after = sample(&fleet, &redis).await?;
        print(rate, fleet.agents.len(), &before, &after);
        if let Some(load) = load {
            load.stop().await;
        }
    }
    Ok(())
}

async fn sample(fleet: &Fleet, redis: &RedisServer) -> anyhow::Result<Sample> {
    let mut sample = Sample {
        at: Instant::now(),
        agents: Duration::ZERO,
        control_planes: Duration::ZERO,
        report_bytes: 0.0,
        redis_commands: redis.commands_processed()?,
    };
    for agent in &fleet.agents {
        sample.agents += cpu_time(agent.process.id())?;
        let page = get(agent.admin, "/metrics").await?;
        sample.report_bytes += counter(&page.body, "rampmeter_agent_report_bytes_total");
    }
    for replica in &fleet.control_planes {
        sample.control_planes += cpu_time(replica.process.id())?;
    }
    Ok(sample)
}

fn print(rate: f64, agents: usize, before: &Sample, after: &Sample) {
    let seconds = (after.at - before.at).as_secs_f64();
    let share = |from: Duration, to: Duration| 100.0 * (to - from).as_secs_f64() / seconds;
    let bytes = (after.report_bytes - before.report_bytes) / seconds / agents as f64;
    let commands = (after.redis_commands - before.redis_commands) as f64 / seconds;
    println!(
        "{rate:>10}  {:>14.2} %  {bytes:>15.0} B/s  {:>18.2} %  {commands:>16.1}",
        share(before.agents, after.agents) / agents as f64,
        share(before.control_planes, after.control_planes),
    );
}
