//! The providers' I/O half: [`provider`] is what the controller knows of them, [`kubevirt`] the one that ships, and [`kube`]
//! and [`cache`] what both servers reach a cluster with and keep of it.

pub mod cache;
pub mod http_server;
pub mod kube;
pub mod kubevirt;
pub mod process;
pub mod provider;
pub mod providers;
pub mod telemetry;
