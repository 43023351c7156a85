//! Finalizers of other controllers on the Node and the Machine, and finalizers that a person removed.

use anyhow::{Result, ensure};
use e2e::{case::PATIENCE, manifest, wait};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::DeleteParams};
use serde_json::json;

use super::{HOLD, WORKER, counted, finish, start, with_machines};

#[tokio::test]
async fn a_finalizer_that_holds_the_node_is_named_and_waited_for_until_a_timeout() -> Result<()> {
    let case = with_machines(&[WORKER]).await?;
    let held = json!({"metadata": {"finalizers": ["example.com/holds"]}});
    case.patch_node(WORKER, held).await?;
    case.begin_deletion(WORKER).await?;
    case.says(WORKER, "Deleting", "DeletingNode", &["example.com/holds"])
        .await?;
    case.annotate(WORKER, "machinist.dev/node-deletion-timeout", Some("1s"))
        .await?;
    case.machine_gone(WORKER).await?;
    case.patch_node(WORKER, json!({"metadata": {"finalizers": null}}))
        .await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_red_hat_subscription_that_outlives_its_machine_is_named_in_an_event() -> Result<()> {
    let case = with_machines(&["subscribed"]).await?;
    let finalizer = "kubermatic.io/red-hat-subscription";
    let machine = case.machines().get("subscribed").await?;
    let mut finalizers = machine.metadata.finalizers.unwrap_or_default();
    finalizers.push(finalizer.to_owned());
    case.patch_machine("subscribed", json!({"metadata": {"finalizers": finalizers}}))
        .await?;
    case.delete_machine("subscribed").await?;
    let events: Api<Event> = Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let names_it = |event: &Event| {
        event.reason.as_deref() == Some("SubscriptionLeft")
            && event
                .note
                .as_deref()
                .is_some_and(|note| note.contains("subscribed"))
    };
    wait::any(&events, "Event with what to do by hand", PATIENCE, names_it).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn what_a_machine_without_finalizers_leaves_behind_is_counted_logged_and_not_deleted() -> Result<()> {
    let case = start().await?;
    case.annotate(WORKER, HOLD, Some("")).await?;
    case.begin_deletion(WORKER).await?;
    case.says(WORKER, "Deleting", "WaitingForPreTerminateHook", &[HOLD])
        .await?;
    case.patch_machine(WORKER, json!({"metadata": {"finalizers": null}}))
        .await?;
    case.machine_gone(WORKER).await?;
    counted(&case, "machinist_orphans{kind=\"VirtualMachine\"} 1").await?;
    counted(&case, "machinist_orphans{kind=\"PersistentVolumeClaim\"} 1").await?;
    let log = std::fs::read_to_string(case.bed.controller().log())?;
    ensure!(
        log.lines()
            .any(|line| line.contains(WORKER) && line.contains("has no Machine")),
        "the log does not name it"
    );
    case.vm_lives(WORKER).await?;
    case.vms().delete(WORKER, &DeleteParams::default()).await?;
    wait::for_absence(&case.vms(), WORKER, PATIENCE).await?;
    counted(&case, "machinist_orphans{kind=\"VirtualMachine\"} 0").await?;
    case.nodes().delete(WORKER, &DeleteParams::default()).await?;
    finish(case).await
}
