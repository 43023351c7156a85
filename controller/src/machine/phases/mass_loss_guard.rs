//! Whether what the infra cluster shows can be believed: not if too many VMs are missing at the same time.

use std::time::Duration;

use super::super::conditions::{Condition, Status, Words};
use super::super::mass_loss_guard::BURST;
use super::super::reason::Reason;
use super::super::snapshot::types::{Losses, MassLoss, Open};
use super::infrastructure::acceptance;
use super::{Kept, PhaseResult, View, token_renewal};

/// How often a Machine is reconciled whose VM is not believed to be gone, should no event come.
const SETTLING_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const HALTED_INTERVAL: Duration = Duration::from_secs(30);

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let Some((why, result)) = view.open().and_then(|open| disbelief(view, open)) else {
        return PhaseResult::default();
    };
    let condition = Condition::infrastructure(Status::False, Reason::InfrastructureChanged, why);
    result
        // How many are missing, and whose, may change all the time.
        .condition(condition.words(Words::Late))
        .keeping(Kept::Conditions)
        .stopped()
        .and(token_renewal::keep(view))
}

/// Whether the Machine's VM on record is seen where it was put.
fn is_seen(view: &View<'_>, open: &Open) -> bool {
    let record = view.machine().record.as_ref();
    let recorded = record.and_then(|record| record.vm_uid.as_deref());
    let seen = open.vm.as_ref().and_then(|vm| vm.metadata.uid.as_deref());
    recorded.is_some() && recorded == seen
}

/// Why nothing is created or deleted on an infra cluster that misses many VMs at the same time, if that is so; and when that
/// is to be decided again.
pub(super) fn disbelief(view: &View<'_>, open: &Open) -> Option<(String, PhaseResult)> {
    let infrastructure = &open.infrastructure;
    if is_seen(view, open) || view.machine().accepts(infrastructure) {
        return None;
    }
    match &open.mass_loss {
        MassLoss::Released => None,
        MassLoss::Settling(left) => {
            let why = "the VM is not there; checking whether others have vanished, too".to_owned();
            let result = PhaseResult {
                is_momentary: *left <= BURST,
                ..PhaseResult::default()
            };
            Some((why, result.requeue(SETTLING_INTERVAL.min(*left))))
        }
        MassLoss::Engaged(losses) => {
            let Losses {
                missing, recorded, ..
            } = **losses;
            let why = format!(
                "{missing} of the {recorded} VMs on record in namespace {} of {} are missing, and Machinist did not delete them: \
                 rather another cluster answers there than that they are gone. Nothing is created there, and no other VM is taken \
                 for gone, until those of these Machines are seen again: {}. If they are gone for good, delete these Machines or \
                 annotate them with {}",
                infrastructure.namespace,
                infrastructure.server,
                named(&losses.holders),
                acceptance(infrastructure),
            );
            Some((why, PhaseResult::default().requeue(HALTED_INTERVAL)))
        }
    }
}

/// So many Machines are named.
const NAMED: usize = 3;

fn named(machines: &[String]) -> String {
    let (named, others) = machines.split_at(machines.len().min(NAMED));
    let named = named.join(", ");
    match others.len() {
        0 => named,
        others => format!("{named} and {others} more"),
    }
}
