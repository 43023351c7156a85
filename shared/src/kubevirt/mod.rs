//! The KubeVirt provider's pure half: what a spec means, and the VirtualMachine that follows from it.

mod capacity;
pub mod cloud_config;
mod defaults;
pub mod facts;
pub mod machinist;
pub mod observed;
pub mod provider;
pub mod render;
pub mod resolved;
pub mod root_cause;
pub mod spec;
pub mod validate;
