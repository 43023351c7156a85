//! The controller: makes Machines into Nodes, and takes them down again.

#[macro_use]
mod reasons;

pub mod app;
pub mod autoscaler;
pub mod bootstrap;
pub mod cache;
pub mod certificates;
pub mod config;
pub mod context;
pub mod csr;
pub mod kstatus;
pub mod leader;
pub mod machine;
pub mod machine_deployment;
pub mod machine_set;
pub mod orphans;
pub mod routing;
pub mod runtime;
pub mod telemetry;

/// For samples that tools read, too.
#[cfg(test)]
extern crate self as machinist_controller;
