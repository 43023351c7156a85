//! The strategy OnDelete: a Machine of an older template is replaced when a person deletes it, and not before.

use machinist_shared::api::names::annotation;

use super::super::observed::Strategy;
use super::draft::Draft;
use super::limits::Limits;

pub(super) fn decide(draft: &mut Draft<'_>) {
    let limits = Limits::of(&draft.observed.deployment);
    let old = draft.old_indexes();
    for &index in &old {
        let set = &draft.sets[index];
        // A new set that may yet be refused takes nobody's place.
        if draft.is_creating() {
            break;
        }
        // What has gone does not come back from the old template. Before its set knows that, it may still be making some.
        if set.annotations.contains_key(annotation::NO_NEW_MACHINES) {
            let left = set.replicas.min(set.existing.max(set.machines.alive));
            draft.scale(index, left, limits);
        }
    }
    for &index in &old {
        let surplus = (draft.spec_sum() - limits.desired).max(0);
        let size = draft.sets[index].replicas;
        draft.scale(index, size - surplus.min(size), limits);
    }
    if let Some(index) = draft.new {
        let size = draft.sets[index].replicas;
        let others = draft.spec_sum() - size;
        draft.scale(index, (limits.desired - others).max(0), limits);
    }
}

/// Tells old sets that they make no Machines any more, and every other set that it does.
pub(super) fn mark(draft: &mut Draft<'_>) {
    let on_delete = draft.observed.deployment.strategy == Strategy::OnDelete;
    let new = draft.new;
    for (index, set) in draft.members_mut() {
        if on_delete && new.is_some() && new != Some(index) && set.replicas > 0 {
            set.annotations
                .insert(annotation::NO_NEW_MACHINES.to_owned(), "true".to_owned());
        } else {
            set.annotations.remove(annotation::NO_NEW_MACHINES);
        }
    }
}
