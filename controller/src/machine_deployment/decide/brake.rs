//! The brake: a template whose Machines fail to join stops the rollout instead of eating the pool.
//!
//! It is decided from what is stored, so it survives a restart: a Machine that runs out of time to join is noted on its
//! set before it is deleted ([`annotation::MACHINE_FAILED`]), and a set whose Machine was available once bears
//! [`annotation::PROVEN`].

use machinist_shared::api::names::annotation;

use super::super::observed::{Set, Strategy};
use super::draft::Draft;

pub(super) fn decide(draft: &mut Draft<'_>) {
    for (_, set) in draft.members_mut().filter(|(_, set)| set.available > 0) {
        set.annotations
            .insert(annotation::PROVEN.to_owned(), "true".to_owned());
        set.annotations.remove(annotation::MACHINE_FAILED);
    }
    let deployment = &draft.observed.deployment;
    // Without old Machines there is nothing to be eaten, and a person who deletes them one by one needs no brake.
    let rolls = deployment.strategy == Strategy::RollingUpdate
        && !deployment.paused
        && draft.old().any(|set| set.replicas > 0);
    if !rolls {
        return;
    }
    let failed = draft.new_set().and_then(failure);
    draft.halted = failed;
}

/// Why no further Machine shall be made of this set's template, if that is so.
fn failure(set: &Set) -> Option<String> {
    let unproven = !set.annotations.contains_key(annotation::PROVEN) && set.replicas > 0;
    let noted = || set.annotation(annotation::MACHINE_FAILED).map(str::to_owned);
    let failed = || set.machines.failed.as_ref().map(ToString::to_string);
    unproven.then(|| failed().or_else(noted)).flatten()
}
