//! Fleet files: the one in force, and the one beside it.

use std::{
    io::{self, Read},
    path::Path,
};

use fleet_config::FleetConfig;
use rampmeter_api::v1::{
    ApplyConfigRequest, ApplyConfigResponse, DropCandidateRequest, GetCandidateRequest,
    GetConfigRequest,
};

use super::{Io, user};
use crate::{
    cli::{Apply, Output, Why},
    client::Client,
    failure::Failure,
    view::candidate,
    words,
};

/// Reads a fleet file, or standard input.
pub(super) fn read_file(path: &Path) -> Result<String, Failure> {
    let failure = |reason: String| Failure::File {
        path: path.display().to_string(),
        reason,
    };
    // One byte more than allowed tells that there is more.
    let limit = fleet_config::MAX_FILE_BYTES as u64 + 1;
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().take(limit).read_to_string(&mut text),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
        }
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

pub(super) async fn apply_config(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    apply: &Apply,
    yaml: String,
) -> Result<(), Failure> {
    let request = ApplyConfigRequest {
        yaml,
        validate_only: apply.dry_run,
        expected_revision: apply.expected_revision,
        candidate: false,
    };
    hand_in(client, output, io, &apply.file, request).await
}

pub(super) async fn set_candidate(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    file: &Path,
    yaml: String,
    dry_run: bool,
) -> Result<(), Failure> {
    let request = ApplyConfigRequest {
        yaml,
        validate_only: dry_run,
        expected_revision: 0,
        candidate: true,
    };
    hand_in(client, output, io, file, request).await
}

async fn hand_in(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    file: &Path,
    request: ApplyConfigRequest,
) -> Result<(), Failure> {
    let source = file.display().to_string();
    let sent = client.request(request.clone());
    let answer = match client.operator().apply_config(sent).await {
        // The control plane is the judge: it may know more keys than this
        // rampctl. But where both refuse, errors that name the file read better.
        Err(status) if status.code() == tonic::Code::InvalidArgument => {
            let errors = FleetConfig::parse(&request.yaml, &source).err();
            let refused =
                errors.map(|errors| Failure::Refused(format!("the file is wrong\n{errors}")));
            return Err(refused.unwrap_or_else(|| client.failure(&status)));
        }
        result => client.answer(result)?,
    };
    let view = if request.candidate { beside } else { applied };
    io.answer(output, &answer, |answer, _| view(answer))?;
    let read = FleetConfig::parse_lenient(&request.yaml, &source);
    for warning in read.map(|(_, warnings)| warnings).unwrap_or_default() {
        writeln!(io.notes, "warning: {warning}")?;
    }
    Ok(())
}

fn applied(answer: &ApplyConfigResponse) -> String {
    let revision = answer.revision;
    let end = match (answer.applied, answer.changes.is_empty()) {
        (true, _) => format!("applied: revision {revision} is in force\n"),
        (false, true) => format!("nothing changes: revision {revision} stays in force\n"),
        (false, false) => format!("not applied (dry run): revision {revision} stays in force\n"),
    };
    changes(answer) + &end
}

fn beside(answer: &ApplyConfigResponse) -> String {
    let revision = answer.revision;
    let end = match answer.applied {
        true => format!(
            "it runs beside revision {revision} and acts on nothing: `rampctl candidate show` tells \
             what it would have done\n"
        ),
        false => format!("not set (dry run): only revision {revision} runs\n"),
    };
    changes(answer) + &end
}

fn changes(answer: &ApplyConfigResponse) -> String {
    let lines = answer.changes.iter().map(|line| format!("{line}\n"));
    lines.collect()
}

pub(super) async fn show_candidate(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    service: Option<String>,
) -> Result<(), Failure> {
    let request = client.request(GetCandidateRequest {
        service: service.unwrap_or_default(),
    });
    let answer = client.answer(client.fleet().get_candidate(request).await)?;
    io.answer(output, &answer, candidate::render)
}

pub(super) async fn drop_candidate(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    why: Why,
) -> Result<(), Failure> {
    let request = client.request(DropCandidateRequest {
        reason: why.reason,
        actor: why.actor.unwrap_or_else(user),
    });
    let answer = client.answer(client.operator().drop_candidate(request).await)?;
    io.answer(output, &answer, |_, _| {
        "the candidate runs no longer\n".to_owned()
    })
}

pub(super) async fn show_config(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
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
