//! Certificate signing requests of kubelets: which ones are approved, and by what rules.
//!
//! [`client`] judges the first client certificate, asked for with a bootstrap token, and [`approve`] carries that out;
//! [`serving`] judges serving certificates, as a part of deciding for the Machine whose node asks (`machine::decide`);
//! [`reserved`] knows the addresses that none of them is for.
//! What a request asks for is read by [`request`], for both.

use clap::ValueEnum;

pub mod approve;
pub mod bindings;
pub mod client;
pub mod request;
pub mod reserved;
pub mod serving;
pub mod told;

/// Which process approves the first client certificates of our Machines' kubelets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientApprover {
    /// This one, which reads bootstrap tokens.
    Here,
    /// Another one, so this one needs no right to.
    Elsewhere,
    /// This one, which does nothing else and reads no Secret.
    Only,
}

/// What becomes of a request. Nothing is ever denied: a request that does not satisfy us may be somebody else's to
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
