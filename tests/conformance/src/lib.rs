//! What every provider must do, as cases that run against each of them alike, each on a [`Bed`] of its own.
//!
//! `tests/kubevirt.rs` runs them against KubeVirt on a real control plane, `tests/directory.rs` against [`directory`], a
//! small provider whose instances are directories: an example of both halves of a provider, and the proof that nothing
//! here is KubeVirt's alone.

pub mod bed;
mod cases;
pub mod directory;
mod pure;
mod subject;

pub use bed::Bed;
pub use cases::run;
pub use subject::Subject;
