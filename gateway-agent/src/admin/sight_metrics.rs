//! The part of `/metrics` that is about clients' connections, and what is
//! told of single requests.

use crate::{admin::metrics::Page, fleet::control::Control};

pub(super) fn add(control: &Control, page: &mut Page) {
    page.one(
        "rampmeter_agent_connections",
        "gauge",
        "Connections from clients.",
        control.places.taken(),
    );
    let counts = &control.sight.counts;
    for (name, help, count) in [
        (
            "rampmeter_agent_access_log_written_total",
            "Lines of the access log that were written.",
            &counts.lines_written,
        ),
        (
            "rampmeter_agent_access_log_dropped_total",
            "Lines of the access log that were lost: too many at once, or the file cannot be written.",
            &counts.lines_dropped,
        ),
        (
            "rampmeter_agent_access_log_suppressed_total",
            "Failures that were not written down because there were too many.",
            &counts.lines_suppressed,
        ),
        (
            "rampmeter_agent_spans_exported_total",
            "Spans that the collector took.",
            &counts.spans_exported,
        ),
        (
            "rampmeter_agent_spans_dropped_total",
            "Spans that were lost: too many at once, or the collector did not take them.",
            &counts.spans_dropped,
        ),
    ] {
        page.one(name, "counter", help, count.get());
    }
}
