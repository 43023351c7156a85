//! The provider's I/O half: from a kubeconfig in a spec to a pooled client, and what is watched through it.

pub mod breaker;
pub mod client;
pub mod facts;
pub mod inquiry;
pub mod kubeconfig;
pub mod objects;
pub mod pool;
pub mod reflect;
pub mod store;
