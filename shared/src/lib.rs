//! What both servers agree on: the API types of `cluster.k8s.io/v1alpha1`, its names, and the pure half of
//! the providers. Nothing here does I/O, reads a clock or draws a random number.

pub mod admission;
pub mod api;
pub mod kubevirt;
pub mod provider;
pub mod provider_spec;
pub mod providers;

// Paths of before, for the controller.
pub use admission::{autoscaler, kubelet_settings, kubelet_version, startup_taints, template};
pub use api::{config_var, crd, decode, field, names, quantity, syntax};
pub use provider_spec::{network, operating_system};
