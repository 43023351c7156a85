//! The process: what it consists of, how it begins and ends, and what it serves over HTTP.

mod changes;
mod collectors;
mod reconcilers;
pub mod run;
pub mod server;
#[cfg(test)]
mod snapshot_laws;
pub mod tasks;
mod wiring;
