//! What the controller reports: metrics, Events and spans.

pub mod collectors;
pub mod events;
pub mod metrics;
pub mod orphans;
pub mod pools;
pub mod span;
