//! The API types of `cluster.k8s.io/v1alpha1`, as users write and tools read them.
//!
//! `providerSpec.value` stays raw JSON: it is stored as the user wrote it. The doc comments here are what
//! `kubectl explain` prints.

pub mod bootstrap_mode;
mod condition;
pub mod config_var;
pub mod count;
pub mod crd;
pub mod decode;
mod deployment;
pub mod did_you_mean;
pub mod duration;
mod explain;
pub mod field;
mod lenient;
mod machine;
pub mod names;
pub mod quantity;
pub mod raw;
pub mod rollout;
pub(crate) mod schema;
mod set;
pub mod syntax;
mod value_at;

pub use condition::MachineDeploymentCondition;
pub use deployment::{
    MachineDeployment, MachineDeploymentSpec, MachineDeploymentStatus, MachineDeploymentStrategy,
    RollingUpdate, RolloutStatus,
};
pub use machine::{Machine, MachineSpec, MachineStatus, MachineVersions, ProviderSpec, VersionsStatus};
pub use set::{MachineSet, MachineSetSpec, MachineSetStatus, MachineTemplate};
pub use value_at::ValueAt;

/// Implements `kube_core::Resource` for one of our namespaced kinds.
macro_rules! resource {
    ($type:ident, $plural:literal) => {
        impl kube_core::Resource for $type {
            type DynamicType = ();
            type Scope = k8s_openapi::NamespaceResourceScope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                stringify!($type).into()
            }
            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                crate::api::names::GROUP.into()
            }
            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                crate::api::names::VERSION.into()
            }
            fn api_version(_: &()) -> std::borrow::Cow<'_, str> {
                crate::api::names::API_VERSION.into()
            }
            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &kube_core::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut kube_core::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(crate) use resource;
