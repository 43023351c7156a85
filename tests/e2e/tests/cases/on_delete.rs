//! The strategy `OnDelete`: a Machine of an older template stays until a user deletes it, and its replacement has the newer one.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, rollout::deployment, wait};
use kube::{ResourceExt as _, api::ListParams};
use machinist_shared::api::MachineDeployment;
use machinist_shared::api::names::annotation;
use serde_json::json;

const POOL: &str = "pool";
const OLD: &str = "1.36.3";
const NEW: &str = "1.35.2";

#[tokio::test]
async fn machines_of_an_older_template_are_replaced_one_by_one_as_they_are_deleted() -> Result<()> {
    let case = Case::start().await?;
    let mut pool = deployment(POOL, 2);
    pool["spec"]["strategy"] = json!({"type": "OnDelete"});
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    let before = case.machine_uids().await?;

    pool["spec"]["template"]["spec"]["versions"]["kubelet"] = NEW.into();
    case.apply(&pool).await?;
    let said = case.rollout(POOL, "WaitingForDeletion").await?;
    assert!(said.starts_with("0 of 2 Machines"), "{said}");
    case.settled().await;
    assert_eq!(
        case.machine_uids().await?,
        before,
        "the controller has deleted a Machine"
    );
    case.kubectl(&["wait", "--for=condition=Available", "md/pool", "--timeout=60s"])
        .await?;

    // A controller that is killed in between still creates none for the old set.
    let victims: Vec<&String> = before.keys().collect();
    case.bed.controller().kill();
    case.begin_deletion(victims[0]).await?;
    case.bed.controller().start().await?;
    wait::for_absence(&case.machines(), victims[0], WAIT_TIMEOUT).await?;
    updated(&case, 1).await?;
    assert_eq!(kubelets(&case).await?, [NEW, OLD]);
    assert!(case.machine_uids().await?.contains_key(victims[1]));

    // Scaling up creates Machines of the newer template.
    case.kubectl(&["scale", "md/pool", "--replicas=3"]).await?;
    updated(&case, 2).await?;
    assert_eq!(kubelets(&case).await?, [NEW, NEW, OLD]);

    case.delete_machine(victims[1]).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    assert_eq!(kubelets(&case).await?, [NEW, NEW, NEW]);
    case.settled().await;
    for set in case.machine_sets().list(&ListParams::default()).await? {
        let marked = set.annotations().contains_key(annotation::NO_NEW_MACHINES);
        assert!(!marked, "{} is not held back any more", set.name_any());
    }

    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

/// Waits until there are so many Machines of the newer template, and all are available.
async fn updated(case: &Case, count: i32) -> Result<()> {
    let fits = |md: &MachineDeployment| {
        let status = md.status.clone().unwrap_or_default();
        status.updated_replicas == Some(count) && status.available_replicas == md.spec.replicas
    };
    let what = format!("{count} updated");
    wait::for_state(&case.deployments(), POOL, &what, WAIT_TIMEOUT, fits)
        .await
        .map(drop)
}

/// Of the Machines that are not being deleted, in order.
async fn kubelets(case: &Case) -> Result<Vec<String>> {
    let machines = case
        .machines()
        .list(&ListParams::default())
        .await?
        .items
        .into_iter();
    let alive = machines.filter(|machine| machine.metadata.deletion_timestamp.is_none());
    let kubelet = |machine: machinist_shared::api::Machine| machine.spec.versions?.kubelet;
    let mut kubelets: Vec<String> = alive.filter_map(kubelet).collect();
    kubelets.sort();
    Ok(kubelets)
}
