//! The strategy RollingUpdate: the new set grows and the old ones shrink, within the limits.

use super::super::rollout_limits::Limits;
use super::pool::Pool;

/// The sets with their next sizes.
pub(super) fn scale(pool: Pool<'_>, is_halted: bool) -> Pool<'_> {
    let limits = Limits::of(&pool.observed.deployment);
    shrink(grow(pool, limits, is_halted), limits, is_halted)
}

/// The new set gets as large as the surge allows.
fn grow(pool: Pool<'_>, limits: Limits, is_halted: bool) -> Pool<'_> {
    let Some(index) = pool.new else { return pool };
    let size = pool.sets[index].replicas;
    let next = if size > limits.desired {
        limits.desired
    } else {
        let total = pool.spec_sum().saturating_add(pool.surging());
        let surge = limits.most.saturating_sub(total).max(0);
        size + surge.min(limits.desired - size)
    };
    if is_halted && next >= size {
        return pool;
    }
    pool.scaled(index, next, limits)
}

/// The old sets shrink: by Machines that are not available first, then by others, as far as enough stay available. The oldest
/// set goes first.
fn shrink(mut pool: Pool<'_>, limits: Limits, is_halted: bool) -> Pool<'_> {
    let old_sum: i32 = pool.old().map(|set| set.replicas).sum();
    if old_sum == 0 {
        return pool;
    }
    let new_unavailable = pool
        .new_set()
        .map_or(0, |set| set.replicas - set.surely_available());
    let mut most = pool.spec_sum() - limits.least_available - new_unavailable;
    if is_halted {
        // The deployment may have been scaled down; but none is deleted for a template that fails.
        most = most.min(old_sum - limits.desired);
    }
    if most <= 0 {
        return pool;
    }
    let old = pool.old_indexes();
    let mut removed = 0;
    for &index in &old {
        let set = &pool.sets[index];
        let less = (most - removed).min(set.replicas - set.available());
        if less > 0 {
            removed += less;
            let size = set.replicas - less;
            pool = pool.scaled(index, size, limits);
        }
    }
    // Only what is sure: the status of a set that has just got another size may count Machines that are being deleted.
    let available: i32 = pool.members().map(|(_, set)| set.surely_available()).sum();
    let mut budget = available - limits.least_available;
    if is_halted {
        budget = budget.min(most - removed);
    }
    for &index in &old {
        let size = pool.sets[index].replicas;
        let less = size.min(budget);
        if less > 0 {
            budget -= less;
            pool = pool.scaled(index, size - less, limits);
        }
    }
    pool
}
