//! The living Machines: the VMs that they have adopted, and the namespaces and credentials of their VMs.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, ObjectMeta};
use kube::{Api, Client};
use machinist_infra::kube::error::RemoteError;
use machinist_shared::api;
use machinist_shared::api::config_var::{ConfigVarString, KeyRef, RefKind};
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::api::names::annotation;
use machinist_shared::provider_spec::ProviderConfig;
use serde_json::Value;

/// Objects per page.
pub const PAGE: u32 = 500;

/// A Machine, decoded leniently: an invalid Machine is alive, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Namespace.
    pub namespace: String,
    /// Name, which is also the VM's.
    pub name: String,
    /// UID, a label of the VM.
    pub uid: String,
    /// Its deletion was asked for.
    pub is_deleting: bool,
    /// UIDs of VMs that it has recorded, or must adopt.
    pub vms: Vec<String>,
    /// The namespace of its VM.
    pub infra_namespace: Option<String>,
    /// The credential for that namespace.
    pub credential: ConfigVarString,
}

impl Machine {
    /// Decodes a stored Machine.
    pub fn read(stored: &DynamicObject) -> Self {
        let text = |path: &str| stored.data.pointer(path).and_then(Value::as_str);
        let recorded = text("/status/providerStatus/vmUID").map(str::to_owned);
        let annotations = stored.metadata.annotations.as_ref();
        let named = annotations.and_then(|all| all.get(annotation::ADOPT_VM)).cloned();
        let is_deleting = stored.metadata.deletion_timestamp.is_some();
        let of_record = stored.data.pointer("/status/providerStatus/credential");
        let of_record = of_record.filter(|_| is_deleting).and_then(recorded_credential);
        let own = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            namespace: own(&stored.metadata.namespace),
            name: own(&stored.metadata.name),
            uid: own(&stored.metadata.uid),
            is_deleting,
            vms: recorded.into_iter().chain(named).collect(),
            infra_namespace: text("/status/providerStatus/infrastructure/namespace").map(str::to_owned),
            credential: of_record.unwrap_or_else(|| credential(stored)),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The credential in the spec, if it can be decoded.
fn credential(stored: &DynamicObject) -> ConfigVarString {
    let value = stored.data.pointer("/spec/providerSpec/value");
    let path = FieldPath::new("spec.providerSpec.value");
    let config = ProviderConfig::decode(value, &path, &mut Report::new());
    let spec = config.cloud_provider_spec;
    spec.map(|spec| spec.credential().clone()).unwrap_or_default()
}

/// The credential in the record, which the deletion of a Machine uses instead of its spec's.
fn recorded_credential(record: &Value) -> Option<ConfigVarString> {
    let text = |key: &str| record[key].as_str().map(str::to_owned);
    let reference = |kind| {
        Some(KeyRef {
            kind,
            namespace: text("namespace")?,
            name: text("name")?,
            key: text("key")?,
        })
    };
    match record["source"].as_str()? {
        "secretKeyRef" => Some(ConfigVarString {
            secret_ref: Some(reference(RefKind::Secret)?),
            ..ConfigVarString::default()
        }),
        "configMapKeyRef" => Some(ConfigVarString {
            config_map_ref: Some(reference(RefKind::ConfigMap)?),
            ..ConfigVarString::default()
        }),
        "environment" => Some(ConfigVarString::default()),
        _ => None,
    }
}

/// All Machines of the user cluster.
pub async fn list(client: &Client) -> Result<Vec<Machine>, RemoteError> {
    Ok(stored(client).await?.iter().map(Machine::read).collect())
}

/// The same, as they are stored.
pub async fn stored(client: &Client) -> Result<Vec<DynamicObject>, RemoteError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<api::Machine>(&()));
    let mut machines = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        machines.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(machines),
        }
    }
}

/// The living Machines.
#[derive(Debug, Default)]
pub struct Living {
    names: HashMap<String, String>,
    vms: HashSet<String>,
}

impl Living {
    /// These Machines.
    pub fn new(machines: &[Machine]) -> Self {
        let name = |machine: &Machine| format!("{}/{}", machine.namespace, machine.name);
        Self {
            names: machines.iter().map(|m| (m.uid.clone(), name(m))).collect(),
            vms: machines.iter().flat_map(|m| m.vms.iter().cloned()).collect(),
        }
    }

    /// Whether the Machine with the UID in an object's label exists, or another one owns the object.
    pub fn has(&self, object: &ObjectMeta, machine_uid: &str) -> bool {
        let uid = object.uid.as_deref().unwrap_or_default();
        self.names.contains_key(machine_uid) || self.vms.contains(uid) || self.owns(object)
    }

    /// `namespace/name` of the Machine of that UID.
    pub fn name(&self, machine_uid: &str) -> Option<&str> {
        self.names.get(machine_uid).map(String::as_str)
    }

