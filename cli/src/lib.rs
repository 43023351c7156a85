//! `kubectl machinist`: questions to Machinist that no object answers.
//!
//! ```text
//! flags ──▶ infra_namespaces (credentials ▶ clients) ──▶ survey (objects) ──▶ machines (living owners) ──▶ report, delete
//! ```
//!
//! Machines are always read after the objects of the infra clusters: a VM is created after its Machine, so an observed
//! VM without a Machine is an orphan.

pub mod adopt;
pub mod delete;
pub mod flags;
pub mod hand_back;
pub mod infra_namespaces;
pub mod kind;
pub mod machines;
pub mod nodes;
pub mod report;
pub mod run;
pub mod survey;
