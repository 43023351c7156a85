//! Whether the Machine has its name for itself.

use super::super::reason::Reason;
use super::{PhaseResult, View};

pub(super) fn run(view: &View<'_>) -> PhaseResult {
    let Some(winner) = &view.observed.name_winner else {
        return PhaseResult::default();
    };
    let message = format!(
        "the Machine {winner} has this name already; VM and Node bear their Machine's name, so it must be unique in the cluster"
    );
    PhaseResult::stop().infrastructure(Reason::NameTaken, message)
}
