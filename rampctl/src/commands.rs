//! One function for each command: ask, then print.

use std::{
    io::{self, Read, Write},
    time::SystemTime,
};

use clap::CommandFactory;
use fleet_config::FleetConfig;
use rampmeter_api::v1::{
    ApplyConfigRequest, ApplyConfigResponse, BreakerState, ClearOverrideRequest,
    ExplainBackendRequest, GetConfigRequest, GetFleetRequest, ListAgentsRequest,
    ListAgentsResponse, ListBackendsRequest, ListBackendsResponse, Mode, OverrideBackendRequest,
    WatchBackendsRequest,
};

use crate::{
    cli::{self, Apply, Cli, Command, Output, Override, State},
    client::Client,
    failure::Failure,
    follow,
    json::{self, Named},
    view::{Eye, agents, backends, changes, explain, status},
    words,
};

/// Items asked for at a time.
const PAGE_SIZE: u32 = 1000;
/// Most pages that are asked for: a million items, and a server that never ends
/// its list ends here.
const MAX_PAGES: usize = 1000;

/// Where a command prints.
pub struct Io<'a> {
    /// What was asked for.
    pub out: &'a mut dyn Write,
    /// Remarks that must not get into a pipe.
    pub notes: &'a mut dyn Write,
    /// Whether `out` shows colour.
    pub colour: bool,
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
        Command::Apply(apply) => Some(read_file(apply)?),
        _ => None,
    };
    let client = Client::connect(&cli.control_plane, cli.timeout).await?;
    let output = cli.output;
    match cli.command {
        Command::Status => show_status(&client, output, io).await,
        Command::Backends { service, states } => {
            show_backends(&client, output, io, service, &states).await
        }
        Command::Explain { name } => show_explanation(&client, output, io, name).await,
        Command::Watch { service } => watch(&client, output, io, service).await,
        Command::Agents { pop } => show_agents(&client, output, io, pop).await,
        Command::Events {
            backend,
            follow,
            limit,
        } => {
            let backend = backend.unwrap_or_default();
            follow::events(&client, output, io, backend, limit, follow).await
        }
        Command::Apply(apply) => {
            apply_config(&client, output, io, &apply, yaml.unwrap_or_default()).await
        }
        Command::Config => show_config(&client, output, io).await,
        Command::Override(over) if over.clear => clear(&client, output, io, over).await,
        Command::Override(over) => force(&client, output, io, over).await,
        Command::Completions { .. } => Ok(()),
    }
}

async fn show_status(client: &Client, output: Output, io: &mut Io<'_>) -> Result<(), Failure> {
    let request = client.request(GetFleetRequest {});
    let fleet = client.answer(client.fleet().get_fleet(request).await)?;
    io.answer(output, &fleet, status::render)
}

