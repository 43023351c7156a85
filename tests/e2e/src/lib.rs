//! What end-to-end cases have in common: a bed, manifests, waiting by watch, request budgets and the leak checker.
//!
//! A case starts a [`Case`], works through the API as a user would, and ends with [`Case::finish`], which fails if
//! anything was left behind, and returns the bed for the next case ([`beds`]):
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use e2e::{Case, manifest};
//!
//! let case = Case::start().await?;
//! case.apply(&manifest::machine("worker-1")).await?;
//! case.node_ready("worker-1").await?;
//! case.delete_machine("worker-1").await?;
//! case.finish(&[]).await
//! # }
//! ```

pub mod beds;
pub mod boundary_values;
pub mod budget;
pub mod case;
mod case_timing;
pub mod certificates;
pub mod collector;
pub mod deletion_gate;
pub mod drain;
mod failure_log;
pub mod fields;
pub mod floor;
pub mod helm;
pub mod infra;
pub mod joins;
pub mod laws;
pub mod leaks;
pub mod load;
pub mod machine_controller;
pub mod manifest;
pub mod node_groups;
pub mod objects;
pub mod osm;
pub mod plugin;
pub mod preflight;
pub mod rbac_audit;
pub mod replicas;
pub mod rollout;
pub mod rules;
pub mod secrets;
pub mod usage;
pub mod vm;
pub mod vm_history;
pub mod wait;
pub mod webhook_certificates;

pub use case::Case;
