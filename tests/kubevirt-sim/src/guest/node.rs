//! The kubelet's side of a Node: registers it, heart-beats, runs and ends its pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::kubelet::Kubelet;

/// `nodeStatusReportFrequency` of the kubelet; in between, the Lease shows that it is alive.
const STATUS_REPORT: Duration = Duration::from_mins(5);

/// The guest's view of its machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Address of its network interface.
    pub address: IpAddr,
    /// SMBIOS UUID: the VM's firmware UUID.
    pub system_uuid: String,
    /// Differs from boot to boot.
    pub boot_id: String,
    /// `status.nodeInfo.kubeletVersion`.
    pub kubelet_version: String,
    /// Cores.
    pub cpus: u64,
    /// Memory as a quantity.
    pub memory: String,
}

/// Creates the Node, or adopts an existing one as a restarted kubelet does, and reports it Ready.
pub async fn register(client: &Client, kubelet: &Kubelet, machine: &Machine) -> Result<Node, kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let node = match api
        .create(&PostParams::default(), &new_node(kubelet, machine))
        .await
    {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            // An existing Node keeps its taints and providerID; only the kubelet's own labels are put right.
            let labels = json!({"metadata": {"labels": own_labels(&kubelet.node_name)}});
            api.patch(&kubelet.node_name, &PatchParams::default(), &Patch::Merge(labels))
                .await?
        }
        other => other?,
    };
    report(client, kubelet, machine, Ready::Yes).await?;
    Ok(node)
}

fn own_labels(name: &str) -> BTreeMap<String, String> {
    let labels = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", "amd64"),
    ];
    labels
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn new_node(kubelet: &Kubelet, machine: &Machine) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(kubelet.node_name.clone());
    let mut labels = own_labels(&kubelet.node_name);
    labels.extend(kubelet.labels.clone());
    node.metadata.labels = Some(labels);
    let controller = ("volumes.kubernetes.io/controller-managed-attach-detach", "true");
    node.metadata.annotations = Some([(controller.0.to_owned(), controller.1.to_owned())].into());
    let mut taints = kubelet.taints.clone();
    if kubelet.external_cloud_provider {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".to_owned(),
            value: Some("true".to_owned()),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        });
    }
    let spec = node.spec.get_or_insert_default();
    spec.taints = Some(taints).filter(|taints| !taints.is_empty());
    spec.provider_id.clone_from(&kubelet.provider_id);
    let status = status(kubelet, machine, Ready::No);
    node.status = serde_json::from_value(status).ok();
    node
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Yes,
    No,
}

async fn report(
    client: &Client,
    kubelet: &Kubelet,
    machine: &Machine,
    ready: Ready,
) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let patch = Patch::Strategic(json!({"status": status(kubelet, machine, ready)}));
    api.patch_status(&kubelet.node_name, &PatchParams::default(), &patch)
        .await
        .map(drop)
}

fn status(kubelet: &Kubelet, machine: &Machine, ready: Ready) -> Value {
    let now = now();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let ready = match ready {
        Ready::Yes => condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        Ready::No => condition(
            "Ready",
            "False",
            "KubeletNotReady",
            "container runtime network not ready: NetworkReady=false",
        ),
    };
    let resources = json!({"cpu": machine.cpus.to_string(), "memory": machine.memory, "pods": "110"});
    json!({
        "addresses": [
            {"type": "InternalIP", "address": machine.address.to_string()},
            {"type": "Hostname", "address": kubelet.node_name},
        ],
        "capacity": resources,
        "allocatable": resources,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ready,
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": "amd64", "operatingSystem": "linux", "osImage": "Simulated Linux",
            "bootID": machine.boot_id, "machineID": machine.system_uuid.replace('-', ""),
            "systemUUID": machine.system_uuid,
            "kernelVersion": "6.12.0", "containerRuntimeVersion": "containerd://2.1.0",
            "kubeletVersion": machine.kubelet_version, "kubeProxyVersion": "",
        },
    })
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Renews the Lease four times per term and reports the status now and then, for ever.
pub async fn heartbeat(client: &Client, kubelet: &Kubelet, machine: &Machine, node: &Node) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let name = &kubelet.node_name;
    let term = Duration::from_secs(u64::try_from(kubelet.lease_seconds).unwrap_or(40).max(4));
    let mut reported = tokio::time::Instant::now();
    loop {
        let renewed = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let patch = Patch::Merge(json!({"spec": {"renewTime": renewed}}));
        if let Err(kube::Error::Api(status)) = leases.patch(name, &PatchParams::default(), &patch).await
            && status.reason == "NotFound"
        {
            let lease = json!({
                "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid().unwrap_or_default(),
                }]},
                "spec": {
                    "holderIdentity": name, "renewTime": renewed,
                    "leaseDurationSeconds": kubelet.lease_seconds,
                },
            });
            if let Ok(lease) = serde_json::from_value(lease)
                && let Err(error) = leases.create(&PostParams::default(), &lease).await
            {
                tracing::debug!(node = name, %error, "Lease not created");
            }
        }
        if reported.elapsed() >= STATUS_REPORT {
            reported = tokio::time::Instant::now();
            if let Err(error) = report(client, kubelet, machine, Ready::Yes).await {
                tracing::debug!(node = name, %error, "status not reported");
            }
        }
        tokio::time::sleep(term / 4).await;
    }
}

/// Runs the pods of this node: bound pods become Running and ready, and terminating ones are gone at once.
pub async fn run_pods(client: &Client, kubelet: &Kubelet, machine: &Machine) {
    let own = watcher::Config::default().fields(&format!("spec.nodeName={}", kubelet.node_name));
    let changes = watcher(Api::<Pod>::all(client.clone()), own)
        .default_backoff()
        .applied_objects();
    let mut changes = std::pin::pin!(changes);
    while let Some(change) = changes.next().await {
        let Ok(pod) = change else { continue };
        if let Err(error) = tend(client, machine, &pod).await {
            tracing::debug!(node = kubelet.node_name, pod = pod.name_any(), %error, "pod not tended");
        }
    }
}

async fn tend(client: &Client, machine: &Machine, pod: &Pod) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        let only_this = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default().grace_period(0).preconditions(only_this);
        return api.delete(&name, &params).await.map(drop);
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if !matches!(phase, None | Some("Pending")) {
        return Ok(());
    }
    let now = now();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    let containers = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .map(|container| {
            json!({
                "name": container.name, "image": container.image.clone().unwrap_or_default(), "imageID": "",
                "ready": true, "started": true, "restartCount": 0, "state": {"running": {"startedAt": now}},
            })
        });
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {
        "phase": "Running", "startTime": now, "hostIP": machine.address.to_string(),
        "conditions": [condition("Initialized"), condition("ContainersReady"), condition("Ready")],
        "containerStatuses": containers.collect::<Vec<_>>(),
    }}));
    api.patch_status(&name, &PatchParams::default(), &patch)
        .await
        .map(drop)
}
