//! A Machine is deleted while its VM is being created. The API server checks for finalizers when it gets the DELETE, and removes
//! the object some time later: a finalizer that is written in between does not block the removal.

use anyhow::{Context as _, Result};
use e2e::{Case, case::WAIT_TIMEOUT, deletion_gate::Gate, manifest, wait};
use kube::api::{DeleteParams, Patch, PatchParams};
use machinist_shared::api::{Machine, MachineSet, names::annotation};
use serde_json::json;

#[tokio::test]
async fn objects_of_a_machine_are_deleted_although_its_finalizers_came_too_late() -> Result<()> {
    let case = Case::start().await?;
    case.bed.controller().stop();
    case.apply(&manifest::machine("early")).await?;
    let gate = Gate::close(&case, "early").await?;
    let machines = case.machines();
    let deletion = tokio::spawn(async move { machines.delete("early", &DeleteParams::default()).await });
    gate.asked(1).await?;

    case.bed.controller().cont();
    case.node_ready("early").await?;
    let machine = case.machines().get("early").await?;
    assert!(machine.metadata.finalizers.is_some(), "{machine:?}");
    gate.open();
    deletion.await??;
    assert!(
        case.machines().get_opt("early").await?.is_none(),
        "the API server considered the finalizers again"
    );
    wait::for_absence(&case.vms(), "early", WAIT_TIMEOUT).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_set_deletes_a_machine_without_finalizers_only_at_the_observed_version() -> Result<()> {
    let case = Case::start().await?;
    let mut set = manifest::machine_set("set", 1);
    // Paused, so that it gets no finalizers.
    set["spec"]["template"]["metadata"]["annotations"] = json!({annotation::INITIALIZERS: "someone"});
    case.apply(&set).await?;
    let made = |set: &MachineSet| {
        set.status
            .as_ref()
            .is_some_and(|status| status.replicas == Some(1))
    };
    wait::for_state(&case.machine_sets(), "set", "made", WAIT_TIMEOUT, made).await?;
    let name = case
        .machine_uids()
        .await?
        .into_keys()
        .next()
        .context("no Machine")?;
    let machine = case.machines().get(&name).await?;
    assert_eq!(machine.metadata.finalizers, None);
    let gate = Gate::close(&case, &name).await?;
    case.kubectl(&["scale", "machineset", "set", "--replicas=0"])
        .await?;

    let asked = gate.asked(1).await?;
    let preconditions = &asked["request"]["options"]["preconditions"];
    assert_eq!(
        preconditions["resourceVersion"],
        json!(machine.metadata.resource_version)
    );
    // It changes while the DELETE is held back, as if its VM was being created.
    let late = json!({"metadata": {"finalizers": ["example.com/late"]}});
    case.machines()
        .patch(&name, &PatchParams::default(), &Patch::Merge(&late))
        .await?;
    gate.open();
    let deleting = |machine: &Machine| machine.metadata.deletion_timestamp.is_some();
    wait::for_state(&case.machines(), &name, "being deleted", WAIT_TIMEOUT, deleting).await?;
    let none = json!({"metadata": {"finalizers": null}});
    case.machines()
        .patch(&name, &PatchParams::default(), &Patch::Merge(&none))
        .await?;
    wait::for_absence(&case.machines(), &name, WAIT_TIMEOUT).await?;
    case.kubectl(&["delete", "machineset", "set"]).await?;
    case.finish(&[]).await
}
