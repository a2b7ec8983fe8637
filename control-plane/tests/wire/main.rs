//! A replica over real gRPC with scripted agents: what is sent in, and what
//! comes out, for agents, operators and readers.

mod agents;
mod candidates;
mod configs;
mod drains;
mod drills;
mod harness;
mod loops;
mod operators;
mod ports;
mod probes;
mod quotas;
mod readers;
mod replicas;
mod steering;
mod throttle;
