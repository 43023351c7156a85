//! A paused deployment: no set is made and none is rolled, but it is scaled, every set in proportion.

use machinist_shared::api::names::annotation;

use super::super::rollout_limits::Limits;
use super::pool::Pool;

/// The sets with the sizes that they have in proportion.
pub(super) fn scale(pool: Pool<'_>) -> Pool<'_> {
    let limits = Limits::of(&pool.observed.deployment);
    let mut active: Vec<usize> = pool
        .members()
        .filter(|(_, set)| set.replicas > 0)
        .map(|(index, _)| index)
        .collect();
    if active.len() <= 1 {
        let newest_old = || pool.old_indexes().pop();
        return match active.pop().or(pool.new).or_else(newest_old) {
            Some(index) => pool.scaled(index, limits.desired, limits),
            None => pool,
        };
    }
    if is_saturated(&pool, limits) {
        let old = pool.old_indexes().into_iter();
        return old.fold(pool, |pool, index| pool.scaled(index, 0, limits));
    }
    // The newest old one first, the new one last: the left-over goes to the first.
    let new = pool.new;
    active.retain(|index| Some(*index) != new);
    active.sort_by_key(|index| std::cmp::Reverse(pool.sets[*index].age_order()));
    active.extend(new.filter(|index| pool.sets[*index].replicas > 0));
    proportionally(pool, &active, limits)
}

fn is_saturated(pool: &Pool<'_>, limits: Limits) -> bool {
    pool.new_set().is_some_and(|set| {
        let noted = set
            .annotation(annotation::DESIRED_REPLICAS)
            .and_then(|text| text.parse().ok());
        set.replicas == limits.desired && noted == Some(limits.desired) && set.available == limits.desired
    })
}

fn proportionally<'a>(pool: Pool<'a>, active: &[usize], limits: Limits) -> Pool<'a> {
    let most = limits.most.saturating_sub(pool.surging()).max(limits.desired);
    let allowed = if limits.desired == 0 { 0 } else { most };
    let sizes = active.iter().map(|index| pool.sets[*index].replicas);
    let sum = sizes.fold(0, i32::saturating_add);
    let mut delta = allowed - sum;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for &index in active {
        let size = pool.sets[index].replicas;
        let share = share(&pool, index, limits);
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
    active.iter().zip(sizes).fold(pool, |pool, (&index, size)| {
        pool.scaled(index, size, limits)
            .with(index, |set| limits.annotate(&mut set.annotations))
    })
}

/// By how much a set changes to keep its part of the whole.
fn share(pool: &Pool<'_>, index: usize, limits: Limits) -> i32 {
    let set = &pool.sets[index];
    if limits.desired == 0 {
        return -set.replicas;
    }
    let noted = set
        .annotation(annotation::MAX_REPLICAS)
        .and_then(|text| text.parse::<i64>().ok());
    // It had its part of that many.
    let whole = noted.unwrap_or_else(|| i64::from(pool.observed.deployment.status.replicas));
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
