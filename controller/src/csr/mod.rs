//! Certificate signing requests of kubelets: which ones are approved, and by what rules.

pub mod approve;
pub mod judge;
