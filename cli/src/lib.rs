//! `kubectl machinist`: what a person asks of Machinist that no object tells.
//!
//! ```text
//! flags ──▶ places (credentials ▶ clients) ──▶ survey (what is there) ──▶ machines (who lives) ──▶ report, delete
//! ```
//!
//! Machines are always read after the objects of the infra clusters: a VM is made after its Machine, so one that was seen
//! and whose Machine is not there has none.

pub mod delete;
pub mod flags;
pub mod kind;
pub mod machines;
pub mod nodes;
pub mod places;
pub mod report;
pub mod run;
pub mod survey;
