//! MachineDeployments, as a user works with them: rolled out within their limits, scaled, paused, rolled back, and halted by a
//! template whose guests never join.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::rollout::{Extremes, Watched, deployment};
use e2e::{Case, wait};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use machinist_shared::api::MachineDeployment;
use serde_json::{Value, json};
use testbed::bed::Options;

/// The name in the example.
const POOL: &str = "my-machines";

/// The version before the rollout.
const EXAMPLE: &str = "kubevirt-machinedeployment.yaml";

/// Long enough for a simulated guest to join on a busy machine.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_pool_is_rolled_out_within_its_limits_scaled_paused_and_deleted() -> Result<()> {
    let case = Case::start().await?;
    let example = testbed::paths::examples().join(EXAMPLE).display().to_string();
    case.kubectl(&["apply", "-f", &example]).await?;
    let json = ["create", "--dry-run=client", "--output=json", "-f", &example];
    let mut pool: Value = serde_json::from_str(&case.kubectl(&json).await?)?;
    case.kubectl(&[
        "wait",
        "--for=condition=Available",
        "md/my-machines",
        "--timeout=120s",
    ])
    .await?;
    pool["spec"]["replicas"] = json!(3);
    case.apply(&pool).await?;
    case.kubectl(&[
        "wait",
        "--for=condition=Available",
        "md/my-machines",
        "--timeout=120s",
    ])
    .await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    assert_eq!(revision(&case).await?, "1");
    let scale = case
        .kubectl(&[
            "get",
            "--raw",
            "/apis/cluster.k8s.io/v1alpha1/namespaces/kube-system/machinedeployments/my-machines/scale",
        ])
        .await?;
    let scale: Value = serde_json::from_str(&scale)?;
    assert_eq!(
        scale["status"],
        json!({"replicas": 3, "selector": "pool=my-machines"})
    );

    // An update without a change of the template starts no rollout.
    let before = case.machine_uids().await?;
    case.apply(&pool).await?;
    pool["spec"]["template"]["spec"]["metadata"]["annotations"] = json!({});
    pool["spec"]["template"]["spec"]["metadata"]["name"] = Value::Null;
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.settled().await;
    assert_eq!(case.machine_uids().await?, before);
    assert_eq!(sets(&case).await?, 1);

    // Another kubelet version: maxSurge is 1, and maxUnavailable 0.
    let watched = Watched::start(&case);
    kubelet(&mut pool, "1.35.2");
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    assert_eq!(
        watched.stop(),
        Extremes {
            most_wanted: 4,
            least_joined: 3
        }
    );
    assert_eq!(revision(&case).await?, "2");
    // Machines that are no longer counted still have VMs to delete.
    case.settled().await;
    let after = case.machine_uids().await?;
    assert!(
        after.len() == 3 && after.keys().all(|name| !before.contains_key(name)),
        "{after:?}"
    );

    // While paused, another template has no effect; scaling still works.
    patch(&case, &json!({"spec": {"paused": true}})).await?;
    case.rollout(POOL, "DeploymentPaused").await?;
    kubelet(&mut pool, "1.34.1");
    patch(&case, &json!({"spec": {"template": pool["spec"]["template"]}})).await?;
    case.kubectl(&["scale", "md/my-machines", "--replicas=4"]).await?;
    wait_for(&case, "4 are available", |md| available(md) == 4).await?;
    assert_eq!(revision(&case).await?, "2");
    assert!(
        after
            .iter()
            .all(|(name, uid)| case.vm_history.uids(name).len() == 1 && !uid.is_empty())
    );

    // Resumed, and scaled during the rollout.
    patch(&case, &json!({"spec": {"paused": false}})).await?;
    wait_for(&case, "rolling", |md| {
        md.status.as_ref().and_then(|s| s.updated_replicas) == Some(1)
    })
    .await?;
    case.kubectl(&["scale", "md/my-machines", "--replicas=2"]).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.settled().await;
    assert_eq!(case.machine_uids().await?.len(), 2);
    assert_eq!(revision(&case).await?, "3");
    // One old set is kept.
    assert_eq!(sets(&case).await?, 2);

    case.delete_deployment(POOL).await?;
    assert_eq!(sets(&case).await?, 0);
    case.finish(&[]).await
}

