//! The decisions of the cluster-autoscaler's provider `clusterapi` (1.36, `CAPI_GROUP=cluster.k8s.io`) about node groups, as a small
//! model over the stored objects: which objects are groups, which Node belongs to which, how instances are named, what a group
//! without nodes offers, and which Nodes are similar. The autoscaler itself does not run here.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::Case;

const MIN_SIZE: &str = "cluster.k8s.io/cluster-api-autoscaler-node-group-min-size";
const MAX_SIZE: &str = "cluster.k8s.io/cluster-api-autoscaler-node-group-max-size";
const CAPACITY: &str = "capacity.cluster-autoscaler.kubernetes.io/";
/// Marks the Machine that goes when the size of its group is lowered.
pub const DELETE: &str = "cluster.k8s.io/delete-machine";

/// Labels that never make Nodes of two groups different.
const IGNORED: [&str; 7] = [
    "kubernetes.io/hostname",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "beta.kubernetes.io/fluentd-ds-ready",
    "kops.k8s.io/instancegroup",
];

/// What the autoscaler lists.
#[derive(Debug, Default)]
pub struct Cluster {
    deployments: Vec<Value>,
    sets: Vec<Value>,
    machines: Vec<Value>,
    nodes: Vec<Value>,
}

/// A node group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `Kind/name`.
    pub id: String,
    /// Fewest and most nodes.
    pub bounds: (i64, i64),
    /// CPUs and memory of a node, before there is one.
    pub capacity: Option<(String, String)>,
}

impl Cluster {
    /// Lists everything.
    pub async fn read(case: &Case) -> Result<Self> {
        let list = async |resource: &str| -> Result<Vec<Value>> {
            let listed = case.kubectl(&["get", resource, "--output=json"]).await?;
            let mut listed: Value = serde_json::from_str(&listed)?;
            Ok(serde_json::from_value(listed["items"].take())?)
        };
        Ok(Self {
            deployments: list("machinedeployments").await?,
            sets: list("machinesets").await?,
            machines: list("machines").await?,
            nodes: list("nodes").await?,
        })
    }

    /// The node groups, by name. A MachineSet of a MachineDeployment is none.
    pub fn groups(&self) -> Result<Vec<Group>> {
        let alone = self
            .sets
            .iter()
            .filter(|set| owner(set, "MachineDeployment").is_none());
        let deployments = self
            .deployments
            .iter()
            .map(|object| ("MachineDeployment", object));
        let all = deployments.chain(alone.map(|set| ("MachineSet", set)));
        let groups = all
            .map(|(kind, object)| group(kind, object))
            .collect::<Result<Vec<_>>>()?;
        Ok(groups.into_iter().flatten().collect())
    }

    /// The group of that Node.
    pub fn group_of(&self, node: &str) -> Result<Option<String>> {
        let node = self.node(node)?;
        let Some(machine) = self.machine_of(last_part(text(node, "/spec/providerID")))? else {
            return Ok(None);
        };
        let set = owner(machine, "MachineSet").and_then(|name| named(&self.sets, name));
        let Some(set) = set else { return Ok(None) };
        Ok(Some(match owner(set, "MachineDeployment") {
            Some(deployment) => format!("MachineDeployment/{deployment}"),
            None => format!("MachineSet/{}", text(set, "/metadata/name")),
        }))
    }

    /// The Machine with that last part of a providerID; two are an error, which stops every loop of the autoscaler.
    fn machine_of(&self, id: &str) -> Result<Option<&Value>> {
        let mut found = self.machines.iter().filter(|machine| {
            let own = text(machine, "/spec/providerID");
            !own.is_empty() && last_part(own) == id
        });
        let first = found.next();
        ensure!(found.next().is_none(), "two Machines have the providerID {id}");
        Ok(first)
    }

