//! What both servers agree on: the API types of `cluster.k8s.io/v1alpha1`, its names, and the pure half of
//! the providers. Nothing here does I/O, reads a clock or draws a random number.

pub mod admission;
pub mod api;
pub mod kubevirt;
pub mod provider;
pub mod provider_spec;
pub mod providers;
