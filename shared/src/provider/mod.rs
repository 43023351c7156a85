//! The pure half of a provider: what its part of a spec means, without asking anybody.
//!
//! The I/O half is `machinist_infra::provider`. What passes between the two halves of one provider and nobody else
//! understands goes as [`Opaque`]; `docs/adding-a-provider.md` shows both by example.

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

/// What the spec of a Machine calls its provider.
pub(crate) fn named_by(spec: &Object) -> Option<&str> {
    name_in(object_at(spec, &["providerSpec", "value"])?)
}

/// What `providerSpec.value` calls it.
pub(crate) fn name_in(value: &Object) -> Option<&str> {
    any_case(value, "cloudProvider")?.as_str()
}

/// One provider, for all Machines that name it.
pub trait Provider: Debug + Send + Sync {
    /// What `cloudProvider` calls it.
    fn name(&self) -> &'static str;

    /// The operating systems that it can boot.
    fn operating_systems(&self) -> &'static [&'static str];

    /// `AddDefaults`: fills in what the spec of a Machine leaves to the provider, in the raw object, and refuses nothing.
    /// Doing it twice is doing it once.
    ///
    /// `infra_namespace` is where the process's environment has instances made. `stored` is the spec of a template that is stored now. What comes from outside of the spec is then taken from
    /// there, absent staying absent, unless what it follows from has changed: another template rolls every Machine.
    fn add_defaults(
        &self,
        spec: &mut Map<String, Value>,
        stored: Option<&Map<String, Value>>,
        infra_namespace: &str,
    );

    /// Takes out of a template what `add_defaults` would write over it, so that templates can be compared by what they
    /// say.
    fn forget_defaults(&self, spec: &mut Map<String, Value>);

    /// Reads `cloudProviderSpec`, with every mistake in its form reported, and whatever could be read.
    fn decode(&self, field: &Field<'_>, report: &mut Report) -> Option<Arc<dyn Spec>>;

    /// Judges the labels of a Machine, which its instance bears.
    fn validate_labels(&self, keys: &mut dyn Iterator<Item = &str>, path: &FieldPath, report: &mut Report);

    /// `GetCloudConfig`: what a kubelet of that version is told about the cloud; empty if it reads nothing.
    fn cloud_config(&self, cloud: &Cloud<'_>, kubelet: &Version) -> Secret;
}

/// What a cloud config is made from.
#[derive(Debug, Clone, Copy)]
pub struct Cloud<'a> {
    /// The credential of the place.
    pub credential: &'a Secret,
    /// Namespace of the instances.
    pub namespace: &'a str,
    /// A cloud controller manager takes care of it.
    pub external: bool,
}

/// What makes Machines and gives them its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineOwnerKind {
    /// A MachineSet.
    Set,
    /// A MachineDeployment, through its sets.
    Deployment,
}

/// The provider's part of a spec, read. References lead where they lead.
pub trait Spec: Any + Debug + Send + Sync {
    /// `Validate`: everything that is wrong in itself, at once, each with its field below `path`. Fields that are
    /// `overridden` have no effect.
    fn validate(&self, overridden: Overridden, path: &FieldPath, report: &mut Report);

    /// Judges the name of the Machine around it.
    fn validate_name(&self, name: &str, path: &FieldPath, report: &mut Report);

    /// Judges the name of what makes such Machines and gives them its name.
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

    /// Where the credential of the place is.
    fn credential(&self) -> &ConfigVarString;

    /// The cluster name alone, however much else cannot be resolved: instances of machine-controller are known by it.
    fn cluster_name(&self, env: &Env, lookup: &Lookup<'_>) -> Result<String, Unresolved>;

    /// Looks every reference up but the credential's.
    fn resolve(&self, env: &Env, lookup: &Lookup<'_>) -> Result<Arc<dyn ResolvedProviderSpec>, Unresolved>;

    /// `cloudProviderSpec.machinist`: what the built-in bootstrap does besides, whatever the provider.
    fn machinist(&self) -> &Machinist;

    /// What a node of it will have, by the keys of the cluster-autoscaler's annotations; nothing at a key is that there is
    /// none, and a key that is not there is not known. `instancetype` is the `spec` of what it names as its size.
    fn capacity(&self, lookup: &Lookup<'_>, instancetype: Option<&Value>) -> NodeCapacity;
}

impl dyn Spec {
    /// The spec as a provider's own type.
    pub fn of<T: Any>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// NodeCapacity by key of the cluster-autoscaler.
pub type NodeCapacity = BTreeMap<&'static str, Option<String>>;

/// A spec whose every value is known: what an instance is made from.
pub trait ResolvedProviderSpec: Any + Debug + Send + Sync {
    /// Name of the cluster, which the instance bears as a label.
    fn cluster_name(&self) -> &str;

    /// `machinist.registries.credentials`, or empty.
    fn registry_credentials(&self) -> &Secret;

    /// `machinist.caBundle`, PEM, or empty.
    fn ca_bundle(&self) -> &Secret;

    /// Names of the disks that the instance of the Machine of that name will have: what bears them and is a stranger's is
    /// in the way.
    fn disks(&self, machine: &str) -> Vec<String>;

    /// What must be asked of the place before the instance can be rendered.
    fn facts_needed(&self) -> Opaque;

    /// Where the instance will be, by spec and facts.
    fn failure_domain(&self, facts: &Opaque) -> FailureDomain;

    /// The instance, as the I/O half creates it; `None` for facts of another provider. Equal orders, equal instances.
    fn render(&self, order: &InstanceParams<'_>, facts: &Opaque) -> Option<Value>;
}

impl dyn ResolvedProviderSpec {
    /// The blueprint as a provider's own type.
    pub fn of<T: Any>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// What an instance is rendered from, besides spec and facts.
#[derive(Debug, Clone, Copy)]
pub struct InstanceParams<'a> {
    /// Name of the Machine, and so of the instance.
    pub name: &'a str,
    /// UID of the Machine; the instance bears it as a label.
    pub uid: &'a str,
    /// Labels of the Machine.
    pub labels: &'a BTreeMap<String, String>,
    /// Annotations of the Machine.
    pub annotations: &'a BTreeMap<String, String>,
    /// Name of the MachineDeployment above the Machine.
    pub machine_deployment: Option<&'a str>,
    /// UID of the user cluster; the instance bears it as a label.
    pub cluster_uid: &'a str,
    /// Namespace of the instance.
    pub namespace: &'a str,
    /// Name under which the user data will be delivered.
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

/// What only the two halves of one provider understand.
#[derive(Clone)]
pub struct Opaque(Arc<dyn Any + Send + Sync>);

impl Opaque {
    /// Wraps a value.
    pub fn new<T: Any + Send + Sync>(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// The value, if it is one of that type.
    pub fn of<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

/// It may hold secrets, and nobody here knows.
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
