//! One function for each command: ask, then print.

mod config;
mod drill;
mod read;
mod steer;

use std::{io::Write, pin::Pin, time::SystemTime};

use clap::CommandFactory;

use crate::{
    cli::{Candidate, Cli, Command, Drill, Output, PlanAction},
    client::Client,
    failure::Failure,
    follow,
    json::{self, Named},
    view::Eye,
};

/// The process ends, or somebody ends a command early.
pub type Interrupt = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a command prints.
pub struct Io<'a> {
    /// What was asked for.
    pub out: &'a mut dyn Write,
    /// Remarks that must not get into a pipe.
    pub notes: &'a mut dyn Write,
    /// Whether `out` shows colour.
    pub colour: bool,
    /// Ctrl-C; looked at only by what must not be left alone.
    pub interrupt: Interrupt,
}

impl Io<'_> {
    pub(crate) fn eye(&self) -> Eye {
        Eye {
            now: SystemTime::now(),
            colour: self.colour,
        }
    }

    /// Prints and flushes: a stream's lines must not wait for more.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Prints a message as a JSON document.
    fn json<M: Named>(&mut self, message: &M) -> Result<(), Failure> {
        self.print(&json::text(message, true)?)
    }

    /// Prints a message as one line of JSON.
    pub(crate) fn json_line<M: Named>(&mut self, message: &M) -> Result<(), Failure> {
        self.print(&json::text(message, false)?)
    }

    /// Prints in either way.
    pub(crate) fn answer<M: Named>(
        &mut self,
        output: Output,
        message: &M,
        view: impl FnOnce(&M, Eye) -> String,
    ) -> Result<(), Failure> {
        match output {
            Output::Json => self.json(message),
            Output::Table => {
                let text = view(message, self.eye());
                self.print(&text)
            }
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Why it did not succeed; see [`Failure::exit_code`].
pub async fn run(cli: Cli, io: &mut Io<'_>) -> Result<(), Failure> {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "rampctl", &mut script);
        return Ok(io.out.write_all(&script)?);
    }
    let yaml = match &cli.command {
        Command::Apply(apply) => config::read_file(&apply.file)?,
        Command::Candidate(Candidate::Set { file, .. }) => config::read_file(file)?,
        _ => String::new(),
    };
    let client = &Client::connect(&cli.control_plane, cli.timeout).await?;
    let output = cli.output;
    match cli.command {
        Command::Status => read::show_status(client, output, io).await,
        Command::Backends { service, states } => {
            read::show_backends(client, output, io, service, &states).await
        }
        Command::Explain { name } => read::show_explanation(client, output, io, name).await,
        Command::Services => read::show_services(client, output, io).await,
        Command::Service { name } => read::show_service(client, output, io, name).await,
        Command::Watch { service } => read::watch(client, output, io, service).await,
        Command::Agents { pop } => read::show_agents(client, output, io, pop).await,
        Command::Events {
            backend,
            service,
            follow,
            limit,
        } => {
            let about = follow::About::new(backend, service);
            follow::events(client, output, io, about, limit, follow).await
        }
        Command::Apply(apply) => config::apply_config(client, output, io, &apply, yaml).await,
        Command::Config => config::show_config(client, output, io).await,
        Command::Override(over) if over.clear => steer::clear(client, output, io, over).await,
        Command::Override(over) => steer::force(client, output, io, over).await,
        Command::Drain(drain) => steer::drain(client, output, io, drain).await,
        Command::Undrain(undrain) => steer::undrain(client, output, io, undrain).await,
        Command::Plan(plan) => match plan.action {
            Some(PlanAction::Approve(approve)) => steer::approve(client, output, io, approve).await,
            None => {
                let service = plan.service.unwrap_or_default();
                steer::show_plan(client, output, io, service).await
            }
        },
        Command::Drill(Drill::Failover(failover)) => {
            drill::failover(client, output, io, failover).await
        }
        Command::Drill(Drill::List { service }) => drill::list(client, output, io, service).await,
        Command::Drill(Drill::Show { id }) => drill::show(client, output, io, id).await,
        Command::Drill(Drill::Stop { id, why }) => drill::stop(client, output, io, id, why).await,
        Command::Candidate(Candidate::Set { file, dry_run }) => {
            config::set_candidate(client, output, io, &file, yaml, dry_run).await
        }
        Command::Candidate(Candidate::Show { service }) => {
            config::show_candidate(client, output, io, service).await
        }
        Command::Candidate(Candidate::Drop(why)) => {
            config::drop_candidate(client, output, io, why).await
        }
        Command::Completions { .. } => Ok(()),
    }
}

/// Who decides, as far as the shell knows.
fn user() -> String {
    let name = ["USER", "LOGNAME", "USERNAME"]
        .into_iter()
        .find_map(|key| std::env::var(key).ok());
    name.unwrap_or_else(|| "rampctl".to_owned())
}
