//! A pool that is restored from a backup as Velero does it, with new UIDs, without owners and without status: it waits for its
//! Machines, and an admin lets these adopt their VMs. No node is replaced.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use e2e::rollout::deployment;
use e2e::{Case, case::WAIT_TIMEOUT, infra, plugin, wait};
use kube::{ResourceExt as _, api::ListParams};
use machinist_shared::api::{Machine, MachineSet};
use serde_json::{Value, json};
use testbed::binaries;

const POOL: &str = "pool";

#[tokio::test]
async fn a_pool_that_is_restored_with_new_uids_gets_its_nodes_back() -> Result<()> {
    let case = Case::start().await?;
    tokio::task::spawn_blocking(|| binaries::build(&[binaries::PLUGIN])).await??;
    case.apply(&deployment(POOL, 2)).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.settled().await;
    let machines = case.machines().list(&ListParams::default()).await?.items;
    let before = nodes_and_vms(&case, &machines).await?;
    ensure!(before.len() == 2, "{before:?}");

    // A backup, and the loss of all objects; the VMs and Nodes keep running.
    let pool = backup(
        "MachineDeployment",
        &serde_json::to_value(case.deployments().get(POOL).await?)?,
    );
    let machines: Vec<Value> = machines
        .iter()
        .map(|machine| Ok(backup("Machine", &serde_json::to_value(machine)?)))
        .collect::<Result<_>>()?;
    lose(&case).await?;

    // The MachineDeployment comes first: its set creates no Machines, and reports why.
    case.apply(&pool).await?;
    let waits = |set: &MachineSet| {
        let status = set.status.as_ref();
        status.is_some_and(|status| status.error_reason.as_deref() == Some("WaitingForRestore"))
    };
    wait::any(&case.machine_sets(), "WaitingForRestore", WAIT_TIMEOUT, waits).await?;
    let sets = case.machine_sets().list(&ListParams::default()).await?;
    let status = sets.items.into_iter().find_map(|set| set.status);
    let message = status.and_then(|status| status.error_message).unwrap_or_default();
    ensure!(
        message.contains("adopt --restored") && before.keys().all(|name| message.contains(name)),
        "{message}"
    );
    case.settled().await;
    ensure!(
        case.machines()
            .list(&ListParams::default())
            .await?
            .items
            .is_empty()
    );

    // Then the Machines: the set adopts them, and they do not change the VMs of their names.
    for machine in &machines {
        case.apply(machine).await?;
    }
    for name in before.keys() {
        infra::ready(&case, name, "VMNameTaken").await?;
    }
    let preflight = adopt(&case, &[]).await?;
    ensure!(preflight.0 == Some(1), "{}", preflight.1);
    for (name, (vm, _)) in &before {
        ensure!(
            preflight.1.contains(name) && preflight.1.contains(vm),
            "{}",
            preflight.1
        );
        let machine = case.machines().get(name).await?;
        ensure!(
            !machine.annotations().contains_key("machinist.dev/adopt-vm-uid"),
            "{name}"
        );
    }
    let done = adopt(&case, &["--yes"]).await?;
    ensure!(done.0 == Some(0), "{}", done.1);

    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.settled().await;
    let machines = case.machines().list(&ListParams::default()).await?.items;
    ensure!(
        nodes_and_vms(&case, &machines).await? == before,
        "a node was replaced"
    );
    for machine in &machines {
        let node = case.nodes().get(&machine.name_any()).await?;
        let id = node.spec.and_then(|spec| spec.provider_id);
        ensure!(id.is_some() && machine.spec.provider_id == id, "{id:?}");
        ensure!(case.vm_history.uids(&machine.name_any()).len() == 1);
    }
    let again = adopt(&case, &["--yes"]).await?;
    ensure!(
        again.0 == Some(0) && again.1.contains("no Machine without a VM"),
        "{}",
        again.1
    );

    // The pool works like any other: a deleted Machine is replaced.
    let name = before.keys().next().context("no Machines")?;
    case.delete_machine(name).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.kubectl(&["delete", "md/pool", "--wait=true", "--cascade=foreground"])
        .await?;
    case.finish(&[]).await
}

/// UIDs of VM and Node of each Machine.
async fn nodes_and_vms(case: &Case, machines: &[Machine]) -> Result<BTreeMap<String, (String, String)>> {
    let mut found = BTreeMap::new();
    for machine in machines {
        let name = machine.name_any();
        let vm = case.vms().get(&name).await?.uid().unwrap_or_default();
        let node = case.nodes().get(&name).await?.uid().unwrap_or_default();
        found.insert(name, (vm, node));
    }
    Ok(found)
}

/// An object as Velero restores it; a resource modifier removes the providerID.
fn backup(kind: &str, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut spec = object["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("providerID");
    }
    json!({
        "apiVersion": "cluster.k8s.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"],
            "labels": metadata["labels"], "annotations": metadata["annotations"]},
        "spec": spec,
    })
}

/// Removes MachineDeployments, MachineSets and Machines without their finalizers being honored.
async fn lose(case: &Case) -> Result<()> {
    case.bed.controller().kill();
    for resource in ["machinedeployments", "machinesets", "machines"] {
        let names = case.kubectl(&["get", resource, "--output=name"]).await?;
        for name in names.lines() {
            let bare = "--patch={\"metadata\":{\"finalizers\":null}}";
            case.kubectl(&["patch", name, "--type=merge", bare]).await?;
            case.kubectl(&["delete", name, "--cascade=orphan", "--wait=true"])
                .await?;
        }
    }
    ensure!(
        case.machines()
            .list(&ListParams::default())
            .await?
            .items
            .is_empty()
    );
    case.bed.controller().start().await?;
    Ok(())
}

/// `kubectl machinist adopt --restored`, by the admins of both clusters. Returns the exit code and the output.
async fn adopt(case: &Case, args: &[&str]) -> Result<(Option<i32>, String)> {
    let kubeconfig = case.bed.infra().admin_kubeconfig_path();
    let kubeconfig = format!("--infra-kubeconfig={}", kubeconfig.display());
    let restored = [
        "adopt",
        "--restored",
        "--infra-allow-loopback",
        "--infra-namespace=machinist-infra",
        &kubeconfig,
    ];
    plugin::run(case, &[&restored, args].concat()).await
}
