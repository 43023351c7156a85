//! The strategy RollingUpdate: the new set grows and the old ones shrink, within the limits.

use super::draft::Draft;
use super::limits::Limits;

pub(super) fn decide(draft: &mut Draft<'_>) {
    let limits = Limits::of(&draft.observed.deployment);
    grow(draft, limits);
    shrink(draft, limits);
}

/// The new set gets as large as the surge allows.
fn grow(draft: &mut Draft<'_>, limits: Limits) {
    let total = draft.spec_sum().saturating_add(draft.surging());
    let Some(index) = draft.new else { return };
    let size = draft.sets[index].replicas;
    let wanted = if size > limits.desired {
        limits.desired
    } else {
        let room = limits.most.saturating_sub(total).max(0);
        size + room.min(limits.desired - size)
    };
    if draft.halted.is_none() || wanted < size {
        draft.scale(index, wanted, limits);
    }
}

/// The old sets give up what is not needed: Machines that are not available first, then others, as far as enough stay
/// available. The oldest set goes first.
fn shrink(draft: &mut Draft<'_>, limits: Limits) {
    let old_sum: i32 = draft.old().map(|set| set.replicas).sum();
    if old_sum == 0 {
        return;
    }
    let new_unavailable = draft
        .new_set()
        .map_or(0, |set| set.replicas - set.surely_available());
    let mut most = draft.spec_sum() - limits.least_available - new_unavailable;
    if draft.halted.is_some() {
        // Fewer may be wanted; but none is given up for a template that fails.
        most = most.min(old_sum - limits.desired);
    }
    if most <= 0 {
        return;
    }
    let old = draft.old_indexes();
    let mut given_up = 0;
    for &index in &old {
        let set = &draft.sets[index];
        let less = (most - given_up).min(set.replicas - set.available());
        if less > 0 {
            given_up += less;
            draft.scale(index, draft.sets[index].replicas - less, limits);
        }
    }
    // Only what is sure: a set that has just got another size may tell of Machines that go.
    let available: i32 = draft.members().map(|(_, set)| set.surely_available()).sum();
    let mut budget = available - limits.least_available;
    if draft.halted.is_some() {
        budget = budget.min(most - given_up);
    }
    for &index in &old {
        let less = draft.sets[index].replicas.min(budget);
        if less > 0 {
            budget -= less;
            draft.scale(index, draft.sets[index].replicas - less, limits);
        }
    }
}
