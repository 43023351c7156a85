//! Watches that are open and deliver no events: no Machine fails because an event is missing.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, case::is_ready, manifest, wait};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use machinist_shared::api::Machine;
use testbed::bed::{CONTROLLER, MACHINES, Options};

/// Nodes have joined, and the controller gets no event. It treats a Node as absent only after it has read it.
#[tokio::test]
async fn a_missed_node_event_fails_no_machine() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec!["--join-cluster-timeout=15s".to_owned()],
        ..Options::default()
    })
    .await?;
    case.bed.user().proxy().freeze_watches_of(CONTROLLER, "nodes");
    case.apply(&manifest::machine_set("pool", 2)).await?;
    let linked = |machine: &&Machine| {
        machine
            .status
            .as_ref()
            .is_some_and(|status| status.node_ref.is_some())
    };
    let all = |machines: &[&Machine]| machines.len() == 2 && machines.iter().all(linked);
    let machines = wait::for_all(&case.machines(), "linked", WAIT_TIMEOUT, all).await?;
    for machine in &machines {
        assert_eq!(
            case.vm_history.uids(&machine.name_any()).len(),
            1,
            "one VM in its life"
        );
    }
    let nodes = wait::for_all(&case.nodes(), "two Nodes", WAIT_TIMEOUT, |nodes| nodes.len() == 2).await?;
    assert!(nodes.iter().all(is_ready), "those of the two Machines");

    // A Node without an event is deleted, too.
    case.apply(&manifest::machine("short")).await?;
    wait::for_state(&case.nodes(), "short", "there", WAIT_TIMEOUT, |_: &Node| true).await?;
    case.delete_machine("short").await?;
    wait::for_absence(&case.nodes(), "short", WAIT_TIMEOUT).await?;
    case.kubectl(&["delete", "machineset", "pool", "--timeout=60s"])
        .await?;
    case.bed.user().proxy().heal(CONTROLLER);
    case.finish(&[]).await
}

/// The VM runs, and the controller gets no event.
#[tokio::test]
async fn a_missed_vmi_event_fails_no_machine() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec!["--provisioning-timeout=15s".to_owned()],
        ..Options::default()
    })
    .await?;
    case.apply(&manifest::machine("first")).await?;
    case.node_ready("first").await?;
    let infra = case.bed.infra().proxy();
    infra.freeze_watches_of(MACHINES, "virtualmachineinstances");
    case.apply(&manifest::machine_set("pool", 1)).await?;
    let linked = |machines: &[&Machine]| {
        let mut of_pool = machines
            .iter()
            .filter(|machine| machine.name_any().starts_with("pool"));
        of_pool.any(|machine| {
            machine
                .status
                .as_ref()
                .is_some_and(|status| status.node_ref.is_some())
        })
    };
    let machines = wait::for_all(&case.machines(), "linked", WAIT_TIMEOUT, linked).await?;
    assert_eq!(machines.len(), 2, "none was replaced");
    case.bed.infra().proxy().heal(MACHINES);
    case.kubectl(&["delete", "machineset", "pool", "--timeout=60s"])
        .await?;
    case.delete_machine("first").await?;
    case.finish(&[]).await
}
