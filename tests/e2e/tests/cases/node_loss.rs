//! Nodes that are lost for good: a MachineSet replaces their Machines after the join timeout, and standalone Machines stay.

use anyhow::{Context as _, Result, ensure};
use e2e::rollout::deployment;
use e2e::{Case, case::WAIT_TIMEOUT, manifest, wait};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use machinist_shared::api::Machine;
use serde_json::json;
use testbed::bed::Options;

#[tokio::test]
async fn a_set_replaces_a_machine_whose_guest_ended_or_whose_node_was_deleted() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec!["--join-cluster-timeout=20s".to_owned()],
        ..Options::default()
    })
    .await?;
    case.apply(&deployment("pool", 2)).await?;
    case.apply(&manifest::machine("alone")).await?;
    case.node_ready("alone").await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    let before = pool(&case).await?;
    ensure!(before.len() == 2, "{before:?}");

    // The guest of one ends; a client deletes the Node of the other, and that of the standalone Machine.
    let poweroff = json!({"metadata": {"annotations": {"sim.kubevirt.io/poweroff": "true"}}});
    case.vms()
        .patch(&before[0], &PatchParams::default(), &Patch::Merge(&poweroff))
        .await?;
    for node in [before[1].as_str(), "alone"] {
        case.nodes().delete(node, &DeleteParams::default()).await?;
    }
    let message = case.condition(&before[1], "NodeDeleted").await?;
    ensure!(
        message.contains("replaces the Machine if this lasts for 20 s"),
        "{message}"
    );
    for name in &before {
        wait::for_absence(&case.machines(), name, WAIT_TIMEOUT).await?;
    }
    case.rollout("pool", "NewMachineSetAvailable").await?;
    let after = pool(&case).await?;
    ensure!(
        after.len() == 2 && !after.iter().any(|name| before.contains(name)),
        "{before:?}: {after:?}"
    );
    for (reason, machine) in [("GuestLost", &before[0]), ("NodeLost", &before[1])] {
        let events = Api::<Event>::all(case.bed.user().client());
        let is_reported = |event: &Event| {
            let of = event
                .regarding
                .as_ref()
                .and_then(|regarding| regarding.name.as_ref());
            event.reason.as_deref() == Some(reason) && of == Some(machine)
        };
        wait::any(&events, reason, WAIT_TIMEOUT, is_reported).await?;
    }

    let alone = case.condition("alone", "NodeDeleted").await?;
    ensure!(!alone.contains("replaces"), "{alone}");
    ensure!(case.vm_history.uids("alone").len() == 1, "it has its VM");
    case.delete_machine("alone").await?;
    case.kubectl(&["delete", "md/pool", "--wait=false"]).await?;
    for name in &after {
        wait::for_absence(&case.machines(), name, WAIT_TIMEOUT).await?;
    }
    case.finish(&[]).await
}

/// Names of the pool's Machines.
async fn pool(case: &Case) -> Result<Vec<String>> {
    let listed = case
        .machines()
        .list(&ListParams::default().labels("pool=pool"))
        .await?;
    let live = |machine: &Machine| machine.metadata.deletion_timestamp.is_none();
    let names: Vec<String> = listed.iter().filter(|m| live(m)).map(Machine::name_any).collect();
    names.first().context("no Machines")?;
    Ok(names)
}
