//! The limit of Machines of an infra cluster that start at once, and the limit of a pool's size.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, manifest::NAMESPACE, wait};
use kube::{Api, api::ListParams};
use machinist_shared::api::{Machine, MachineSet};
use serde_json::{Value, json};
use testbed::bed::{Machinist, Options};

/// How many may start in these cases; one pool gets three quarters of them.
const LIMIT: &str = "--max-starting-machines=8";
const ALONE: usize = 6;

/// How many Machines of a MachineSet may wait for their VM; it creates no more before one of them has its VM.
const WAITING: usize = 32;

#[tokio::test]
async fn a_pool_that_never_becomes_ready_does_not_block_others() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec![LIMIT.to_owned()],
        ..Options::default()
    })
    .await?;
    let mut stuck = manifest::machine_set("stuck", 40);
    stuck["spec"]["template"]["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&stuck).await?;
    waiting(&case, WAITING).await?;
    vms(&case, ALONE).await?;
    let machines = case.machines().list(&ListParams::default()).await?;
    let said = machines
        .iter()
        .find_map(|machine| e2e::case::message(machine, "WaitingToStart"));
    let said = said.unwrap_or_default();
    assert!(
        said.starts_with("waiting: 6 of 8 Machines") && said.contains("6 of them of MachineSet stuck"),
        "{said}"
    );
    let metrics = case.bed.controller().metrics().await?;
    for line in [
        r#"machinist_starting_machines{state="starting"} 6"#,
        r#"machinist_starting_machines{state="waiting"} 32"#,
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }

    // Later Machines start at once, one after the other.
    case.apply(&manifest::machine_set("sound", 4)).await?;
    let sets: Api<MachineSet> = Api::namespaced(case.bed.user().client(), NAMESPACE);
    let are_ready = |set: &MachineSet| {
        set.status
            .as_ref()
            .is_some_and(|status| status.ready_replicas == Some(4))
    };
    wait::for_state(&sets, "sound", "Ready", WAIT_TIMEOUT, are_ready).await?;
    case.apply(&manifest::machine("alone")).await?;
    case.node_ready("alone").await?;
    vms(&case, ALONE + 5).await?;

    // Another leader counts the same Machines.
    case.bed.controller().terminate().await?;
    case.bed.controller().start().await?;
    case.apply(&manifest::machine("later")).await?;
    case.node_ready("later").await?;
    vms(&case, ALONE + 6).await?;

    // Paused Machines do not start.
    let started = machines
        .iter()
        .find(|machine| e2e::case::message(machine, "WaitingToStart").is_none());
    let started = started
        .and_then(|machine| machine.metadata.name.clone())
        .unwrap_or_default();
    let paused = "machine-controller.kubermatic.io/initializers=example";
    case.kubectl(&["annotate", "machine", &started, paused]).await?;
    vms(&case, ALONE + 7).await?;
    waiting(&case, WAITING).await?;
    case.kubectl(&[
        "annotate",
        "machine",
        &started,
        "machine-controller.kubermatic.io/initializers-",
    ])
    .await?;

    // This continues until all are created.
    case.kubectl(&["delete", "machineset", "stuck", "sound", "--timeout=120s"])
        .await?;
    case.kubectl(&["delete", "machine", "alone", "later", "--timeout=60s"])
        .await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_large_pool_starts_completely_a_few_at_a_time() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec![LIMIT.to_owned()],
        ..Options::default()
    })
    .await?;
    case.apply(&manifest::machine_set("large", 20)).await?;
    let sets: Api<MachineSet> = Api::namespaced(case.bed.user().client(), NAMESPACE);
    let are_ready = |set: &MachineSet| {
        set.status
            .as_ref()
            .is_some_and(|status| status.ready_replicas == Some(20))
    };
    wait::for_state(&sets, "large", "Ready", WAIT_TIMEOUT * 2, are_ready).await?;
    case.kubectl(&["delete", "machineset", "large", "--timeout=120s"])
        .await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_pool_larger_than_max_replicas_is_refused() -> Result<()> {
    let case = Case::start_with(Options {
        machinist: Machinist::Webhook,
        boot: None,
        chart_values: json!({"policies": {"maxReplicas": 5}}),
        ..Options::default()
    })
    .await?;
    let refusal = refused(&case, &manifest::machine_set("large", 6)).await?;
    assert!(
        refusal.contains("spec.replicas: 6 is more than 5") && refusal.contains("policies.maxReplicas"),
        "{refusal}"
    );
    for kind in ["MachineSet", "MachineDeployment"] {
        let mut pool = manifest::machine_set("pool", 5);
        pool["kind"] = json!(kind);
        case.apply(&pool).await?;
        pool["spec"]["replicas"] = json!(6);
        assert!(case.refused(&pool).await?.contains("6 is more than 5"));
        let scale = [
            "scale",
            &kind.to_lowercase(),
            "pool",
            "--namespace",
            NAMESPACE,
            "--replicas=1000000",
        ];
        let output = case.bed.user().kubectl(&scale, "").await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("1000000 is more than 5"),
            "{said}"
        );
        pool["spec"]["replicas"] = json!(4);
        case.apply(&pool).await?;
        case.kubectl(&["delete", &kind.to_lowercase(), "pool", "--cascade=orphan"])
            .await?;
    }
    case.end().await
}

/// The API server enforces a new policy after a moment, and no event reports when.
async fn refused(case: &Case, manifest: &Value) -> Result<String> {
    for _ in 0..300 {
        let create = ["create", "--dry-run=server", "-f", "-"];
        let output = case.bed.user().kubectl(&create, &manifest.to_string()).await?;
        if !output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("the policy is not in force")
}

/// Waits until so many Machines wait for others to start.
async fn waiting(case: &Case, count: usize) -> Result<()> {
    let wait = |machines: &[&Machine]| {
        let waiting = machines
            .iter()
            .filter(|machine| e2e::case::message(machine, "WaitingToStart").is_some());
        waiting.count() == count
    };
    let what = format!("{count} Machines that wait");
    wait::for_all(&case.machines(), &what, WAIT_TIMEOUT, wait)
        .await
        .map(drop)
}

/// Waits until there are so many VMs, and checks that there are no more once the controller is idle.
async fn vms(case: &Case, count: usize) -> Result<()> {
    let what = format!("{count} VMs");
    wait::for_all(&case.vms(), &what, WAIT_TIMEOUT, |vms| vms.len() == count).await?;
    case.settled().await;
    ensure!(
        case.vms().list(&ListParams::default()).await?.items.len() == count,
        "more than {what}"
    );
    Ok(())
}
