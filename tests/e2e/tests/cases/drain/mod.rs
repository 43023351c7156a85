//! Nodes are drained before their VMs are deleted: the real disruption controller keeps the budgets, simulated kubelets end
//! the pods.

mod budgets;
mod concurrency;
mod decision_log;
mod finalizers;
mod hooks;
mod pods;
mod skipping;
mod volumes;

use std::time::Duration;

use anyhow::{Result, bail};
use e2e::{
    Case,
    case::WAIT_TIMEOUT,
    drain::{PODS, phase},
    manifest, wait,
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{PersistentVolume, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// The Machine whose Node is drained.
const WORKER: &str = "worker";
/// The Machine whose Node evicted pods can go to: the last Node of a cluster is not drained.
const STAYS: &str = "stays";

const BLOCKED: &str = "EvictionBlocked";
const EXCLUDE_DRAIN: &str = "machine.cluster.x-k8s.io/exclude-node-draining";
const EXCLUDE_DETACH: &str = "machine.cluster.x-k8s.io/exclude-wait-for-node-volume-detach";
const HOLD: &str = "pre-terminate.delete.hook.machine.cluster.x-k8s.io/test";

/// A cluster of two Nodes, `worker` and `stays`.
async fn start() -> Result<Case> {
    with_machines(&[WORKER, STAYS]).await
}

/// A cluster of these Nodes.
async fn with_machines(names: &[&str]) -> Result<Case> {
    let case = Case::start().await?;
    for name in names {
        case.apply(&manifest::machine(name)).await?;
    }
    for name in names {
        case.node_ready(name).await?;
    }
    Ok(case)
}

/// Deletes the Machine `stays`, after which nothing may be left.
async fn finish(case: Case) -> Result<()> {
    case.delete_machine(STAYS).await?;
    case.finish(&[]).await
}

/// Returns when the controller's metrics have that line.
async fn counted(case: &Case, line: &str) -> Result<()> {
    let has = async {
        loop {
            let metrics = case.bed.controller().metrics().await?;
            if metrics.lines().any(|found| found == line) {
                return Ok(());
            }
            // A metric that changes triggers no event.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    match tokio::time::timeout(WAIT_TIMEOUT, has).await {
        Ok(counted) => counted,
        Err(_) => bail!("{line} was not counted"),
    }
}

/// A finalizer on a pod stands for a termination that takes long.
async fn hold(case: &Case, pod: &str, held: bool) -> Result<()> {
    let finalizers: Value = if held {
        json!(["example.com/holds"])
    } else {
        Value::Null
    };
    let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    case.pods().patch(pod, &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn complete(case: &Case, pod: &str) -> Result<()> {
    let patch = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    case.pods()
        .patch_status(pod, &PatchParams::default(), &patch)
        .await?;
    let succeeded = |pod: &Pod| phase(pod) == "Succeeded";
    wait::for_state(&case.pods(), pod, "completed", WAIT_TIMEOUT, succeeded).await?;
    Ok(())
}

/// Creates a DaemonSet, for which no controller runs here, and returns the owner reference of its pods.
async fn daemon_set(case: &Case, name: &str) -> Result<Value> {
    let labels = json!({"daemon": name});
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": PODS},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "containers": [{"name": "main", "image": "registry.example.com/pause"}]}}},
    });
    let sets: Api<DaemonSet> = Api::namespaced(case.bed.user().client(), PODS);
    let made = sets
        .create(&PostParams::default(), &serde_json::from_value(set)?)
        .await?;
    Ok(
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "controller": true,
        "uid": made.metadata.uid}),
    )
}

async fn forget_volume(case: &Case, volume: &str) -> Result<()> {
    let volumes: Api<PersistentVolume> = Api::all(case.bed.user().client());
    volumes.delete(volume, &DeleteParams::default()).await?;
    Ok(())
}
