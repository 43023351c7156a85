//! Clients of a cluster's API server that can neither hang nor be filled, nor write where this process must not.

pub mod answer;
pub mod breaker;
pub mod client;
pub mod clock;
mod deadline;
pub mod error;
pub mod fence;
pub(crate) mod json_strings;
pub mod kubeconfig;
pub mod traffic;
pub mod user_cluster;