#[tokio::test]
async fn a_template_whose_guests_never_join_halts_and_the_rollback_replaces_nothing() -> Result<()> {
    let controller_args = vec![format!("--join-cluster-timeout={}s", JOIN_TIMEOUT.as_secs())];
    let case = Case::start_with(Options {
        controller_args,
        ..Options::default()
    })
    .await?;
    let mut pool = deployment(POOL, 2);
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    let healthy = case.machine_uids().await?;

    let watched = Watched::start(&case);
    pool["spec"]["template"]["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&pool).await?;
    let why = case.rollout(POOL, "RolloutHalted").await?;
    assert!(why.contains("no Node within 20 s"), "{why}");
    let table = case.kubectl(&["get", "md", POOL]).await?;
    assert!(table.contains("RolloutHalted"), "{table}");
    let events = case.kubectl(&["describe", "md", POOL]).await?;
    assert!(events.contains("RolloutHalted"), "{events}");
    // The set tries again with one Machine; the other Machines stay.
    let extremes = watched.stop();
    assert_eq!(
        extremes,
        Extremes {
            most_wanted: 3,
            least_joined: 2
        }
    );

    case.kubectl(&["annotate", "md", POOL, "machinist.dev/rollback-to="])
        .await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    wait_for(&case, "back at two Machines", |md| {
        md.status.as_ref().and_then(|s| s.replicas) == Some(2)
    })
    .await?;
    let deployment = case.deployments().get(POOL).await?;
    assert_eq!(deployment.annotations().get("machinist.dev/rollback-to"), None);
    assert_eq!(revision(&case).await?, "3");
    for (name, uid) in &healthy {
        let machine = case
            .machines()
            .get(name)
            .await
            .context("a healthy Machine is gone")?;
        assert_eq!(machine.uid().as_ref(), Some(uid));
        assert_eq!(case.vm_history.uids(name).len(), 1);
    }
    // A missing revision is reported once.
    case.kubectl(&["annotate", "md", POOL, "machinist.dev/rollback-to=77"])
        .await?;
    wait_for(&case, "the report of the missing revision", |md| {
        let conditions = md
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|c| c.reason.as_deref() == Some("RevisionNotFound"))
            && !md.annotations().contains_key("machinist.dev/rollback-to")
    })
    .await?;

    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_rollout_beyond_its_progress_deadline_is_reported_with_its_cause() -> Result<()> {
    let case = Case::start().await?;
    let mut pool = deployment(POOL, 2);
    pool["spec"]["progressDeadlineSeconds"] = 3.into();
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;

    // The join timeout is far longer than the deadline.
    let good = pool.clone();
    pool["spec"]["template"]["metadata"]["annotations"] = json!({"sim.kubevirt.io/never-joins": "true"});
    case.apply(&pool).await?;
    let why = case.rollout(POOL, "ProgressDeadlineExceeded").await?;
    assert!(why.starts_with("no progress for 3 s"), "{why}");
    let machines = case.machine_uids().await?;
    assert!(
        machines.keys().any(|name| why.contains(name)),
        "{why}: {machines:?}"
    );
    let table = case.kubectl(&["get", "md", POOL]).await?;
    assert!(table.contains("ProgressDeadlineExceeded"), "{table}");
    let events = case.kubectl(&["describe", "md", POOL]).await?;
    assert!(events.contains("ProgressDeadlineExceeded"), "{events}");

    // Progress after the deadline resets the condition.
    case.apply(&good).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;

    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

fn kubelet(pool: &mut Value, version: &str) {
    pool["spec"]["template"]["spec"]["versions"]["kubelet"] = version.into();
}

fn available(deployment: &MachineDeployment) -> i32 {
    let status = deployment.status.as_ref();
    status
        .and_then(|status| status.available_replicas)
        .unwrap_or_default()
}

async fn wait_for(case: &Case, what: &str, fits: impl Fn(&MachineDeployment) -> bool) -> Result<()> {
    let api: Api<MachineDeployment> = case.deployments();
    wait::for_state(&api, POOL, what, e2e::case::WAIT_TIMEOUT, fits)
        .await
        .map(drop)
}

async fn patch(case: &Case, patch: &Value) -> Result<()> {
    case.kubectl(&["patch", "md", POOL, "--type=merge", "--patch", &patch.to_string()])
        .await
        .map(drop)
}

async fn revision(case: &Case) -> Result<String> {
    let deployment = case.deployments().get(POOL).await?;
    let revision = deployment
        .annotations()
        .get("machinedeployment.clusters.k8s.io/revision");
    Ok(revision.cloned().unwrap_or_default())
}

async fn sets(case: &Case) -> Result<usize> {
    Ok(case
        .machine_sets()
        .list(&ListParams::default())
        .await?
        .items
        .len())
}
