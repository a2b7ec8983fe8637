//! Events: the latest, and new ones as they happen.

use std::collections::HashSet;

use rampmeter_api::v1::{Event, ListEventsRequest, ListEventsResponse, WatchEventsRequest};

use crate::{cli::Output, client::Client, commands::Io, failure::Failure, view::events as view};

/// What the events are about; all when empty.
pub(crate) struct About {
    backend: String,
    service: String,
}

impl About {
    pub(crate) fn new(backend: Option<String>, service: Option<String>) -> Self {
        Self {
            backend: backend.unwrap_or_default(),
            service: service.unwrap_or_default(),
        }
    }
}

pub(crate) async fn events(
    client: &Client,
    output: Output,
    io: &mut Io<'_>,
    about: About,
    limit: u32,
    follow: bool,
) -> Result<(), Failure> {
    // Listen first and ask for the past second, so that nothing falls between;
    // what comes both ways is shown once.
    let stream = match follow {
        true => {
            let request = WatchEventsRequest {
                backend: about.backend.clone(),
                service: about.service.clone(),
            };
            Some(client.answer(client.fleet().watch_events(request).await)?)
        }
        false => None,
    };
    let request = client.request(ListEventsRequest {
        backend: about.backend.clone(),
        page_size: limit,
        page_token: String::new(),
        service: about.service.clone(),
    });
    let mut past = client.answer(client.fleet().list_events(request).await)?;
    past.events.reverse();
    let Some(mut stream) = stream else {
        return print_past(output, io, &past);
    };
    for event in &past.events {
        print(output, io, event)?;
    }
    let seen: HashSet<String> = past.events.into_iter().map(|event| event.id).collect();
    loop {
        let message = stream
            .message()
            .await
            .map_err(|status| client.failure(&status))?;
        let event = message.ok_or_else(|| client.ended())?.event;
        let new = |event: &Event| !seen.contains(&event.id);
        if let Some(event) = event.filter(new) {
            print(output, io, &event)?;
        }
    }
}

fn print_past(output: Output, io: &mut Io<'_>, past: &ListEventsResponse) -> Result<(), Failure> {
    io.answer(output, past, |past, eye| {
        view::table(past.events.iter()).render(eye.colour)
    })
}

fn print(output: Output, io: &mut Io<'_>, event: &Event) -> Result<(), Failure> {
    match output {
        Output::Json => io.json_line(event),
        Output::Table => io.print(&view::line(event, io.eye())),
    }
}
