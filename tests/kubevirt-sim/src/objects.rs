//! The kinds that the simulator watches and writes, and small helpers on their objects.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use serde_json::{Value, json};

/// A kind that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// kubevirt.io/v1 VirtualMachine
    Vm,
    /// kubevirt.io/v1 VirtualMachineInstance
    Vmi,
    /// cdi.kubevirt.io/v1beta1 DataVolume
    DataVolume,
    /// v1 PersistentVolumeClaim
    Pvc,
    /// v1 Secret
    Secret,
    /// instancetype.kubevirt.io/v1beta1 VirtualMachineInstancetype
    Instancetype,
    /// instancetype.kubevirt.io/v1beta1 VirtualMachineClusterInstancetype
    ClusterInstancetype,
    /// instancetype.kubevirt.io/v1beta1 VirtualMachinePreference
    Preference,
    /// instancetype.kubevirt.io/v1beta1 VirtualMachineClusterPreference
    ClusterPreference,
    /// v1 Pod
    Pod,
    /// v1 PersistentVolume
    Volume,
    /// v1 Node
    Node,
    /// storage.k8s.io/v1 StorageClass
    StorageClass,
    /// cdi.kubevirt.io/v1beta1 StorageProfile
    StorageProfile,
    /// storage.k8s.io/v1 CSIDriver
    CsiDriver,
    /// apps/v1 ControllerRevision; written, not watched
    Revision,
    /// v1 Event; written, not watched
    Event,
}

/// Where the status of a kind is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusIn {
    /// Through `/status`.
    Subresource,
    /// With the object: KubeVirt serves no status subresource for VMIs.
    Object,
}

impl Kind {
    /// All kinds that are watched where the simulator plays KubeVirt's and CDI's controllers.
    pub const WATCHED: &[Self] = &[
        Self::Vm,
        Self::Vmi,
        Self::DataVolume,
        Self::Pvc,
        Self::Secret,
        Self::Instancetype,
        Self::ClusterInstancetype,
        Self::Preference,
        Self::ClusterPreference,
        Self::StorageClass,
        Self::StorageProfile,
        Self::CsiDriver,
    ];

    /// All kinds that are watched where it plays only hosts.
    pub const WATCHED_ON_HOSTS: &[Self] = &[
        Self::Vm,
        Self::Vmi,
        Self::DataVolume,
        Self::Pvc,
        Self::Secret,
        Self::Pod,
        Self::Volume,
        Self::Node,
    ];

    /// Group, version, kind and plural.
    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = match self {
            Self::Vm => ("kubevirt.io", "v1", "VirtualMachine", "virtualmachines"),
            Self::Vmi => (
                "kubevirt.io",
                "v1",
                "VirtualMachineInstance",
                "virtualmachineinstances",
            ),
            Self::DataVolume => ("cdi.kubevirt.io", "v1beta1", "DataVolume", "datavolumes"),
            Self::Pvc => ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
            Self::Secret => ("", "v1", "Secret", "secrets"),
            Self::Instancetype => instancetype("VirtualMachineInstancetype", "virtualmachineinstancetypes"),
            Self::ClusterInstancetype => instancetype(
                "VirtualMachineClusterInstancetype",
                "virtualmachineclusterinstancetypes",
            ),
            Self::Preference => instancetype("VirtualMachinePreference", "virtualmachinepreferences"),
            Self::ClusterPreference => instancetype(
                "VirtualMachineClusterPreference",
                "virtualmachineclusterpreferences",
            ),
            Self::Pod => ("", "v1", "Pod", "pods"),
            Self::Volume => ("", "v1", "PersistentVolume", "persistentvolumes"),
            Self::Node => ("", "v1", "Node", "nodes"),
            Self::StorageClass => ("storage.k8s.io", "v1", "StorageClass", "storageclasses"),
            Self::StorageProfile => ("cdi.kubevirt.io", "v1beta1", "StorageProfile", "storageprofiles"),
            Self::CsiDriver => ("storage.k8s.io", "v1", "CSIDriver", "csidrivers"),
            Self::Revision => ("apps", "v1", "ControllerRevision", "controllerrevisions"),
            Self::Event => ("", "v1", "Event", "events"),
        };
        let api_version = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }

    /// Whether its objects live in a namespace.
    pub fn namespaced(self) -> bool {
        !matches!(
            self,
            Self::ClusterInstancetype
                | Self::ClusterPreference
                | Self::Volume
                | Self::Node
                | Self::StorageClass
                | Self::StorageProfile
                | Self::CsiDriver
        )
    }

    /// Where its status is written.
    pub fn status_in(self) -> StatusIn {
        if self == Self::Vmi {
            StatusIn::Object
        } else {
            StatusIn::Subresource
        }
    }
}

