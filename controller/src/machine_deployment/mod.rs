//! A MachineDeployment's rollouts: snapshot → decide → apply.
//!
//! - [`snapshot`] takes a snapshot of the deployment, its MachineSets and what their Machines say;
//! - [`decide`] is a pure function from the snapshot to a plan;
//! - [`apply`] carries the plan out, write by write.

#[cfg(test)]
mod adoption;
mod apply;
pub mod conditions;
pub mod decide;
pub mod memory;

pub mod plan;
mod reconcile;
mod rollout;
mod rollout_limits;
pub mod snapshot;

pub use reconcile::MachineDeploymentReconciler;
