//! The MachineSets of a deployment as they should be: a copy of what is observed, of which each step makes the next.

use super::super::rollout_limits::Limits;
use super::super::snapshot::types::{Set, Snapshot};

/// The sets as they should be.
#[derive(Clone)]
pub(super) struct Pool<'a> {
    pub(super) observed: &'a Snapshot,
    /// Those observed, in their order, and at most one to be created.
    pub(super) sets: Vec<Set>,
    /// Which of them is the new one.
    pub(super) new: Option<usize>,
}

impl<'a> Pool<'a> {
    /// The sets as they are.
    pub(super) fn of(observed: &'a Snapshot) -> Self {
        Self {
            observed,
            sets: observed.sets.clone(),
            new: None,
        }
    }

    /// The sets that belong to the deployment, with their index.
    pub(super) fn members(&self) -> impl Iterator<Item = (usize, &Set)> + Clone {
        let deployment = &self.observed.deployment;
        let sets = self.sets.iter().enumerate();
        sets.filter(|(_, set)| set.belongs_to(deployment))
    }

    /// The new set.
    pub(super) fn new_set(&self) -> Option<&Set> {
        self.sets.get(self.new?)
    }

    /// Whether the new set is yet to be created.
    pub(super) fn is_creating(&self) -> bool {
        self.new.is_some_and(|index| index >= self.observed.sets.len())
    }

    /// The sets of other templates.
    pub(super) fn old(&self) -> impl Iterator<Item = &Set> {
        self.members()
            .filter(|(index, _)| Some(*index) != self.new)
            .map(|(_, set)| set)
    }

    /// Their indexes, the oldest first.
    pub(super) fn old_indexes(&self) -> Vec<usize> {
        let mut old: Vec<usize> = self.members().map(|(index, _)| index).collect();
        old.retain(|index| Some(*index) != self.new);
        old.sort_by_key(|index| self.sets[*index].age_order());
        old
    }

    /// Machines that all sets together ask for.
    pub(super) fn spec_sum(&self) -> i32 {
        let sizes = self.members().map(|(_, set)| set.replicas);
        sizes.fold(0, i32::saturating_add)
    }

    /// How many Machines there are beyond the sizes of the sets, because they wait for their replacements.
    pub(super) fn surging(&self) -> i32 {
        let surging = self.members().map(|(_, set)| set.machines.surging);
        surging.fold(0, i32::saturating_add)
    }

    /// With one set changed.
    #[must_use]
    pub(super) fn with(mut self, index: usize, change: impl FnOnce(&mut Set)) -> Self {
        if let Some(set) = self.sets.get_mut(index) {
            change(set);
        }
        self
    }

    /// With every set that belongs to the deployment changed.
    #[must_use]
    pub(super) fn with_members(mut self, change: impl Fn(usize, &mut Set)) -> Self {
        let deployment = &self.observed.deployment;
        let sets = self.sets.iter_mut().enumerate();
        for (index, set) in sets.filter(|(_, set)| set.belongs_to(deployment)) {
            change(index, set);
        }
        self
    }

    /// With a set of another size.
    #[must_use]
    pub(super) fn scaled(self, index: usize, size: i32, limits: Limits) -> Self {
        self.with(index, |set| {
            if set.replicas != size {
                // Those beyond the previous size may be deleted before the set sees the new one.
                set.available = set.available();
                set.replicas = size;
                limits.annotate(&mut set.annotations);
            }
        })
    }

    /// The sets as they are; the new one stays the new one if it exists.
    #[must_use]
    pub(super) fn unchanged(self) -> Self {
        let new = self.new.filter(|index| *index < self.observed.sets.len());
        Self {
            new,
            ..Self::of(self.observed)
        }
    }
}