fn instancetype(
    kind: &'static str,
    plural: &'static str,
) -> (&'static str, &'static str, &'static str, &'static str) {
    ("instancetype.kubevirt.io", "v1beta1", kind, plural)
}

/// An object of a kind with nothing but a name and its content (`spec`, `data` ...).
pub fn object(kind: Kind, name: &str, content: Value) -> DynamicObject {
    DynamicObject::new(name, &kind.resource()).data(content)
}

/// A reference to the controller of an object.
pub fn controlled_by(kind: Kind, owner: &DynamicObject) -> OwnerReference {
    let resource = kind.resource();
    OwnerReference {
        api_version: resource.api_version,
        kind: resource.kind,
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The controller of an object, if it has one.
pub fn controller_of(object: &DynamicObject) -> Option<&OwnerReference> {
    object
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
}

/// Text at a JSON pointer of the object's content.
pub fn text<'a>(object: &'a DynamicObject, pointer: &str) -> Option<&'a str> {
    object.data.pointer(pointer).and_then(Value::as_str)
}

/// List at a JSON pointer of the object's content; empty if absent.
pub fn list<'a>(object: &'a DynamicObject, pointer: &str) -> &'a [Value] {
    object
        .data
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Whether the object is being deleted.
pub fn deleting(object: &DynamicObject) -> bool {
    object.metadata.deletion_timestamp.is_some()
}

/// A point in time as Kubernetes writes it: whole seconds.
pub fn stamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Which of a condition's times are set when it turns. KubeVirt's writers differ in this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Neither.
    None,
    /// `lastProbeTime` only.
    Probe,
    /// `lastTransitionTime` only.
    Transition,
    /// Both.
    Both,
}

/// A condition as KubeVirt writes it; an empty reason or message is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
    times: Times,
}

/// Builds a condition.
pub fn condition(
    kind: &'static str,
    status: &'static str,
    reason: &str,
    message: &str,
    times: Times,
) -> Condition {
    Condition {
        kind,
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
        times,
    }
}

impl Condition {
    /// The condition's JSON; the times of an equal condition in `before` are kept.
    pub fn json(&self, before: &[Value], now: Timestamp) -> Value {
        let same = before.iter().find(|old| {
            let field = |name: &str| old.get(name).and_then(Value::as_str).unwrap_or_default();
            field("type") == self.kind
                && field("status") == self.status
                && field("reason") == self.reason
                && field("message") == self.message
        });
        if let Some(same) = same {
            return same.clone();
        }
        let time = |set: bool| if set { json!(stamp(now)) } else { Value::Null };
        let mut value = json!({
            "type": self.kind, "status": self.status,
            "lastProbeTime": time(matches!(self.times, Times::Probe | Times::Both)),
            "lastTransitionTime": time(matches!(self.times, Times::Transition | Times::Both)),
        });
        for (field, text) in [("reason", &self.reason), ("message", &self.message)] {
            if !text.is_empty() {
                value[field] = json!(text);
            }
        }
        value
    }
}

/// A condition of a type in a list.
pub fn find_condition<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a Value> {
    conditions.iter().find(|condition| condition["type"] == kind)
}

/// Whether two statuses say the same: absent and null are equal.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let (left, right) = (|key: &str| a.get(key), |key: &str| b.get(key));
            let null = Value::Null;
            a.keys()
                .chain(b.keys())
                .all(|key| same(left(key).unwrap_or(&null), right(key).unwrap_or(&null)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_condition_keeps_its_times_and_a_changed_one_gets_new_ones() {
        let first = condition("Ready", "False", "A", "m", Times::Both).json(&[], Timestamp::UNIX_EPOCH);
        let later = Timestamp::from_second(60).unwrap();
        let before = [first.clone()];
        assert_eq!(
            condition("Ready", "False", "A", "m", Times::Both).json(&before, later),
            first
        );
        let changed = condition("Ready", "True", "", "", Times::Transition).json(&before, later);
        let expected = json!({
            "type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": "1970-01-01T00:01:00Z",
        });
        assert_eq!(changed, expected);
    }

    #[test]
    fn absent_and_null_are_the_same_and_other_values_are_not() {
        assert!(same(&json!({"a": null, "b": [1]}), &json!({"b": [1]})));
        assert!(!same(&json!({"a": 1}), &json!({})));
        assert!(!same(&json!({"b": [1]}), &json!({"b": [1, 2]})));
    }
}
