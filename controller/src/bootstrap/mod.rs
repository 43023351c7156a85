//! Bootstrap data: the token bound to one Machine, and the user data that lets its guest join with it.
//!
//! Where user data comes from is known to [`user_data`] alone: `decide` orders a token and a Secret, `act` puts what it is
//! given into that Secret. Another source (the Secrets of operating-system-manager) is another module beside it, chosen
//! where `machine::observe` asks for the user data.

pub mod access;
mod secret;
pub mod token;
pub mod user_data;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;

use crate::user::StoredMachine;

pub use access::ClusterAccess;
pub use secret::{UserDataSecret, user_data_secret};

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
