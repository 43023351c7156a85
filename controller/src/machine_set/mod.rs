//! Keeps a MachineSet's number of Machines: observe, decide, act.
//!
//! [`observe`] takes a snapshot from the stores, the pure [`decide`] says what to do, [`act`] does it.

mod act;
pub mod decide;
pub mod memory;
mod new_machine;
mod observe;
pub mod observed;
pub mod plan;
mod reconcile;

pub use observe::available_at;
pub use reconcile::MachineSetReconciler;
