//! The demonstration, and what it is made of: backends that do as they are told
//! and traffic that keeps its schedule. The end-to-end tests use both.

pub mod backend;
pub mod cli;
pub mod fleet;
pub mod http;
pub mod load;
pub mod local;
pub mod patience;
pub mod random;
pub mod run;
pub mod scene;
pub mod stage;
pub mod story;
pub mod verdict;
pub mod view;
