//! Which of the Machines count.

use std::sync::Arc;

use crate::cache::StoredMachine;
use crate::machine_set::snapshot::types::{Member, Snapshot};

/// The Machines that the set controls and that are not being deleted.
#[derive(Debug)]
pub(super) struct Members<'a> {
    /// Those that count.
    pub active: Vec<&'a Member>,
    /// Those whose labels the selector no longer selects.
    pub strayed: Vec<Arc<StoredMachine>>,
}

impl<'a> Members<'a> {
    pub(super) fn of(observed: &'a Snapshot) -> Self {
        let selector = &observed.set.selector;
        // One that selects nothing is a mistake: what was counted before still is, and nothing strays.
        let reported = selector.fault().is_none();
        let (mut active, mut strayed) = (Vec::new(), Vec::new());
        for member in &observed.machines {
            let machine = &member.machine;
            if machine.is_deleting() {
                continue;
            }
            if reported && !selector.matches(machine.metadata.labels.as_ref()) {
                strayed.push(machine.clone());
            } else {
                active.push(member);
            }
        }
        Self { active, strayed }
    }
}
