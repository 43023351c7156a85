//! Keeps a MachineSet's number of Machines: snapshot → decide → apply.
//!
//! [`snapshot`] takes a snapshot from the stores, the pure [`decide`] says what to do, [`apply`] does it.

mod apply;
pub mod decide;
pub mod memory;
mod new_machine;

pub mod plan;
mod reconcile;
pub mod snapshot;

pub use reconcile::MachineSetReconciler;
pub use snapshot::available_at;
