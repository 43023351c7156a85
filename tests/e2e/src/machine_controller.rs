//! Objects of machine-controller, created as it creates them: Machines with its finalizers and status, VMs with its labels, disks
//! and Secrets under its names.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    core::DynamicObject,
};
use machinist_shared::api::names::{annotation, finalizer, label};
use serde_json::{Value, json};
use testbed::seed::INFRA_NAMESPACE;

use crate::{Case, case::WAIT_TIMEOUT, manifest::NAMESPACE, osm, wait};

/// Its ServiceAccount, with rights that the test needs beyond it.
pub const AS: [&str; 2] = [
    "--as=system:serviceaccount:kube-system:machine-controller",
    "--as-group=system:masters",
];

/// A Machine of machine-controller, and its VM.
pub struct Planted {
    /// UID of the Machine.
    pub machine: String,
    /// The VM, as it was stored.
    pub vm: DynamicObject,
    /// Name of its user data.
    pub secret: String,
}

/// Stores the Machine `name` of that MachineSet and creates its VM, with `fault` in its disks and guest.
pub async fn plant(case: &Case, name: &str, set: &Value, fault: Option<(&str, &str)>) -> Result<Planted> {
    let mut machine = osm::machine(name, set);
    machine["metadata"]["finalizers"] = json!([finalizer::VM, finalizer::NODE]);
    machine["metadata"]["labels"] = json!({"set": "pool-1"});
    let create = ["create", "-o", "json", "-f", "-"];
    let stored = case
        .bed
        .user()
        .kubectl_ok(&[&create[..], &AS].concat(), &machine.to_string())
        .await?;
    let stored: Value = serde_json::from_str(&stored)?;
    let uid = stored["metadata"]["uid"].as_str().context("no UID")?.to_owned();
    let secret = format!("userdata-{name}-1760000000");
    let mut vm = virtual_machine(name, &secret);
    if let Some((fault, value)) = fault {
        vm["metadata"]["annotations"] = json!({format!("sim.kubevirt.io/{fault}"): value});
    }
    let vm = case
        .vms()
        .create(&PostParams::default(), &serde_json::from_value(vm)?)
        .await?;
    // After the VM, whose pod waits for it.
    let owner = json!([{
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": vm.uid(),
        "controller": true, "blockOwnerDeletion": true,
    }]);
    let data = osm::user_data(case, "peer")
        .await?
        .replace("<MACHINE_NAME>", name);
    let object = json!({
        "metadata": {"name": secret, "namespace": INFRA_NAMESPACE, "ownerReferences": owner},
        "stringData": {"userdata": data},
    });
    let secrets: Api<Secret> = case.infra_secrets();
    secrets
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    Ok(Planted {
        machine: uid,
        vm,
        secret,
    })
}

/// Waits until the guest has joined, and writes the fields that machine-controller writes then.
pub async fn link(case: &Case, name: &str, planted: &Planted) -> Result<Node> {
    let node = wait::for_state(&case.nodes(), name, "Ready", WAIT_TIMEOUT, crate::case::is_ready).await?;
    let provider_id = format!("kubermatic://kubevirt/{}", planted.machine);
    let decorated = json!({
        "metadata": {
            "labels": {label::OWNED_BY: planted.machine},
            "annotations": {annotation::MACHINE: format!("{NAMESPACE}/{name}")},
        },
        "spec": {"providerID": provider_id},
    });
    let node = case
        .nodes()
        .patch(
            &node.name_any(),
            &PatchParams::default(),
            &Patch::Merge(decorated),
        )
        .await?;
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    let addresses = node.status.as_ref().and_then(|status| status.addresses.clone());
    let internal: Vec<_> = addresses
        .into_iter()
        .flatten()
        .filter(|address| address.type_ == "InternalIP")
        .collect();
    let reference = json!({
        "kind": "Node", "apiVersion": "v1", "name": name, "uid": node.uid(), "resourceVersion": node.resource_version(),
    });
    let status = json!({
        "spec": {"providerID": provider_id},
        "status": {
            "nodeRef": reference, "addresses": internal,
            "versions": {"kubelet": info.map(|info| info.kubelet_version.as_str())},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}],
        },
    })
    .to_string();
    let patch = [
        "patch",
        "machine",
        name,
        "--namespace",
        NAMESPACE,
        "--type=merge",
        "--patch",
        &status,
    ];
    case.bed
        .user()
        .kubectl_ok(&[&patch[..], &AS].concat(), "")
        .await?;
    Ok(node)
}

/// Its VM: one disk more than the root, a full copy of the image as it creates them.
fn virtual_machine(name: &str, secret: &str) -> Value {
    let further = format!("{name}-secondarydisk0");
    let labels = json!({
        "kubevirt.io/vm": name, "md": osm::DEPLOYMENT, "pool": "workers",
        "cluster.x-k8s.io/cluster-name": "e2e", "cluster.x-k8s.io/role": "worker",
        "kubermatic.k8c.io/project-id": "", "kubermatic.k8c.io/cluster-id": "e2e",
    });
    let disk = |name: &str, target: &str, size: &str| {
        json!({
            "metadata": {"name": name},
            "spec": {
                "source": {"http": {"url": "https://images.example.com/ubuntu-24.04.img"}},
                target: {
                    "storageClassName": "standard", "accessModes": ["ReadWriteMany"],
                    "resources": {"requests": {"storage": size}},
                },
            },
        })
    };
    let bus = |name: &str| json!({"name": name, "disk": {"bus": "virtio"}});
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": INFRA_NAMESPACE, "labels": labels},
        "spec": {
            "runStrategy": "Once",
            "instancetype": {"name": "standard-2", "kind": "VirtualMachineClusterInstancetype"},
            "preference": {"name": "sockets-advantage", "kind": "VirtualMachineClusterPreference"},
            "dataVolumeTemplates": [disk(name, "storage", "20Gi"), disk(&further, "pvc", "10Gi")],
            "template": {
                "metadata": {"labels": labels, "annotations": {
                    "kubevirt.io/allow-pod-bridge-network-live-migration": "true",
                    "ovn.kubernetes.io/allow_live_migration": "true",
                    "kubectl.kubernetes.io/last-applied-configuration": "{\"apiVersion\":\"cluster.k8s.io/v1alpha1\"}\n",
                    "v1.kubelet-config.machine-controller.kubermatic.io/MaxPods": "110",
                }},
                "spec": {
                    "evictionStrategy": "External", "terminationGracePeriodSeconds": 30,
                    "networks": [{"name": "default", "pod": {}}],
                    "domain": {
                        "devices": {
                            "interfaces": [{"name": "default", "bridge": {}}], "networkInterfaceMultiqueue": true,
                            "disks": [bus("datavolumedisk"), bus("cloudinitdisk"), bus(&further)],
                        },
                        "resources": {},
                    },
                    "affinity": {},
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": {"md": osm::DEPLOYMENT}},
                    }],
                    "volumes": [
                        {"name": "datavolumedisk", "dataVolume": {"name": name}},
                        {"name": "cloudinitdisk", "cloudInitNoCloud": {"secretRef": {"name": secret}}},
                        {"name": further, "dataVolume": {"name": further}},
                    ],
                },
            },
        },
    })
}
