//! The life of the webhook's certificates, decided by pure functions: an authority, the serving certificate that it
//! signs, and the `caBundle` by which API servers trust it.
//!
//! The law: **what any replica serves is trusted by every `caBundle`, at any time.** So a new authority is trusted before
//! it signs anything that is served, and an old one is trusted until nobody serves anything that it has signed.

mod decide;
mod memory;
mod observed;

pub use decide::{Action, Because, Obstacle, Plan, decide, in_transition};
pub use memory::Memory;
pub use observed::{Found, Observed, Policy, Serving, Signer, Since};

#[cfg(test)]
mod tests;
