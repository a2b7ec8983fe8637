//! What the command line asks for.

use std::{io::Write, net::SocketAddr, process::ExitCode, time::Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    backend::ScriptedBackend,
    cli::{Backend, Cli, Command, Demo, Output},
    local::{self, Cost},
    scene::{self, PAYMENTS_RATE, SEARCH_RATE, VICTIM},
    stage::Stage,
    story::{self, Figures},
    verdict::{self, Check},
    view::{View, human},
};

/// Runs it.
///
/// # Errors
/// Something could not be started, or an act of the story never ended.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Some(Command::Backend(options)) => backend(options).await,
        None => demo(&cli.demo).await,
    }
}

/// Serves until it is told to stop.
async fn backend(options: Backend) -> anyhow::Result<ExitCode> {
    let backend = ScriptedBackend::start_remote(options.listen, &options.name)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    backend.behave(options.behave);
    println!(
        "backend {} listening on {}",
        options.name,
        backend.address()
    );
    stopped().await?;
    Ok(ExitCode::SUCCESS)
}

async fn demo(options: &Demo) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let view = match options.output {
        Output::Text => View::on_stdout(),
        Output::Json => View::silent(),
    };
    let mut stage = Stage::set(view).await?;
    let figures = story::play(&mut stage).await?;
    stage.view.end_status();
    stage
        .view
        .tell("for comparison: the same outage, the same agents, local breakers only");
    let alone = local::outage().await?;
    let checks = figures.checks(&alone);
    let passed = checks.iter().all(|check| check.passed);
    match options.output {
        Output::Text => show(&figures, &alone, &checks, start),
        Output::Json => println!("{:#}", json(&stage, &figures, &alone, &checks)),
    }
    if options.keep {
        keep(stage, options.output).await?;
    }
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(figures: &Figures, alone: &Cost, checks: &[Check], start: Instant) {
    let broken = checks.iter().filter(|check| !check.passed).count();
    let verdict = match broken {
        0 => "the fleet kept every promise".to_owned(),
        broken => format!("{broken} of {} promises were broken", checks.len()),
    };
    println!(
        "\n{}\n\n{}\n\n  {verdict}; {} in all",
        comparison(figures, alone),
        verdict::checks(checks),
        human(start.elapsed())
    );
}

fn comparison(figures: &Figures, alone: &Cost) -> String {
    let row = |what: &str, fleet: String, alone: String| vec![what.to_owned(), fleet, alone];
    let none = || "-".to_owned();
    verdict::table(&[
        row(
            &format!("{VICTIM} answers 503"),
            "the fleet".into(),
            "local breakers only".into(),
        ),
        row(
            "requests that reached it before every agent stopped",
            figures.cost.reached.to_string(),
            alone.reached.to_string(),
        ),
        row(
            "from the onset to the last agent's opening",
            human(figures.cost.open_after),
            human(alone.open_after),
        ),
        row(
            "trials in the first half-open round",
            figures.cost.trials.to_string(),
            alone.trials.to_string(),
        ),
        row(
            "from the heal to the breaker's closing",
            human(figures.heal_to_closed),
            none(),
        ),
        row(
            "from the heal to full admission",
            human(figures.heal_to_full),
            none(),
        ),
    ])
}

fn json(stage: &Stage, figures: &Figures, alone: &Cost, checks: &[Check]) -> Value {
    let ms = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    let timeline = stage
        .view
        .told()
        .iter()
        .map(|(at, line)| json!({ "at_ms": ms(*at), "line": line }));
    json!({
        "passed": checks.iter().all(|check| check.passed),
        "checks": checks.iter().map(Check::json).collect::<Vec<_>>(),
        "fleet": {
            "reached": figures.cost.reached,
            "all_open_after_ms": ms(figures.cost.open_after),
            "rounds": figures.rounds,
            "trials": figures.trials,
            "clients_failed": figures.failed,
            "clients_refused": figures.refusals,
            "refusal_wait_p50_ms": ms(figures.refusal_wait),
            "heal_to_closed_ms": ms(figures.heal_to_closed),
            "heal_to_full_ms": ms(figures.heal_to_full),
            "ramp_excess": figures.ramp_excess,
        },
        "local_breakers_only": {
            "reached": alone.reached,
            "all_open_after_ms": ms(alone.open_after),
            "trials": alone.trials,
        },
        "timeline": timeline.collect::<Vec<_>>(),
    })
}

/// Leaves everything running, with what can be tried.
async fn keep(stage: Stage, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Text => println!("{}", to_try(&stage)),
        // Standard output has the JSON, and nothing else.
        Output::Json => eprintln!("{}", to_try(&stage)),
    }
    std::io::stdout().flush()?;
    let addresses = stage.fleet.agents.addresses();
    tokio::spawn(traffic(addresses.clone(), "payments", PAYMENTS_RATE));
    tokio::spawn(traffic(addresses, "search", SEARCH_RATE));
    // The story's own traffic has done its part.
    let Stage {
        payments, search, ..
    } = &stage;
    payments.end();
    search.end();
    stopped().await
}

fn to_try(stage: &Stage) -> String {
    let control_plane = stage.fleet.control_plane;
    let mut lines = vec![format!(
        "\n  {:<14} {control_plane} (gRPC), http://{} (metrics)",
        "control plane", stage.fleet.http
    )];
    lines.extend(stage.fleet.agents.iter().map(|agent| {
        let (name, listen, admin) = (agent.id.to_string(), agent.listen, agent.admin);
        format!("  {name:<14} http://{listen} (admin http://{admin})")
    }));
    let east = stage.backends.east.address();
    let service = "rampmeter.v1.FleetService";
    lines.push(format!(
        "
  Everything keeps running, with its traffic, until Ctrl-C. Try:

  grpcurl -plaintext {control_plane} {service}/ListBackends
  grpcurl -plaintext -d '{{\"name\":\"{VICTIM}\"}}' {control_plane} {service}/ExplainBackend
  grpcurl -plaintext {control_plane} {service}/WatchBackends

  and break it again, at its own address:

  curl -X POST http://{east}/_script/503
  curl -X POST http://{east}/_script/ok"
    ));
    lines.join("\n")
}

/// Traffic without end, in loads that forget what they have recorded.
async fn traffic(agents: Vec<(String, SocketAddr)>, service: &'static str, rate: f64) {
    for seed in 3.. {
        scene::load(&agents, service, rate, seed)
            .start()
            .finish()
            .await;
    }
}

/// Ctrl-C or SIGTERM.
async fn stopped() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
