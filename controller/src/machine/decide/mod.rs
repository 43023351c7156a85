//! From a snapshot to a plan: a pure function, without I/O, clock or randomness.
//!
//! [`super::phases`] ask the questions of a Machine's life in order; [`super::status`] makes one plan of what they result in.

#[cfg(test)]
mod tests;

use k8s_openapi::jiff::Timestamp;

use super::plan::Plan;
use super::snapshot::types::Snapshot;
use super::{phases, status};

/// What to do for one Machine.
pub fn decide(observed: &Snapshot, now: Timestamp) -> Plan {
    if observed.machine.is_anothers(&observed.settings.name) {
        return Plan::default();
    }
    status::plan(observed, phases::run(observed, now), now)
}