async fn show_backends(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    service: Option<String>,
    states: &[State],
) -> Result<(), Failure> {
    let mut all = ListBackendsResponse::default();
    let mut request = ListBackendsRequest {
        service: service.unwrap_or_default(),
        states: states
            .iter()
            .map(|state| wire_state(*state).into())
            .collect(),
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    for _ in 0..MAX_PAGES {
        let call = client
            .fleet()
            .list_backends(client.request(request.clone()))
            .await;
        let page = client.answer(call)?;
        all.backends.extend(page.backends);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    io.answer(output, &all, |all, eye| {
        backends::render(&all.backends, eye)
    })
}

fn wire_state(state: State) -> BreakerState {
    match state {
        State::Closed => BreakerState::Closed,
        State::Open => BreakerState::Open,
        State::HalfOpen => BreakerState::HalfOpen,
    }
}

async fn show_explanation(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    name: String,
) -> Result<(), Failure> {
    let request = client.request(ExplainBackendRequest { name });
    let answer = client.answer(client.fleet().explain_backend(request).await)?;
    io.answer(output, &answer, explain::render)
}

async fn show_agents(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    pop: Option<String>,
) -> Result<(), Failure> {
    let mut all = ListAgentsResponse::default();
    let mut request = ListAgentsRequest {
        pop: pop.unwrap_or_default(),
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    for _ in 0..MAX_PAGES {
        let call = client
            .fleet()
            .list_agents(client.request(request.clone()))
            .await;
        let page = client.answer(call)?;
        all.agents.extend(page.agents);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    io.answer(output, &all, |all, eye| agents::render(&all.agents, eye))
}

async fn watch(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    service: Option<String>,
) -> Result<(), Failure> {
    let service = service.unwrap_or_default();
    // No deadline: it goes on until somebody ends it.
    let call = client
        .fleet()
        .watch_backends(WatchBackendsRequest { service })
        .await;
    let mut stream = client.answer(call)?;
    let mut shown = changes::Shown::default();
    if output == Output::Table {
        io.print(&changes::headings(io.eye()))?;
    }
    loop {
        let message = stream
            .message()
            .await
            .map_err(|status| client.failure(&status))?;
        let change = message.ok_or_else(|| client.ended())?;
        match output {
            Output::Json => io.json_line(&change)?,
            Output::Table => {
                if let Some(line) = shown.line(change, io.eye()) {
                    io.print(&line)?;
                }
            }
        }
    }
}

fn read_file(apply: &Apply) -> Result<String, Failure> {
    let failure = |reason: String| Failure::File {
        path: apply.file.display().to_string(),
        reason,
    };
    // One byte more than allowed tells that there is more.
    let limit = fleet_config::MAX_FILE_BYTES as u64 + 1;
    let mut text = String::new();
    let read = match apply.file.as_os_str() == "-" {
        true => io::stdin().take(limit).read_to_string(&mut text),
        false => std::fs::File::open(&apply.file)
            .and_then(|file| file.take(limit).read_to_string(&mut text)),
    };
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(failure("it is not UTF-8 text".to_owned()))
        }
        Err(error) => Err(failure(error.to_string())),
        Ok(_) if text.len() > fleet_config::MAX_FILE_BYTES => Err(failure(
            "it is larger than the 4 MiB a fleet file may have".to_owned(),
        )),
        Ok(_) => Ok(text),
    }
}

async fn apply_config(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    apply: &Apply,
    yaml: String,
) -> Result<(), Failure> {
    let source = apply.file.display().to_string();
    let request = client.request(ApplyConfigRequest {
        yaml: yaml.clone(),
        validate_only: apply.dry_run,
        expected_revision: apply.expected_revision,
        candidate: false,
    });
    let answer = match client.operator().apply_config(request).await {
        // The control plane is the judge: it may know more keys than this
        // rampctl. But where both refuse, errors that name the file read better.
        Err(status) if status.code() == tonic::Code::InvalidArgument => {
            let errors = FleetConfig::parse(&yaml, &source).err();
            let refused =
                errors.map(|errors| Failure::Refused(format!("the file is wrong\n{errors}")));
            return Err(refused.unwrap_or_else(|| client.failure(&status)));
        }
        result => client.answer(result)?,
    };
    io.answer(output, &answer, |answer, _| applied(answer))?;
    let read = FleetConfig::parse_lenient(&yaml, &source);
    for warning in read.map(|(_, warnings)| warnings).unwrap_or_default() {
        writeln!(io.notes, "warning: {warning}")?;
    }
    Ok(())
}

fn applied(answer: &ApplyConfigResponse) -> String {
    let lines = answer.changes.iter().map(|line| format!("{line}\n"));
    let revision = answer.revision;
    let end = match (answer.applied, answer.changes.is_empty()) {
        (true, _) => format!("applied: revision {revision} is in force\n"),
        (false, true) => format!("nothing changes: revision {revision} stays in force\n"),
        (false, false) => format!("not applied (dry run): revision {revision} stays in force\n"),
    };
    lines.chain([end]).collect()
}

async fn show_config(client: &Client, output: Output, io: &mut Io<'_>) -> Result<(), Failure> {
    let request = client.request(GetConfigRequest {});
    let answer = client.answer(client.operator().get_config(request).await)?;
    io.answer(output, &answer, |answer, _| answer.yaml.clone())?;
    if output == Output::Table {
        let applied = words::clock(answer.apply_time);
        let (revision, source) = (answer.revision, &answer.source);
        writeln!(
            io.notes,
            "revision {revision}, applied {applied} UTC from {source}"
        )?;
    }
    Ok(())
}

async fn force(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    over: Override,
) -> Result<(), Failure> {
    let mode = match over.mode {
        Some(cli::Mode::Open) => Mode::ForcedOpen,
        Some(cli::Mode::Closed) => Mode::ForcedClosed,
        Some(cli::Mode::Shadow) => Mode::Shadow,
        Some(cli::Mode::Disabled) => Mode::Disabled,
        None => Mode::Unspecified,
    };
    let expires_in = over
        .expires_in
        .and_then(|duration| duration.try_into().ok());
    let request = client.request(OverrideBackendRequest {
        name: over.name.clone(),
        mode: mode.into(),
        reason: over.reason,
        expires_in,
        actor: over.actor.unwrap_or_else(user),
        break_glass: over.break_glass,
    });
    let answer = client.answer(client.operator().override_backend(request).await)?;
    io.answer(output, &answer, |answer, _| {
        let set = answer.r#override.clone().unwrap_or_default();
        let mode = words::mode(set.mode());
        let until = words::clock(set.expire_time);
        let version = words::version(answer.version);
        format!(
            "{} is {mode} until {until} UTC (decision {version})\n",
            over.name
        )
    })
}

async fn clear(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    over: Override,
) -> Result<(), Failure> {
    let request = client.request(ClearOverrideRequest {
        name: over.name.clone(),
        reason: over.reason,
        actor: over.actor.unwrap_or_else(user),
    });
    let answer = client.answer(client.operator().clear_override(request).await)?;
    io.answer(output, &answer, |answer, _| {
        let version = words::version(answer.version);
        format!(
            "the override of {} is cleared (decision {version})\n",
            over.name
        )
    })
}

/// Who decides, as far as the shell knows.
fn user() -> String {
    let name = ["USER", "LOGNAME", "USERNAME"]
        .into_iter()
        .find_map(|key| std::env::var(key).ok());
    name.unwrap_or_else(|| "rampctl".to_owned())
}
