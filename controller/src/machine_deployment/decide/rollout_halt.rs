//! The rollout halt: a template whose Machines fail to join stops the rollout before it replaces the whole pool.
//!
//! It is decided from what is stored, so it survives a restart: a Machine that runs out of time to join is noted on its
//! set before it is deleted ([`annotation::MACHINE_FAILED`]), and a set whose Machine was available once bears
//! [`annotation::PROVEN`].

use machinist_shared::api::names::annotation;

use super::super::snapshot::types::{Set, Strategy};
use super::pool::Pool;

/// Notes on each set that a Machine of its template was available.
pub(super) fn note(pool: Pool<'_>) -> Pool<'_> {
    pool.with_members(|_, set| {
        if set.available > 0 {
            set.annotations
                .insert(annotation::PROVEN.to_owned(), "true".to_owned());
            set.annotations.remove(annotation::MACHINE_FAILED);
        }
    })
}

/// Why the rollout is halted, if it is.
pub(super) fn cause(pool: &Pool<'_>) -> Option<String> {
    let deployment = &pool.observed.deployment;
    // Without old Machines there is no pool to protect, and a person who deletes them one by one sees the failures.
    let rolls = deployment.strategy == Strategy::RollingUpdate
        && !deployment.paused
        && pool.old().any(|set| set.replicas > 0);
    pool.new_set().filter(|_| rolls).and_then(failure)
}

/// Why no further Machine should be created from this set's template, if that is so.
fn failure(set: &Set) -> Option<String> {
    let unproven = !set.annotations.contains_key(annotation::PROVEN) && set.replicas > 0;
    let noted = || set.annotation(annotation::MACHINE_FAILED).map(str::to_owned);
    let failed = || set.machines.failed.as_ref().map(ToString::to_string);
    unproven.then(|| failed().or_else(noted)).flatten()
}
