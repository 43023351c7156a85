//! Moving over from machine-controller, and back: pools as it stores them are not rolled by us, and as we leave them, not
//! by it.

use k8s_openapi::jiff::Timestamp;
use machinist_shared::api::names::label;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::decide;
use super::plan::Step;
use super::snapshot::types::Snapshot;
use super::snapshot::{deployment, set_of};
use crate::cache::{StoredMachineDeployment, StoredMachineSet, Stores};
use crate::runtime::creation_limit::Allowance;

fn template() -> Value {
    json!({
        "metadata": {"labels": {"pool": "a"}},
        "spec": {
            "metadata": {"labels": {"tier": "x"}},
            "versions": {"kubelet": "1.33.4"},
            "providerSpec": {"value": {
                "cloudProvider": "kubevirt",
                "operatingSystem": "ubuntu",
                "operatingSystemSpec": {"distUpgradeOnBoot": false},
                "cloudProviderSpec": {
                    "clusterName": "c",
                    "auth": {"kubeconfig": {"secretKeyRef": {"namespace": "kube-system", "name": "s", "key": "k"}}},
                    "virtualMachine": {"template": {"cpus": "2", "memory": "4Gi", "primaryDisk": {
                        "osImage": "http://images/x", "size": "10Gi", "storageClassName": "standard"}}},
                },
            }},
        },
    })
}

/// Ways to write the same, as Go clients, older releases and people do: where, and what.
const WAYS: [(&str, &str); 9] = [
    ("/metadata/creationTimestamp", "null"),
    ("/spec/metadata/creationTimestamp", "null"),
    ("/spec/taints", "null"),
    ("/spec/taints", "[]"),
    ("/spec/configSource", "null"),
    ("/spec/providerSpec/value/sshPublicKeys", "null"),
    ("/spec/providerSpec/value/network", "null"),
    ("/spec/providerSpec/value/caPublicKey", "\"\""),
    (
        "/spec/providerSpec/value/cloudProviderSpec/virtualMachine/template/memory",
        "\"4096Mi\"",
    ),
];

fn written(ways: &[usize]) -> Value {
    let mut template = template();
    for way in ways {
        let (path, value) = WAYS[*way];
        let (parent, key) = path.rsplit_once('/').unwrap();
        template.pointer_mut(parent).unwrap()[key] = serde_json::from_str(value).unwrap();
    }
    template
}

/// The set of the deployment, as machine-controller makes it of a template.
fn stored_set(name: &str, revision: &str, size: i32, mut template: Value) -> StoredMachineSet {
    template["metadata"]["labels"][label::TEMPLATE_HASH] = json!("1234");
    let labels = template["metadata"]["labels"].clone();
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": "5", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels, "finalizers": ["foregroundDeletion"],
            "annotations": {
                "machinedeployment.clusters.k8s.io/revision": revision,
                "machinedeployment.clusters.k8s.io/desired-replicas": "3",
                "machinedeployment.clusters.k8s.io/max-replicas": "4",
            },
            "ownerReferences": [{"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineDeployment", "name": "d",
                "uid": "uid-d", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {"replicas": size, "selector": {"matchLabels": labels}, "template": template},
        "status": {"replicas": size, "fullyLabeledReplicas": size, "readyReplicas": size, "availableReplicas": size,
            "observedGeneration": 1},
    }))
    .unwrap()
}

fn stored_deployment(template: &Value) -> StoredMachineDeployment {
    serde_json::from_value(json!({
        "metadata": {
            "name": "d", "namespace": "ns", "uid": "uid-d", "resourceVersion": "7", "generation": 2,
            "annotations": {"machinedeployment.clusters.k8s.io/revision": "2"}, "finalizers": ["foregroundDeletion"],
        },
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"pool": "a"}}, "template": template, "minReadySeconds": 0,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
        },
        "status": {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3},
    }))
    .unwrap()
}

proptest! {
    #[test]
    fn no_node_rolls_at_take_over_nor_on_the_way_back(
        in_the_set in prop::sample::subsequence((0..WAYS.len()).collect::<Vec<_>>(), 0..=WAYS.len()),
        in_the_deployment in prop::sample::subsequence((0..WAYS.len()).collect::<Vec<_>>(), 0..=WAYS.len()),
        // Of an older kubelet, or of the same template in other bytes, for which machine-controller has rolled the pool.
        in_the_old_set in prop::option::of(
            prop::sample::subsequence((0..WAYS.len()).collect::<Vec<_>>(), 0..=WAYS.len())),
    ) {
        let wanted = written(&in_the_deployment);
        let mut other = written(&in_the_old_set.clone().unwrap_or_default());
        if in_the_old_set.is_none() {
            other["spec"]["versions"]["kubelet"] = json!("1.32.0");
        }
        let sets = [stored_set("d-old", "1", 0, other), stored_set("d-new", "2", 3, written(&in_the_set))];
        let deployment = deployment(&stored_deployment(&wanted));
        let stores = Stores::default();
        let observed = Snapshot {
            sets: sets.iter().map(|set| set_of(&stores, &deployment, set, true)).collect(),
            names: sets.iter().map(|set| set.name().to_owned()).collect(),
            rejected: Vec::new(),
            creations: Allowance::unlimited(),
            failure: None,
            rollback_refused: None,
            status_written: None,
            overlaps: Vec::new(),
            instancetype: None,
            instancetype_again: None,
            deployment,
        };
        let mut left = (*sets[1].template).clone();
        for step in decide(&observed, Timestamp::from_second(1_800_000_000).unwrap()).steps {
            match step {
                Step::CopyTemplate { name, template, .. } => {
                    prop_assert_eq!(name, "d-new");
                    left = (*template).clone();
                }
                Step::PatchSet { patch, .. } => prop_assert_eq!(patch.get("spec"), None, "a set is changed"),
                Step::PatchStatus(_) | Step::Event(_) => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
        // Back: machine-controller compares the bytes of the value, as the API server delivers them; we leave all of it equal.
        left["metadata"]["labels"].as_object_mut().unwrap().remove(label::TEMPLATE_HASH);
        prop_assert_eq!(left.to_string(), wanted.to_string());
    }
}
