//! Bootstrap data: the token bound to one Machine, and the user data that lets its guest join with it.
//!
//! [`source`] chooses who makes a Machine's user data. [`osm`] reads what operating-system-manager made; else
//! [`user_data`] puts together what a guest is to become, from a file for each topic beside it, and has it delivered to
//! cloud-init or Ignition.

pub mod access;
mod cloud_config;
mod dns;
mod guest;
mod ignition;
mod input;
mod kubelet;
mod network;
pub mod osm;
mod proxy;
mod registries;
#[cfg(test)]
#[path = "../../tests/samples/mod.rs"]
mod samples;
mod size;
pub mod source;
mod subscription;
mod systemd;
pub mod token;
mod trust;
pub mod user_data;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;

use crate::cache::StoredMachine;

pub use access::Access;
pub use source::Mode;

/// A new token for `machine`, to be created in kube-system.
pub fn new_token(machine: &StoredMachine, now: Timestamp) -> Secret {
    token::secret(
        machine.uid(),
        machine.namespace(),
        machine.name(),
        rand::random(),
        now,
    )
}
