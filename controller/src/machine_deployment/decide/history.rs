//! Old sets are kept for rollbacks, as many as `revisionHistoryLimit` says.

use super::super::observed::Likeness;
use super::super::plan::Step;
use super::draft::Draft;

/// Deletes the oldest sets beyond the limit, once a rollout is complete. A candidate that still has Machines stays, and no
/// younger one goes in its place.
pub(super) fn decide(draft: &mut Draft<'_>) {
    let kept = usize::try_from(draft.observed.deployment.revision_history_limit).unwrap_or(0);
    let mut old = draft.old_indexes();
    old.retain(|index| !draft.sets[*index].deleting);
    let candidates = old.len().saturating_sub(kept);
    for index in old.into_iter().take(candidates) {
        delete_if_empty(draft, index);
    }
}

/// Deletes old sets of the very template that the new one is to be given in place: no template has two sets.
pub(super) fn forget_doubles(draft: &mut Draft<'_>) {
    if !draft.observed.deployment.in_place || draft.is_creating() {
        return;
    }
    let mut old = draft.old_indexes();
    old.retain(|index| !draft.sets[*index].deleting && draft.sets[*index].likeness >= Likeness::Equal);
    for index in old {
        delete_if_empty(draft, index);
    }
}

fn delete_if_empty(draft: &mut Draft<'_>, index: usize) {
    let set = &draft.sets[index];
    let empty = set.replicas == 0 && set.existing == 0 && set.machines.alive == 0;
    let is_known = set.observed_generation >= set.generation;
    if empty && is_known && !draft.deleted.contains(&index) {
        draft.deletions.push(Step::DeleteSet {
            name: set.name.clone(),
            uid: set.uid.clone(),
        });
        draft.deleted.push(index);
    }
}
