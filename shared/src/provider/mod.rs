//! The pure half of a provider: the meaning of its part of a spec, without I/O.
//!
//! The I/O half is `machinist_infra::provider`. Data that only the two halves of one provider understand is passed as
//! [`Opaque`]; `docs/adding-a-provider.md` shows both by example.

mod env;
mod kubeconfig;
pub mod machinist;
mod resolve;
mod secret;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use semver::Version;
use serde_json::{Map, Value};

pub use self::env::{Env, Overridden};
pub use self::kubeconfig::{Kubeconfig, KubeconfigSource, decode_base64, kubeconfig, raw_or_base64};
pub use self::machinist::Machinist;
pub use self::resolve::{Lookup, Unresolved, cluster_name};
pub(crate) use self::resolve::{is_known_missing, value};
pub use self::secret::Secret;
use crate::api::config_var::{ConfigVarString, KeyRef};
use crate::api::decode::Field;
use crate::api::field::{FieldPath, Report};
use crate::api::raw::{Object, any_case, object_at};

/// The name of the provider in the spec of a Machine.
pub(crate) fn named_by(spec: &Object) -> Option<&str> {
    name_in(object_at(spec, &["providerSpec", "value"])?)
}

/// The name of the provider in `providerSpec.value`.
pub(crate) fn name_in(value: &Object) -> Option<&str> {
    any_case(value, "cloudProvider")?.as_str()
}

/// A provider, for all Machines that name it.
pub trait Provider: Debug + Send + Sync {
    /// Its name in `cloudProvider`.
    fn name(&self) -> &'static str;

    /// The operating systems that it can boot.
    fn operating_systems(&self) -> &'static [&'static str];

    /// `AddDefaults`: adds the provider's defaults to the raw spec of a Machine, and refuses nothing. It is idempotent.
    ///
    /// `infra_namespace` is the namespace of instances from the process's environment. `stored` is the stored spec of a
    /// template. Defaults from outside the spec then come from it (absent stays absent), unless the fields that
    /// determine them have changed: a changed template replaces every Machine.
    fn add_defaults(
        &self,
        spec: &mut Map<String, Value>,
        stored: Option<&Map<String, Value>>,
        infra_namespace: &str,
    );

    /// Decodes `cloudProviderSpec` as far as possible, and reports all errors in its form.
    fn decode(&self, field: &Field<'_>, report: &mut Report) -> Option<Arc<dyn Spec>>;

    /// Validates the labels of a Machine, which its instance gets.
    fn validate_labels(&self, keys: &mut dyn Iterator<Item = &str>, path: &FieldPath, report: &mut Report);

    /// `GetCloudConfig`: the cloud config for a kubelet of that version; empty if it reads none.
    fn cloud_config(&self, cloud: &Cloud<'_>, kubelet: &Version) -> Secret;
}

/// The input for a cloud config.
#[derive(Debug, Clone, Copy)]
pub struct Cloud<'a> {
    /// The credential of the infra cluster.
    pub credential: &'a Secret,
    /// Namespace of the instances.
    pub namespace: &'a str,
    /// Whether a cloud controller manager runs.
    pub external: bool,
}

/// The kind of an owner whose name Machines get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineOwnerKind {
    /// A MachineSet.
    Set,
    /// A MachineDeployment, through its MachineSets.
    Deployment,
}

/// The decoded provider's part of a spec. References are not resolved.
pub trait Spec: Any + Debug + Send + Sync {
    /// `Validate`: reports all errors of the spec, each with its field below `path`. Fields in `overridden` have no
    /// effect.
    fn validate(&self, overridden: Overridden, path: &FieldPath, report: &mut Report);

    /// Validates the name of its Machine.
    fn validate_name(&self, name: &str, path: &FieldPath, report: &mut Report);

    /// Validates the name of an owner of such Machines.
    fn validate_owner_name(
        &self,
        _name: &str,
        _maker: MachineOwnerKind,
        _path: &FieldPath,
        _report: &mut Report,
    ) {
    }

    /// All references to Secrets and ConfigMaps.
    fn references(&self) -> Vec<&KeyRef>;

    /// The credential of the infra cluster.
    fn credential(&self) -> &ConfigVarString;

