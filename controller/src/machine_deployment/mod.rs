//! A MachineDeployment's rollouts: observe → decide → act.
//!
//! - [`observe`] takes a snapshot of the deployment, its MachineSets and what their Machines say;
//! - [`decide`] is a pure function from the snapshot to a plan;
//! - [`act`] carries the plan out, write by write.

#[cfg(test)]
mod adoption;
mod apply;
pub mod conditions;
pub mod decide;
pub mod memory;
pub mod observed;
pub mod plan;
mod reconcile;
mod rollout;
mod snapshot;

pub use reconcile::MachineDeploymentReconciler;
