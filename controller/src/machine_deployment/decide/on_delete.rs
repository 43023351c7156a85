//! The strategy OnDelete: a Machine of an older template is replaced when a person deletes it, and not before.

use machinist_shared::api::names::annotation;

use super::super::rollout_limits::Limits;
use super::super::snapshot::types::Strategy;
use super::pool::Pool;

/// The sets with the sizes that the strategy gives them.
pub(super) fn scale(mut pool: Pool<'_>) -> Pool<'_> {
    let limits = Limits::of(&pool.observed.deployment);
    let old = pool.old_indexes();
    // A new set that may yet be refused replaces nothing.
    if !pool.is_creating() {
        for &index in &old {
            let set = &pool.sets[index];
            // What is deleted does not come back from the old template. Until its set knows that, it may still create some.
            if set.annotations.contains_key(annotation::NO_NEW_MACHINES) {
                let left = set.replicas.min(set.existing.max(set.machines.alive));
                pool = pool.scaled(index, left, limits);
            }
        }
    }
    for &index in &old {
        let surplus = (pool.spec_sum() - limits.desired).max(0);
        let size = pool.sets[index].replicas;
        pool = pool.scaled(index, size - surplus.min(size), limits);
    }
    let Some(index) = pool.new else { return pool };
    let others = pool.spec_sum() - pool.sets[index].replicas;
    pool.scaled(index, (limits.desired - others).max(0), limits)
}

/// Marks old sets that create no Machines any more, and takes the mark from every other set.
pub(super) fn mark(pool: Pool<'_>) -> Pool<'_> {
    let on_delete = pool.observed.deployment.strategy == Strategy::OnDelete;
    let new = pool.new;
    pool.with_members(|index, set| {
        if on_delete && new.is_some() && new != Some(index) && set.replicas > 0 {
            set.annotations
                .insert(annotation::NO_NEW_MACHINES.to_owned(), "true".to_owned());
        } else {
            set.annotations.remove(annotation::NO_NEW_MACHINES);
        }
    })
}