    /// The instances of a group by their IDs: a Machine that has no providerID, is failed or being deleted has one of its own
    /// kind.
    pub fn instances(&self, group: &str) -> Vec<String> {
        let sets = self.sets.iter().filter(|set| {
            let (own, deployment) = (text(set, "/metadata/name"), owner(set, "MachineDeployment"));
            group == format!("MachineSet/{own}")
                || deployment.is_some_and(|deployment| group == format!("MachineDeployment/{deployment}"))
        });
        let sets: Vec<&str> = sets.map(|set| text(set, "/metadata/name")).collect();
        let machines = self.machines.iter();
        let machines =
            machines.filter(|machine| owner(machine, "MachineSet").is_some_and(|set| sets.contains(&set)));
        machines.map(instance).collect()
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Result<&Value> {
        named(&self.nodes, name).with_context(|| format!("no Node {name}"))
    }
}

/// Reads the sizes and the capacity of an object; an error is one for which the autoscaler logs and skips it.
fn group(kind: &str, object: &Value) -> Result<Option<Group>> {
    let annotations = &object["metadata"]["annotations"];
    let size = |key: &str| match annotations[key].as_str() {
        Some(size) => size.parse::<i64>().with_context(|| format!("{key}: {size}")),
        None => Ok(0),
    };
    let (min, max) = (size(MIN_SIZE)?, size(MAX_SIZE)?);
    if min < 0 || max < min {
        bail!("sizes from {min} to {max}");
    }
    let of = |key: &str| {
        annotations[&format!("{CAPACITY}{key}")]
            .as_str()
            .map(str::to_owned)
    };
    let capacity = of("cpu").zip(of("memory"));
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or_default();
    // A group with one possible size, and one that is empty and says nothing of its nodes, are passed over.
    let is_group = max - min >= 1 && (replicas > 0 || capacity.is_some());
    Ok(is_group.then(|| Group {
        id: format!("{kind}/{}", text(object, "/metadata/name")),
        bounds: (min, max),
        capacity,
    }))
}

fn instance(machine: &Value) -> String {
    let special = |kind: &str| {
        let (namespace, name) = (
            text(machine, "/metadata/namespace"),
            text(machine, "/metadata/name"),
        );
        format!("{kind}-machine-{namespace}_{name}")
    };
    let is_set = |path: &str| !text(machine, path).is_empty();
    if is_set("/metadata/deletionTimestamp") {
        special("deleting")
    } else if is_set("/status/failureMessage") {
        special("failed")
    } else if is_set("/spec/providerID") {
        last_part(text(machine, "/spec/providerID")).to_owned()
    } else {
        special("pending")
    }
}

/// The labels by which two Nodes differ, but for those that never count and the `ignored` ones. Groups are balanced if there are
/// none, and their nodes have the same capacity.
pub fn differing_labels(one: &Value, other: &Value, ignored: &[&str]) -> Vec<String> {
    let labels = |node: &Value| -> BTreeMap<String, Value> {
        let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
        let counted =
            labels.filter(|(key, _)| !IGNORED.contains(&key.as_str()) && !ignored.contains(&key.as_str()));
        counted.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let (one, other) = (labels(one), labels(other));
    let keys = one.keys().chain(other.keys());
    let differing = keys.filter(|key| one.get(*key) != other.get(*key));
    let mut differing: Vec<String> = differing.cloned().collect();
    differing.sort();
    differing.dedup();
    differing
}

/// What follows the last slash of a providerID: all that is compared.
fn last_part(provider_id: &str) -> &str {
    provider_id.rsplit('/').next().unwrap_or_default()
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn named<'a>(objects: &'a [Value], name: &str) -> Option<&'a Value> {
    objects
        .iter()
        .find(|object| text(object, "/metadata/name") == name)
}

fn owner<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["kind"] == kind)?;
    owner["name"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::sizes_and_capacity(json!({MIN_SIZE: "0", MAX_SIZE: "3", "capacity.cluster-autoscaler.kubernetes.io/cpu": "2",
        "capacity.cluster-autoscaler.kubernetes.io/memory": "4Gi"}), 0, true)]
    #[case::empty_without_a_capacity(json!({MIN_SIZE: "0", MAX_SIZE: "3"}), 0, false)]
    #[case::with_a_node_and_without_a_capacity(json!({MIN_SIZE: "0", MAX_SIZE: "3"}), 1, true)]
    #[case::one_size(json!({MIN_SIZE: "2", MAX_SIZE: "2"}), 2, false)]
    #[case::no_sizes(json!({}), 2, false)]
    fn a_node_group(#[case] annotations: Value, #[case] replicas: i64, #[case] is_group: bool) {
        let object =
            json!({"metadata": {"name": "a", "annotations": annotations}, "spec": {"replicas": replicas}});
        assert_eq!(group("MachineDeployment", &object).unwrap().is_some(), is_group);
    }

    #[rstest]
    #[case::with_a_node(json!({"spec": {"providerID": "kubermatic://kubevirt/m1"}}), "m1")]
    #[case::of_a_cloud_controller_manager(json!({"spec": {"providerID": "kubevirt://web-1"}}), "web-1")]
    #[case::pending(json!({}), "pending-machine-ns_web-1")]
    #[case::failed(json!({"status": {"failureMessage": "x"}, "spec": {"providerID": "a/b"}}), "failed-machine-ns_web-1")]
    #[case::deleting(json!({"metadata": {"namespace": "ns", "name": "web-1", "deletionTimestamp": "t"}}), "deleting-machine-ns_web-1")]
    fn an_instance(#[case] change: Value, #[case] expected: &str) {
        let mut machine = json!({"metadata": {"namespace": "ns", "name": "web-1"}});
        for (key, value) in change.as_object().into_iter().flatten() {
            machine[key] = value.clone();
        }
        assert_eq!(instance(&machine), expected);
    }

    #[test]
    fn two_machines_with_one_provider_id_are_an_error() {
        let machine = json!({"spec": {"providerID": "kubermatic://kubevirt/m1"}});
        let cluster = Cluster {
            machines: vec![machine.clone(), machine],
            ..Cluster::default()
        };
        assert!(cluster.machine_of("m1").is_err() && cluster.machine_of("m2").is_ok());
    }
}
