//! Finalizers of other controllers on the Node and the Machine, and finalizers that a user removed.

use anyhow::{Context as _, Result, ensure};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, wait};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, ResourceExt as _, api::DeleteParams};
use machinist_shared::api::Machine;
use serde_json::json;
use testbed::bed::Options;

use super::{HOLD, STAYS, WORKER, counted, finish, start, with_machines};

#[tokio::test]
async fn a_finalizer_that_holds_the_node_is_named_and_waited_for_until_a_timeout() -> Result<()> {
    let case = with_machines(&[WORKER]).await?;
    let held = json!({"metadata": {"finalizers": ["example.com/holds"]}});
    case.patch_node(WORKER, held).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Deleting", "DeletingNode", &["example.com/holds"])
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
    wait::any(&events, "Event with what to do by hand", WAIT_TIMEOUT, names_it).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn leftovers_of_a_machine_without_finalizers_are_reported_counted_and_not_deleted() -> Result<()> {
    let case = start().await?;
    case.apply(&manifest::machine_set("pool", 1)).await?;
    let is_of_set = |machine: &Machine| machine.name_any().starts_with("pool");
    wait::any(&case.machines(), "Machine of the set", WAIT_TIMEOUT, is_of_set).await?;
    let uids = case.machine_uids().await?;
    let of_set = uids.into_keys().find(|name| name.starts_with("pool"));
    let of_set = of_set.context("no Machine of the set")?;
    case.node_ready(&of_set).await?;
    case.settled().await;
    for (name, reported_on) in [(WORKER, "Namespace"), (&of_set, "MachineSet")] {
        // Before the controller adds them again.
        case.bed.controller().stop();
        case.patch_machine(name, json!({"metadata": {"finalizers": null}}))
            .await?;
        case.begin_deletion(name).await?;
        case.machine_gone(name).await?;
        case.bed.controller().cont();
        let events: Api<Event> = Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
        let names_it = |event: &Event| {
            let about = event.regarding.as_ref().and_then(|about| about.kind.as_deref());
            let note = event.note.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("VMLetGo") && about == Some(reported_on) && note.contains(name)
        };
        wait::any(
            &events,
            "Event that names what was let go",
            WAIT_TIMEOUT,
            names_it,
        )
        .await?;
    }
    for kind in ["VirtualMachine", "PersistentVolumeClaim", "Node"] {
        counted(&case, &format!("machinist_orphans{{kind=\"{kind}\"}} 2")).await?;
    }
    let log = std::fs::read_to_string(case.bed.controller().log())?;
    ensure!(
        log.lines()
            .any(|line| line.contains(WORKER) && line.contains("has no Machine")),
        "the log does not name it"
    );
    for name in [WORKER, &of_set] {
        case.vm_lives(name).await?;
        case.vms().delete(name, &DeleteParams::default()).await?;
        wait::for_absence(&case.vms(), name, WAIT_TIMEOUT).await?;
        case.nodes().delete(name, &DeleteParams::default()).await?;
    }
    for kind in ["VirtualMachine", "Node"] {
        counted(&case, &format!("machinist_orphans{{kind=\"{kind}\"}} 0")).await?;
    }
    case.kubectl(&["delete", "machineset", "pool"]).await?;
    for name in case.machine_uids().await?.into_keys() {
        if name.starts_with("pool") {
            case.machine_gone(&name).await?;
        }
    }
    finish(case).await
}

#[tokio::test]
async fn a_deletion_whose_finalizers_are_removed_by_force_is_finished() -> Result<()> {
    let case = start().await?;
    wait_at_hook(&case).await?;
    case.patch_machine(WORKER, json!({"metadata": {"finalizers": null}}))
        .await?;
    nothing_stays(case).await
}

#[tokio::test]
async fn a_deletion_whose_finalizers_are_removed_by_force_is_finished_by_a_later_controller() -> Result<()> {
    // Without leader election, so that no Lease has to expire.
    let case = Case::start_with(Options {
        controller_args: vec!["--enable-leader-election=false".to_owned()],
        ..Options::default()
    })
    .await?;
    for name in [WORKER, STAYS] {
        case.apply(&manifest::machine(name)).await?;
    }
    for name in [WORKER, STAYS] {
        case.node_ready(name).await?;
    }
    wait_at_hook(&case).await?;
    case.bed.controller().kill();
    case.patch_machine(WORKER, json!({"metadata": {"finalizers": null}}))
        .await?;
    case.machine_gone(WORKER).await?;
    case.vm_lives(WORKER).await?;
    case.bed.controller().start().await?;
    nothing_stays(case).await
}

/// Deletes the Machine, whose Node is drained then and whose VM is not deleted yet.
async fn wait_at_hook(case: &Case) -> Result<()> {
    case.annotate(WORKER, HOLD, Some("")).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Deleting", "WaitingForPreTerminateHook", &[HOLD])
        .await?;
    Ok(())
}

async fn nothing_stays(case: Case) -> Result<()> {
    case.machine_gone(WORKER).await?;
    wait::for_absence(&case.vms(), WORKER, WAIT_TIMEOUT).await?;
    wait::for_absence(&case.nodes(), WORKER, WAIT_TIMEOUT).await?;
    finish(case).await
}
