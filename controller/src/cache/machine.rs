//! A Machine as stored: decoded as far as it can be, so that one bad object stops no other.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Weak};

use kube::core::ObjectMeta;
use machinist_shared::api::names::{self, annotation, condition};
use machinist_shared::api::{MachineSpec, MachineStatus};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::named::named;
use super::owner;
use super::raw::Raw;
use crate::machine::record::{self, Infrastructure, Progress, Record};

/// The spec of a stored Machine.
#[derive(Debug, Clone, PartialEq)]
pub enum SpecState {
    /// It has the shape of a Machine's spec (its providerSpec may still be wrong). Without what is the Machine's own: name and
    /// providerID.
    Decoded(Arc<MachineSpec>),
    /// It does not even have that; why.
    Undecodable(String),
}

/// A Machine as stored.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Raw")]
pub struct StoredMachine {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Spec, if it can be decoded.
    pub spec: SpecState,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
    /// Status; what cannot be decoded counts as absent.
    pub status: MachineStatus,
    /// Our record in `status.providerStatus`.
    pub record: Option<Record>,
    /// What takes time, from there.
    pub progress: Progress,
}

impl From<Raw> for StoredMachine {
    fn from(raw: Raw) -> Self {
        let spec = match raw.spec {
            Value::Null => Ok(MachineSpec::default()),
            spec => serde_json::from_value::<MachineSpec>(spec),
        };
        let (spec, provider_id) = match spec {
            Ok(mut spec) => {
                let provider_id = spec.provider_id.take();
                if let Some(metadata) = &mut spec.metadata {
                    metadata.name = None;
                }
                (SpecState::Decoded(shared(spec)), provider_id)
            }
            Err(error) => (SpecState::Undecodable(error.to_string()), None),
        };
        let mut raw_status = raw.status;
        // That is the record.
        let provider_status = raw_status
            .as_object_mut()
            .and_then(|status| status.remove("providerStatus"))
            .unwrap_or_default();
        let status = serde_json::from_value::<Option<MachineStatus>>(raw_status)
            .ok()
            .flatten()
            .unwrap_or_default();
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let (record, progress) = record::read(&provider_status, conditions);
        Self {
            metadata: owner::reduced(raw.metadata),
            spec,
            provider_id,
            status,
            record,
            progress,
        }
    }
}

/// Specs in use, by hash.
static SPECS: LazyLock<Mutex<HashMap<u64, Weak<MachineSpec>>>> = LazyLock::new(Mutex::default);

/// The spec, held once for all Machines that have the same: those of a MachineSet, which may be thousands.
fn shared(spec: MachineSpec) -> Arc<MachineSpec> {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&spec).unwrap_or_default().hash(&mut hasher);
    // Every change of the map is complete before anything can panic.
    let mut specs = SPECS.lock();
    if specs.len() == specs.capacity() {
        specs.retain(|_, spec| spec.strong_count() > 0);
    }
    let known = specs.entry(hasher.finish()).or_default();
    match known.upgrade() {
        Some(same) if *same == spec => same,
        _ => {
            let spec = Arc::new(spec);
            *known = Arc::downgrade(&spec);
            spec
        }
    }
}

named!(StoredMachine, metadata);

impl StoredMachine {
    /// Whether a kubelet has ever joined for it, as far as its status says.
    pub fn has_joined(&self) -> bool {
        let record = self.record.as_ref();
        self.status.node_ref.is_some() || record.is_some_and(Record::has_joined)
    }

    /// Whether its status says that its VM runs.
    pub fn has_running_vm(&self) -> bool {
        let conditions = self.status.conditions.iter().flatten();
        conditions
            .filter(|c| c.type_ == condition::INFRASTRUCTURE_READY)
            .any(|c| c.status == "True")
    }

