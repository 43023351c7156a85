//! The controller: makes Machines into Nodes, and takes them down again.

pub mod backoff;
pub mod bootstrap;
pub mod context;
pub mod creation_limit;
pub mod csr;
pub mod events;
pub mod flags;
pub mod leader;
pub mod machine;
pub mod machine_deployment;
pub mod machine_set;
pub mod metrics;
pub mod node_groups;
pub mod orphans;
pub mod pass;
pub mod queue;
pub mod reconcile;
pub mod recreation;
pub mod run;
pub mod scraped;
pub mod server;
pub mod tasks;
pub mod user;
pub mod webhook_certificate;
pub mod worker;
