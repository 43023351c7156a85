//! A Machine's life as lists of phases, which run in this order.
//!
//! A phase is decided from a [`View`], and returns what is to be shown, done and recorded as a [`PhaseResult`]. What all of
//! them result in, [`super::status`] makes into one plan.

mod bootstrap;
mod clock_skew;
mod disks;
mod drain;
mod drain_timeout;
mod evacuation;
mod finalizers;
mod health;
mod hooks;
mod infrastructure;
mod launch;
mod mass_loss_guard;
mod name;
mod node;
mod node_loss;
mod ownership;
mod registration;
mod replacement;
mod result;
mod serving_certificate;
mod spec;
mod subscription;
mod token_renewal;
mod view;
mod vm;
mod vm_loss;
mod volume_detach;
mod volume_release;

use k8s_openapi::jiff::Timestamp;

pub use self::result::{Announcement, Field, Flow, Kept, PhaseResult};
pub use self::view::View;
use super::snapshot::types::Snapshot;

/// One question of a Machine's life.
type Phase = fn(&View<'_>) -> PhaseResult;

/// The life of a Machine, until its deletion is asked for.
const LIVE: [Phase; 13] = [
    clock_skew::live,
    name::run,
    spec::run,
    infrastructure::run,
    mass_loss_guard::run,
    ownership::run,
    launch::run,
    bootstrap::run,
    node_loss::run,
    health::run,
    registration::run,
    token_renewal::run,
    evacuation::run,
];

/// Its end.
const DELETE: [Phase; 12] = [
    clock_skew::deleting,
    subscription::run,
    vm::find,
    hooks::before_drain,
    drain::run,
    volume_detach::run,
    hooks::before_end,
    vm::run,
    volume_release::run,
    disks::run,
    node::run,
    finalizers::run,
];

/// What goes on wherever the phases before it end.
const ALWAYS: [Phase; 1] = [serving_certificate::run];

/// Runs the phases of the Machine's life.
pub fn run(observed: &Snapshot, now: Timestamp) -> PhaseResult {
    let phases: &[Phase] = if observed.machine.is_deleting() {
        &DELETE
    } else {
        &LIVE
    };
    let mut so_far = PhaseResult::default();
    for phase in phases {
        if so_far.flow == Flow::Stop {
            break;
        }
        let result = phase(&View::new(observed, &so_far, now));
        so_far = so_far.and(result);
    }
    for phase in ALWAYS {
        let result = phase(&View::new(observed, &so_far, now));
        so_far = so_far.and(result);
    }
    so_far
}
