//! A paused deployment: no set is made and none is rolled, but it is scaled, every set in proportion.

use machinist_shared::api::names::annotation;

use super::draft::Draft;
use super::limits::Limits;

pub(super) fn decide(draft: &mut Draft<'_>) {
    let limits = Limits::of(&draft.observed.deployment);
    let mut active: Vec<usize> = draft
        .members()
        .filter(|(_, set)| set.replicas > 0)
        .map(|(index, _)| index)
        .collect();
    if active.len() <= 1 {
        let newest_old = || draft.old_indexes().pop();
        if let Some(index) = active.pop().or(draft.new).or_else(newest_old) {
            draft.scale(index, limits.desired, limits);
        }
        return;
    }
    if is_saturated(draft, limits) {
        for index in draft.old_indexes() {
            draft.scale(index, 0, limits);
        }
        return;
    }
    // The newest old one first, the new one last: the left-over goes to the first.
    let new = draft.new;
    active.retain(|index| Some(*index) != new);
    active.sort_by_key(|index| std::cmp::Reverse(draft.sets[*index].age_order()));
    active.extend(new.filter(|index| draft.sets[*index].replicas > 0));
    proportionally(draft, &active, limits);
}

fn is_saturated(draft: &Draft<'_>, limits: Limits) -> bool {
    draft.new_set().is_some_and(|set| {
        let noted = set
            .annotation(annotation::DESIRED_REPLICAS)
            .and_then(|text| text.parse().ok());
        set.replicas == limits.desired && noted == Some(limits.desired) && set.available == limits.desired
    })
}

fn proportionally(draft: &mut Draft<'_>, active: &[usize], limits: Limits) {
    let most = limits.most.saturating_sub(draft.surging()).max(limits.desired);
    let allowed = if limits.desired == 0 { 0 } else { most };
    let sizes = active.iter().map(|index| draft.sets[*index].replicas);
    let sum = sizes.fold(0, i32::saturating_add);
    let mut delta = allowed - sum;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for &index in active {
        let size = draft.sets[index].replicas;
        let share = share(draft, index, limits);
        let share = if delta > 0 {
            share.clamp(0, delta)
        } else {
            share.clamp(delta, 0)
        };
        delta -= share;
        sizes.push(size + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + delta).max(0);
    }
    for (&index, size) in active.iter().zip(sizes) {
        draft.scale(index, size, limits);
        limits.annotate(&mut draft.sets[index].annotations);
    }
}

/// By how much a set changes to keep its part of the whole.
fn share(draft: &Draft<'_>, index: usize, limits: Limits) -> i32 {
    let set = &draft.sets[index];
    if limits.desired == 0 {
        return -set.replicas;
    }
    let noted = set
        .annotation(annotation::MAX_REPLICAS)
        .and_then(|text| text.parse::<i64>().ok());
    // It had its part of that many.
    let whole = noted.unwrap_or_else(|| i64::from(draft.observed.deployment.status.replicas));
    if whole <= 0 {
        return 0;
    }
    // Any client may have written it.
    let whole = whole.min(i32::MAX.into());
    let product = i64::from(set.replicas) * i64::from(limits.most);
    // Half of one counts as one.
    let part = (product * 2 + whole) / (whole * 2);
    i32::try_from(part - i64::from(set.replicas)).unwrap_or(0)
}