    /// Whether a Machine with that UID or name exists.
    pub fn is_there(&self, uid_or_name: &str) -> bool {
        let is_named = |machine: &String| {
            machine
                .split_once('/')
                .is_some_and(|(_, name)| name == uid_or_name)
        };
        self.names.contains_key(uid_or_name) || self.names.values().any(is_named)
    }

    /// For an object whose VM was not found.
    fn owns(&self, object: &ObjectMeta) -> bool {
        let mut owners = object.owner_references.iter().flatten();
        owners.any(|owner: &OwnerReference| self.vms.contains(&owner.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn stored(change: &Value) -> DynamicObject {
        let mut machine = json!({
            "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": "web-1", "namespace": "ns", "uid": "m"},
            "spec": {"providerSpec": {"value": {"cloudProvider": "kubevirt", "cloudProviderSpec": {"auth": {"kubeconfig":
                {"secretKeyRef": {"namespace": "ns", "name": "of-spec", "key": "k"}}}}}}},
        });
        merge(&mut machine, change);
        serde_json::from_value(machine).unwrap()
    }

    fn merge(base: &mut Value, over: &Value) {
        match (base, over) {
            (Value::Object(base), Value::Object(over)) => {
                for (key, value) in over {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
            (base, over) => *base = over.clone(),
        }
    }

    fn secret(machine: &Machine) -> &str {
        let reference = machine.credential.reference();
        reference.map_or("", |reference| reference.name.as_str())
    }

    #[test]
    fn a_machine_says_where_its_vm_is() {
        let status = json!({"status": {"providerStatus": {"vmUID": "v",
            "infrastructure": {"namespace": "vms", "server": "https://a"}, "credential": {"source": "inline"}}}});
        let machine = Machine::read(&stored(&status));
        assert_eq!(machine.infra_namespace.as_deref(), Some("vms"));
        assert_eq!(machine.vms, ["v"]);
        assert_eq!(secret(&machine), "of-spec");
    }

    #[rstest]
    #[case::of_the_record(json!({"source": "secretKeyRef", "namespace": "ns", "name": "of-record", "key": "k"}), "of-record")]
    #[case::of_a_config_map(json!({"source": "configMapKeyRef", "namespace": "ns", "name": "map", "key": "k"}), "map")]
    #[case::of_the_environment(json!({"source": "environment"}), "")]
    #[case::of_the_spec(json!({"source": "inline"}), "of-spec")]
    #[case::without_a_record(json!(null), "of-spec")]
    fn one_that_is_deleted_has_the_credential_of_its_record(#[case] credential: Value, #[case] want: &str) {
        let change = json!({
            "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"providerStatus": {"credential": credential}},
        });
        assert_eq!(secret(&Machine::read(&stored(&change))), want);
    }

    #[rstest]
    #[case::no_spec(json!({"spec": null}))]
    #[case::a_spec_of_another_shape(json!({"spec": [1]}))]
    #[case::another_provider(json!({"spec": {"providerSpec": {"value": {"cloudProvider": "aws"}}}}))]
    #[case::a_status_of_another_shape(json!({"status": {"providerStatus": "x"}}))]
    fn a_damaged_one_lives(#[case] change: Value) {
        let living = Living::new(&[Machine::read(&stored(&change))]);
        assert_eq!(living.name("m"), Some("ns/web-1"));
    }

    #[rstest]
    #[case::by_its_uid("m", true)]
    #[case::by_its_name("web-1", true)]
    #[case::by_its_namespace("ns", false)]
    #[case::another("web", false)]
    fn a_machine_is_there(#[case] uid_or_name: &str, #[case] is_there: bool) {
        let living = Living::new(&[Machine::read(&stored(&json!({})))]);
        assert_eq!(living.is_there(uid_or_name), is_there);
    }

    #[rstest]
    #[case::its_own_machine(json!({"uid": "x"}), "m", true)]
    #[case::no_machine(json!({"uid": "x"}), "gone", false)]
    #[case::on_record_of_another(json!({"uid": "recorded"}), "gone", true)]
    #[case::to_be_taken_by_another(json!({"uid": "named"}), "gone", true)]
    #[case::of_such_a_vm(json!({"ownerReferences": [{"apiVersion": "v", "kind": "VirtualMachine", "name": "n", "uid": "recorded"}]}), "gone", true)]
    fn who_has_an_object(#[case] object: Value, #[case] machine: &str, #[case] has: bool) {
        let change = json!({
            "metadata": {"annotations": {annotation::ADOPT_VM: "named"}},
            "status": {"providerStatus": {"vmUID": "recorded"}},
        });
        let living = Living::new(&[Machine::read(&stored(&change))]);
        let object: ObjectMeta = serde_json::from_value(object).unwrap();
        assert_eq!(living.has(&object, machine), has);
    }
}
