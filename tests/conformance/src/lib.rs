//! What every provider must guarantee: the same cases run against each provider, each on a [`ProviderBed`] of its own.
//!
//! `tests/kubevirt.rs` runs them against KubeVirt on a real control plane, `tests/directory.rs` against [`directory`], a
//! small provider whose instances are directories: an example of both halves of a provider, and the proof that no case
//! depends on KubeVirt.

pub mod bed;
mod cases;
pub mod directory;
mod pure;
mod subject;

pub use bed::ProviderBed;
pub use cases::run;
pub use subject::Subject;
