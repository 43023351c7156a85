//! Clients of a cluster's API server with limits on time and memory, and fenced writes.

pub mod answer;
pub mod breaker;
pub mod client;
pub mod clock;
mod deadline;
pub mod error;
pub mod fence;
pub(crate) mod json_strings;
pub mod kubeconfig;
mod layer;
pub mod traffic;
pub mod user_cluster;
