//! What both servers agree on: the API types of `cluster.k8s.io/v1alpha1`, its names, and the pure half of
//! the providers. Nothing here does I/O, reads a clock or draws a random number.

pub mod admission;
pub mod api;
pub mod autoscaler;
pub mod command_line;
pub mod config_var;
pub mod crd;
pub mod decode;
pub mod field;
pub mod kubelet_settings;
pub mod kubelet_version;
pub mod kubevirt;
pub mod names;
pub mod network;
pub mod operating_system;
pub mod provider;
pub mod provider_spec;
pub mod quantity;
pub mod ssh;
pub mod startup_taints;
pub mod syntax;
pub mod template;
