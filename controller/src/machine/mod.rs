//! A Machine's life: snapshot → decide → apply.
//!
//! - [`snapshot`] takes a snapshot of everything that is known of one Machine;
//! - [`decide`] is a pure function from the snapshot to a plan: [`phases`] of its life, folded by [`status`];
//! - [`apply`] carries the plan out, write by write;
//! - [`reconcile`] does that in the kernel, and [`memory`] is what it remembers in between;
//! - [`failures`] are writes that failed;
//! - [`node_conflicts`] are fights with other controllers over what is on a Node;
//! - [`vm_creations`] are creates of VMs that got no answer;
//! - [`confirm`] reads what a plan takes for absent before anything ends for it;
//! - [`start_limiter`] limits how many VMs of an infra cluster start at once;
//! - [`disruption_budget`] is what the drain of an infra node may replace at once;
//! - [`replacement_pace`] limits how many lost nodes are replaced at once;
//! - [`drain`] is what a deleting Machine's Node asks for.

pub mod apply;
pub mod clock;
pub mod conditions;
pub mod confirm;
pub mod decide;
pub mod disruption_budget;
pub mod drain;
pub mod failures;
pub mod mass_loss_guard;
pub mod memory;
pub mod node_conflicts;
pub mod node_metadata;

pub mod ownership;
pub mod phase;
pub mod phases;
pub mod plan;
pub mod reason;
pub mod reconcile;
pub mod record;
pub mod replacement_pace;
pub mod snapshot;
pub mod start_limiter;
pub mod status;
pub mod times;
pub mod unconfirmed_causes;
pub mod user_data_source;
pub mod vm_creations;
