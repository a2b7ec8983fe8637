//! `rampctl`: what an operator asks and decides, from a shell or a script.
//!
//! A library with a small `main`, so that tests use the same door. Rendering is
//! pure: messages and the time go in, text comes out.

mod cli;
mod client;
mod commands;
mod failure;
mod follow;
mod json;
mod style;
mod table;
mod view;
mod words;

pub use cli::{Cli, Command, Output};
pub use commands::{Interrupt, Io, run};
pub use failure::Failure;
