//! What the agent tells about single requests: W3C trace context, spans for an
//! OpenTelemetry collector, and an access log.
//!
//! A request that is watched carries one [`Telling`](telling::Telling), which is
//! filled in on its way and told when the last byte of its response, or its
//! client, is gone. Telling is an attempt to put a record into a bounded queue of
//! the core: nobody is woken, nothing is waited for, and a full queue loses the
//! record and counts it. A thread writes the log and a task exports the spans;
//! they look into the queues by themselves.
//!
//! | file | what |
//! |---|---|
//! | `context` | `traceparent` and `tracestate`, strictly |
//! | `ids` | random ids |
//! | `record` | what is known about a request |
//! | `telling` | a request's record while it runs |
//! | `watched` | a response's body, counted and timed |
//! | `setup` | what is told in the configuration in force, and each core's part |
//! | `desk` | puts a configuration into force, and ends what the last one started |
//! | `flood` | how many failures are written down |
//! | `line`, `writer` | the access log |
//! | `otlp`, `spans`, `export` | the collector |

pub(crate) mod context;
pub(crate) mod counts;
pub(crate) mod desk;
pub(crate) mod export;
mod flood;
mod ids;
mod line;
mod otlp;
pub(crate) mod record;
pub(crate) mod setup;
mod spans;
pub(crate) mod telling;
pub(crate) mod watched;
mod writer;