    /// Whether it bears that finalizer.
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.metadata.finalizers.iter().flatten().any(|f| f == finalizer)
    }

    /// Whether another client has asked for this one to go first. The cluster-autoscaler does.
    pub fn is_marked(&self) -> bool {
        self.annotation(annotation::DELETE_MACHINE)
            .is_some_and(|text| !text.is_empty())
    }

    /// Name of the MachineSet that controls it.
    pub fn machine_set(&self) -> Option<&str> {
        let owners = self.metadata.owner_references.iter().flatten();
        owners
            .filter(|o| o.kind == "MachineSet")
            .map(|o| o.name.as_str())
            .next()
    }

    /// UID of the controller of it.
    pub fn controller_uid(&self) -> Option<&str> {
        owner::controller(&self.metadata).map(|owner| owner.uid.as_str())
    }

    /// Whether an admin has said that this is where the Machine lives from now on.
    pub fn accepts(&self, infrastructure: &Infrastructure) -> bool {
        let accepted = self.annotation(names::annotation::ACCEPT_INFRASTRUCTURE);
        accepted.is_some_and(|accepted| {
            Some(accepted) == infrastructure.namespace_uid.as_deref() || accepted == infrastructure.server
        })
    }

    /// Whether this controller instance leaves it alone: another `--name`, or the initializers annotation.
    pub fn is_ignored(&self, controller_name: &str) -> bool {
        self.is_anothers(controller_name) || self.is_paused()
    }

    /// Whether it is the work of a controller of another name.
    pub fn is_anothers(&self, controller_name: &str) -> bool {
        let labels = self.metadata.labels.as_ref();
        let label = labels
            .and_then(|l| l.get(names::label::CONTROLLER_NAME))
            .map_or("", String::as_str);
        label != controller_name
    }

    /// Whether the initializers annotation asks to leave it alone.
    pub fn is_paused(&self) -> bool {
        self.annotation(names::annotation::INITIALIZERS)
            .is_some_and(|text| !text.is_empty())
    }
}

machinist_infra::projected!(
    StoredMachine,
    NamespaceResourceScope,
    "Machine",
    names::GROUP,
    names::VERSION,
    "machines"
);
machinist_infra::serialize_metadata!(StoredMachine);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_machine_whose_spec_is_no_spec_is_kept_with_the_reason() {
        let machine: StoredMachine =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"taints": "no list"}}))
                .unwrap();
        assert!(matches!(machine.spec, SpecState::Undecodable(why) if why.contains("no list")));
    }

    #[test]
    fn machines_of_one_template_hold_one_spec_and_no_manifest() {
        let machine = |name: &str, pool: &str| -> StoredMachine {
            let manifest = "kubectl.kubernetes.io/last-applied-configuration";
            serde_json::from_value(json!({
                "metadata": {"name": name, "annotations": {manifest: "{}", "a": "b"}, "managedFields": [{"manager": "x"}]},
                "spec": {"metadata": {"name": name, "labels": {"pool": pool}}, "providerID": name},
            }))
            .unwrap()
        };
        let spec = |machine: &StoredMachine| match &machine.spec {
            SpecState::Decoded(spec) => Arc::clone(spec),
            SpecState::Undecodable(why) => panic!("{why}"),
        };
        let (one, two, other) = (machine("one", "a"), machine("two", "a"), machine("three", "b"));
        assert!(Arc::ptr_eq(&spec(&one), &spec(&two)));
        assert_ne!(spec(&one), spec(&other));
        assert_eq!(one.provider_id.as_deref(), Some("one"));
        assert_eq!(one.metadata.annotations.unwrap().len(), 1);
        assert!(one.metadata.managed_fields.is_none());
    }

    #[test]
    fn a_record_is_read_even_when_spec_and_status_are_damaged() {
        let machine: StoredMachine = serde_json::from_value(json!({
            "metadata": {"name": "a"}, "spec": [],
            "status": {"addresses": 7, "providerStatus": {"infrastructure": {"server": "https://a", "namespace": "n"}}},
        }))
        .unwrap();
        assert_eq!(machine.record.unwrap().infrastructure.server, "https://a");
    }
}
