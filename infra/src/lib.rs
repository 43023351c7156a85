//! The providers' I/O half: [`provider`] is their interface to the controller, [`kubevirt`] the built-in one. [`kube`]
//! and [`cache`] are the API clients and caches of both servers.

pub mod backoff;
pub mod cache;
pub mod http_server;
pub mod kube;
pub mod kubevirt;
pub mod process;
pub mod provider;
pub mod providers;
pub mod telemetry;
