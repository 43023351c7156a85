//! The disks of a VM that is gone: KubeVirt's owner references have them deleted. Those of others are left alone.

use super::super::conditions::Condition;
use super::super::ownership::disks_of;
use super::super::reason::Reason;
use super::result::Fate;
use super::{PhaseResult, View};

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let (Some(Fate::Gone), Some(open)) = (&view.before.found.vm, view.open()) else {
        return PhaseResult::default();
    };
    let left = disks_of(&open.disks, &view.vms());
    if left.is_empty() {
        return PhaseResult::default();
    }
    let names: Vec<String> = left
        .iter()
        .map(|disk| {
            let name = disk.metadata.name.as_deref();
            format!("{} {}", disk.kind, name.unwrap_or_default())
        })
        .collect();
    let message = format!(
        "the VM is gone; waiting for its disks to go: {}",
        names.join(", ")
    );
    PhaseResult::stop().condition(Condition::deleting(Reason::WaitingForDisks, message).lazy())
}
