//! Draining the Node of a deleting Machine, as `kubectl drain` and Cluster API do it.
//!
//! - [`pod`] is a pod, projected to what a drain asks of it;
//! - [`budget`] is a PodDisruptionBudget, likewise;
//! - [`sort`] says what becomes of each, and what to evict now: pure;
//! - [`target`] is a pod to evict;
//! - [`drain_slots`] says how many Nodes of one MachineDeployment are drained at a time;
//! - [`watch`] keeps one watch of pods per draining Node, one of all budgets, and what was answered to evictions;
//! - [`evict`] asks the API server to evict them.
//!
//! When a Node is drained, and what comes before and after, is in `phases/drain.rs`.

pub mod budget;
pub mod claims;
pub mod evict;
pub mod pod;
pub mod slots;
pub mod sort;
pub mod target;
pub mod watch;

pub use pod::Pod;
pub use watch::{Drains, Seen};
