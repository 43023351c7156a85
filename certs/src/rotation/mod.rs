//! The rotation of the webhook's certificates, decided by pure functions: an authority, the serving certificate that it
//! signs, and the `caBundle` by which API servers trust it.
//!
//! The invariant: **every `caBundle` trusts the certificate of every replica at any time.** So a new authority is
//! trusted before it signs a served certificate, and an old one is trusted until no replica serves a certificate that
//! it has signed.

mod decide;
mod observed;
mod state;

pub use decide::{Action, Cause, Obstacle, Plan, decide, in_transition};
pub use observed::{Observed, Policy, SecretState, Serving, Signer, Since};
pub use state::RotationState;

#[cfg(test)]
mod tests;
