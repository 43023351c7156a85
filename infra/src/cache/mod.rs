//! In-memory caches: lists and watches, and the stores that they fill.

pub mod key;
mod projected;
pub mod reflect;
pub mod store;
pub mod ttl;
pub mod watch;
