//! Keeps a MachineSet's number of Machines: observe, decide, act.
//!
//! [`observe`] takes a snapshot from the stores, the pure [`decide`] says what to do, [`act`] does it.

mod apply;
pub mod decide;
pub mod memory;
mod new_machine;
pub mod observed;
pub mod plan;
mod reconcile;
mod snapshot;

pub use reconcile::MachineSetReconciler;
pub use snapshot::available_at;
