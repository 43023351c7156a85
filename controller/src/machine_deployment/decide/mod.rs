//! What happens next to a MachineDeployment: a pure function from what is observed to a plan.
//!
//! In this order: whose the sets are ([`select`]), which of them is the new one ([`new_set`]), which revision they are
//! ([`revision`]), whether the template has proven itself ([`brake`]), how large each set shall be ([`rolling`],
//! [`on_delete`], [`paused`]), what its nodes will have ([`capacity`]), what the status says ([`status`]), and which old sets may go ([`history`]). Each changes
//! its copy of the sets; at the end, the difference to what is stored is what is written.

mod brake;
mod capacity;
mod draft;
mod hash;
mod history;
mod limits;
mod new_set;
mod on_delete;
mod paused;
mod revision;
mod rollback;
mod rolling;
mod select;
mod status;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use k8s_openapi::jiff::Timestamp;

pub use hash::{likeness_of, with_hash};

use super::observed::{Observed, Strategy};
use super::plan::Plan;
use draft::Draft;

/// The plan for a deployment as observed at `now`. The same observation and time give the same plan.
pub fn decide(observed: &Observed, now: Timestamp) -> Plan {
    let deployment = &observed.deployment;
    // Garbage collection takes its sets away; whoever deletes it wants nothing of us.
    if deployment.deleting {
        return Plan::default();
    }
    let mut draft = Draft::new(observed, now);
    if deployment.fault.is_some() || deployment.held_by.is_some() {
        new_set::find(&mut draft);
        status::decide(&mut draft);
        draft.forget_changes();
        return draft.finish();
    }
    draft.delete_rejected();
    draft.finalizer();
    select::decide(&mut draft);
    if rollback::decide(&mut draft) {
        return draft.finish();
    }
    new_set::find(&mut draft);
    if !deployment.paused {
        new_set::create(&mut draft);
    }
    revision::decide(&mut draft);
    brake::decide(&mut draft);
    match deployment.strategy {
        _ if deployment.paused || draft.held.is_some() => paused::decide(&mut draft),
        Strategy::RollingUpdate => rolling::decide(&mut draft),
        Strategy::OnDelete => on_delete::decide(&mut draft),
    }
    on_delete::mark(&mut draft);
    capacity::decide(&mut draft);
    history::forget_doubles(&mut draft);
    let complete = status::decide(&mut draft);
    if complete && !deployment.paused {
        history::decide(&mut draft);
    }
    draft.finish()
}
