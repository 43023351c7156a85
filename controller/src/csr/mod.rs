//! Certificate signing requests of kubelets: which ones are approved, and by what rules.
//!
//! [`client`] judges the first client certificate, asked for with a bootstrap token, which the reconciler of requests carries
//! out; [`approve`] writes approvals;
//! [`serving`] judges serving certificates, as a part of deciding for the Machine whose node asks (`machine::decide`), with
//! the check of their names in [`san_check`]; [`reserved_addresses`] knows the addresses that none of them is for.
//! What a request asks for is read by [`request`], for both.

pub mod approve;
pub mod bindings;
pub mod client;
pub mod range;
mod reconcile;
pub mod reported;
pub mod request;
pub mod reserved_addresses;
mod san_check;
pub mod serving;

pub use crate::config::ClientApprover;
pub use reconcile::ClientRequestReconciler;

/// What becomes of a request. Nothing is ever denied: a request that does not satisfy us may be another approver's to
/// approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It satisfies every rule.
    Approve,
    /// It is not ours to decide, or it is decided already.
    NotOurs,
    /// It breaks no rule, but something that every node passes through has to happen first; what.
    Waiting(String),
    /// It does not satisfy this rule, perhaps not yet.
    Refused(String),
}