    /// The cluster name alone, even if other values cannot be resolved: it identifies instances of machine-controller.
    fn cluster_name(&self, env: &Env, lookup: &Lookup<'_>) -> Result<String, Unresolved>;

    /// Resolves every reference except the credential's.
    fn resolve(&self, env: &Env, lookup: &Lookup<'_>) -> Result<Arc<dyn ResolvedProviderSpec>, Unresolved>;

    /// What instances of the spec are made of and where, in one form for all its notations: equal if and only if equal
    /// instances are rendered from equal parameters and facts. A reference stands for itself, because what it leads to
    /// may change. `None` if nothing can be rendered, whatever its references hold.
    fn canonical(&self) -> Option<Value>;

    /// `cloudProviderSpec.machinist`: additional settings of the built-in bootstrap, for any provider.
    fn machinist(&self) -> &Machinist;

    /// The capacity of a node, by the keys of the cluster-autoscaler's annotations; `None` means that the node has none
    /// of it, and a missing key that it is unknown. `instancetype` is the `spec` of the referenced instancetype.
    fn capacity(&self, lookup: &Lookup<'_>, instancetype: Option<&Value>) -> NodeCapacity;
}

impl dyn Spec {
    /// The spec as a provider's own type.
    pub fn of<T: Any>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// Capacity of a node, by key of the cluster-autoscaler.
pub type NodeCapacity = BTreeMap<&'static str, Option<String>>;

/// A resolved spec, from which an instance is rendered.
pub trait ResolvedProviderSpec: Any + Debug + Send + Sync {
    /// Name of the cluster, a label of the instance.
    fn cluster_name(&self) -> &str;

    /// `machinist.registries.credentials`, or empty.
    fn registry_credentials(&self) -> &Secret;

    /// `machinist.caBundle`, PEM, or empty.
    fn ca_bundle(&self) -> &Secret;

    /// Names of the disks of the Machine's instance: foreign objects with these names are conflicts.
    fn disks(&self, machine: &str) -> Vec<String>;

    /// The facts about the infra cluster that rendering requires.
    fn facts_needed(&self) -> Opaque;

    /// Region and zone of the instance, from spec and facts.
    fn failure_domain(&self, facts: &Opaque) -> FailureDomain;

    /// The instance, as the I/O half creates it; `None` for facts of another provider. Equal parameters give equal
    /// instances.
    fn render(&self, order: &InstanceParams<'_>, facts: &Opaque) -> Option<Value>;
}

impl dyn ResolvedProviderSpec {
    /// The resolved spec as a provider's own type.
    pub fn of<T: Any>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// The input for rendering an instance, in addition to spec and facts.
#[derive(Debug, Clone, Copy)]
pub struct InstanceParams<'a> {
    /// Name of the Machine, and so of the instance.
    pub name: &'a str,
    /// UID of the Machine, a label of the instance.
    pub uid: &'a str,
    /// Labels of the Machine.
    pub labels: &'a BTreeMap<String, String>,
    /// Annotations of the Machine.
    pub annotations: &'a BTreeMap<String, String>,
    /// Name of the MachineDeployment above the Machine.
    pub machine_deployment: Option<&'a str>,
    /// UID of the user cluster, a label of the instance.
    pub cluster_uid: &'a str,
    /// Namespace of the instance.
    pub namespace: &'a str,
    /// Name of the object with the user data.
    pub user_data: &'a str,
    /// User data to pass by Ignition, for flatcar.
    pub ignition: Option<&'a str>,
}

/// Region and zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailureDomain {
    /// Region.
    pub region: Option<String>,
    /// Zone.
    pub zone: Option<String>,
}

/// A value that only the two halves of one provider understand.
#[derive(Clone)]
pub struct Opaque(Arc<dyn Any + Send + Sync>);

impl Opaque {
    /// Wraps a value.
    pub fn new<T: Any + Send + Sync>(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// The value, if it has that type.
    pub fn of<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

/// It may contain secrets of unknown form.
impl Debug for Opaque {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opaque")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_comes_out_as_its_own_type_only_and_is_never_shown() {
        let opaque = Opaque::new("sesame".to_owned());
        assert_eq!(opaque.of::<String>().map(String::as_str), Some("sesame"));
        assert!(opaque.of::<u8>().is_none());
        assert!(!format!("{opaque:?}").contains("sesame"));
    }
}
