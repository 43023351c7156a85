//! The admission webhook: HTTP, AdmissionReview, JSON Patch and warnings around the pure rules in `machinist-shared`.

pub mod access;
pub mod admit;
pub mod body;
pub mod certificate;
pub mod flags;
mod handler;
pub mod infra;
mod kind;
mod kubeconfig;
pub mod metrics;
pub mod names;
mod object;
mod ops;
mod pool;
mod refusal;
mod review;
pub mod run;
pub mod server;
pub mod skew;
mod stored;
