//! Code that both servers share: the API types of `cluster.k8s.io/v1alpha1`, its names, and the pure half of the
//! providers. This crate does no I/O, reads no clock and generates no random numbers.

pub mod admission;
pub mod api;
pub mod kubevirt;
pub mod provider;
pub mod provider_spec;
pub mod providers;
