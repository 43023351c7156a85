//! The KubeVirt provider's pure half: what a spec means, and the VirtualMachine that follows from it.

mod blueprint;
pub mod cloud_config;
pub mod facts;
pub mod machinist;
pub mod observed;
pub mod render;
pub mod resolved;
pub mod root_cause;
pub mod spec;
pub mod validate;
