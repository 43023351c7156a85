//! The KubeVirt provider's pure half: the meaning of a spec, and the VirtualMachine for it.

/// `Debug` that shows only the name of the type: any field may come from a Secret.
macro_rules! hidden {
    ($($name:ident),+) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )+};
}

/// Its name in `cloudProvider`.
pub const NAME: &str = "kubevirt";

mod canonical;
mod capacity;
pub mod cloud_config;
mod defaults;
pub mod facts;
pub mod kinds;
pub mod observed;
pub mod provider;
pub mod render;
pub mod resolved;
pub mod root_cause;
pub mod source;
pub mod spec;
pub mod topology;
pub mod validate;
