//! Manifests as users write them.

use serde_json::{Value, json};
use testbed::seed::INFRA_SECRET;

/// Namespace of the Machines of all cases.
pub const NAMESPACE: &str = "kube-system";

/// A Machine on an image from the web, with an instance type, its kubeconfig from the Secret that the testbed stored.
pub fn machine(name: &str) -> Value {
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1",
        "kind": "Machine",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "metadata": {"labels": {"pool": "workers"}},
            "taints": [{"key": "dedicated", "value": "test", "effect": "NoSchedule"}],
            "versions": {"kubelet": "1.36.3"},
            "providerSpec": {"value": {
                "cloudProvider": "kubevirt",
                "operatingSystem": "ubuntu",
                "operatingSystemSpec": {"distUpgradeOnBoot": false},
                "cloudProviderSpec": {
                    "clusterName": "e2e",
                    "auth": {"kubeconfig": {"secretKeyRef": {
                        "namespace": "kube-system", "name": INFRA_SECRET, "key": "kubeconfig",
                    }}},
                    "virtualMachine": {
                        "instancetype": {"name": "standard-2", "kind": "VirtualMachineClusterInstancetype"},
                        "preference": {"name": "sockets-advantage", "kind": "VirtualMachineClusterPreference"},
                        "template": {"primaryDisk": {
                            "osImage": "https://images.example.com/ubuntu-24.04.img",
                            "source": "http",
                            "size": "20Gi",
                            "storageClassName": "standard",
                        }},
                    },
                },
            }},
        },
    })
}

/// A MachineSet of so many Machines like [`machine`], selected by the label `set`.
pub fn machine_set(name: &str, replicas: u32) -> Value {
    let labels = json!({"set": name});
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1",
        "kind": "MachineSet",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": machine(name)["spec"]},
        },
    })
}

/// The VM's template of a Machine, to change before it is applied.
pub fn virtual_machine(machine: &mut Value) -> &mut Value {
    &mut machine["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["virtualMachine"]
}
