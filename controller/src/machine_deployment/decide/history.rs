//! Old sets are kept for rollbacks, as many as `revisionHistoryLimit` says.

use super::super::snapshot::types::{Likeness, Set};
use super::pool::Pool;

/// The oldest sets beyond the limit, to be deleted once a rollout is complete. A candidate that still has Machines stays, and no
/// younger one goes in its place.
pub(super) fn surplus(pool: &Pool<'_>) -> Vec<usize> {
    let kept = usize::try_from(pool.observed.deployment.revision_history_limit).unwrap_or(0);
    let mut old = pool.old_indexes();
    old.retain(|index| !pool.sets[*index].deleting);
    old.truncate(old.len().saturating_sub(kept));
    old.retain(|index| is_empty(&pool.sets[*index]));
    old
}

/// Old sets of the very template that the new one is to be given in place, to be deleted: no template has two sets.
pub(super) fn doubles(pool: &Pool<'_>) -> Vec<usize> {
    if !pool.observed.deployment.in_place || pool.is_creating() {
        return Vec::new();
    }
    let mut old = pool.old_indexes();
    old.retain(|index| {
        let set = &pool.sets[*index];
        !set.deleting && set.likeness >= Likeness::Equal && is_empty(set)
    });
    old
}

fn is_empty(set: &Set) -> bool {
    let empty = set.replicas == 0 && set.existing == 0 && set.machines.alive == 0;
    empty && set.observed_generation >= set.generation
}
