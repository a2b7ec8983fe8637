//! Questions about the fleet.

use rampmeter_api::v1::{
    BreakerState, ExplainBackendRequest, GetFleetRequest, GetServiceRequest, ListAgentsRequest,
    ListAgentsResponse, ListBackendsRequest, ListBackendsResponse, ListServicesRequest,
    WatchBackendsRequest,
};

use super::Io;
use crate::{
    cli::{Output, State},
    client::Client,
    failure::Failure,
    view::{agents, backends, changes, explain, services, status},
};

/// Items asked for at a time.
const PAGE_SIZE: u32 = 1000;
/// Most pages that are asked for: a million items, and a server that never ends
/// its list ends here.
const MAX_PAGES: usize = 1000;

pub(super) async fn show_status(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    let request = client.request(GetFleetRequest {});
    let fleet = client.answer(client.fleet().get_fleet(request).await)?;
    io.answer(output, &fleet, status::render)
}

pub(super) async fn show_services(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    let request = client.request(ListServicesRequest {});
    let answer = client.answer(client.fleet().list_services(request).await)?;
    let backends = match output {
        Output::Table => list_backends(client, None, &[]).await?.backends,
        Output::Json => Vec::new(),
    };
    io.answer(output, &answer, |answer, eye| {
        services::list(&answer.services, &backends, eye)
    })
}

pub(super) async fn show_service(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    name: String,
) -> Result<(), Failure> {
    let request = client.request(GetServiceRequest { name });
    let answer = client.answer(client.fleet().get_service(request).await)?;
    io.answer(output, &answer, services::render)
}

pub(super) async fn show_backends(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    service: Option<String>,
    states: &[State],
) -> Result<(), Failure> {
    let all = list_backends(client, service, states).await?;
    io.answer(output, &all, |all, eye| {
        backends::render(&all.backends, eye)
    })
}

async fn list_backends(
    client: &Client,
    service: Option<String>,
    states: &[State],
) -> Result<ListBackendsResponse, Failure> {
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
    Ok(all)
}

fn wire_state(state: State) -> BreakerState {
    match state {
        State::Closed => BreakerState::Closed,
        State::Open => BreakerState::Open,
        State::HalfOpen => BreakerState::HalfOpen,
    }
}

pub(super) async fn show_explanation(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    name: String,
) -> Result<(), Failure> {
    let request = client.request(ExplainBackendRequest { name: name.clone() });
    let answer = client.answer(client.fleet().explain_backend(request).await)?;
    let service = match (output, name.split_once('/')) {
        (Output::Table, Some((service, _))) => service.to_owned(),
        _ => return io.answer(output, &answer, explain::render),
    };
    // What the plan has for it. An explanation without it is one, too.
    let request = client.request(GetServiceRequest { name: service });
    let service = client.fleet().get_service(request).await;
    let plan = service.ok().and_then(|answer| answer.into_inner().plan);
    io.answer(output, &answer, |answer, eye| {
        explain::with_plan(answer, plan.as_ref(), eye)
    })
}

pub(super) async fn show_agents(
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

pub(super) async fn watch(
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
