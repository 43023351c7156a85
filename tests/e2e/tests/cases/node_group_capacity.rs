//! The capacity annotations of a node group for the cluster-autoscaler: the controller sets them where admission could not read
//! the instancetype, and updates them when it changes.

use anyhow::Result;
use e2e::{
    Case, budget,
    case::WAIT_TIMEOUT,
    manifest::{self, NAMESPACE},
    rollout::deployment,
    wait,
};
use kube::{ResourceExt as _, api::DeleteParams};
use machinist_shared::api::names::autoscaler::{CAPACITY, MAX_SIZE, MIN_SIZE};
use serde_json::json;
use testbed::bed::{CONTROLLER, MACHINES};

const POOL: &str = "pool";
const ALONE: &str = "alone";

#[tokio::test]
async fn the_capacity_of_a_node_group_is_corrected_by_one_write_each_time() -> Result<()> {
    let case = Case::start().await?;
    // Neither admission can read the infra cluster, nor does a controller run that would do so later.
    case.bed.controller().kill();
    case.bed.infra().proxy().black_hole(MACHINES);
    let mut pool = deployment(POOL, 0);
    pool["metadata"]["annotations"] = json!({MIN_SIZE: "0", MAX_SIZE: "3"});
    let cloud = &mut pool["spec"]["template"]["spec"]["providerSpec"]["value"]["cloudProviderSpec"];
    cloud["virtualMachine"]["location"] = json!({"region": "north", "zone": "north-1"});
    case.apply(&pool).await?;
    let mut alone = manifest::machine_set(ALONE, 0);
    alone["metadata"]["annotations"] = pool["metadata"]["annotations"].clone();
    alone["spec"]["template"]["spec"] = pool["spec"]["template"]["spec"].clone();
    case.apply(&alone).await?;
    assert_eq!(capacity(&case.deployments().get(POOL).await?), (None, None));
    assert_eq!(capacity(&case.machine_sets().get(ALONE).await?), (None, None));
    case.bed.infra().proxy().heal(MACHINES);

    budget::forget(&case.bed);
    case.bed.controller().start().await?;
    knows(&case, "2").await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.settled().await;
    // For each: the finalizer, the revision of a deployment, and the capacity.
    assert_eq!(
        writes(&case),
        4,
        "{}",
        budget::Ledger::of_controller(&case.bed).table()
    );

    // A standard-2 has four CPUs from now on. The controller caches the previous answer, so a new
    // leader reads it.
    let other = json!({"spec": {"cpu": {"guest": 4}}}).to_string();
    let patch = [
        "patch",
        "virtualmachineclusterinstancetype",
        "standard-2",
        "--type=merge",
        "--patch",
        &other,
    ];
    case.bed.infra().kubectl_ok(&patch, "").await?;
    case.bed.controller().kill();
    budget::forget(&case.bed);
    case.bed.controller().start().await?;
    knows(&case, "4").await?;
    case.settled().await;
    assert_eq!(
        writes(&case),
        2,
        "{}",
        budget::Ledger::of_controller(&case.bed).table()
    );

    // No controller writes values that are already correct.
    case.bed.controller().kill();
    budget::forget(&case.bed);
    case.bed.controller().start().await?;
    let seen = |request: &testbed::proxy::Request| {
        request
            .target
            .resource
            .starts_with("virtualmachineclusterinstancetype")
    };
    case.bed.infra().proxy().seen(seen).await;
    case.settled().await;
    assert_eq!(
        writes(&case),
        0,
        "{}",
        budget::Ledger::of_controller(&case.bed).table()
    );

    // A value that a user set stays.
    let by_hand = format!("{CAPACITY}cpu=3");
    case.kubectl(&["annotate", "md", POOL, "--overwrite", &by_hand])
        .await?;
    case.settled().await;
    let (cpu, _) = capacity(&case.deployments().get(POOL).await?);
    assert_eq!(cpu.as_deref(), Some("3"));

    case.machine_sets()
        .delete(ALONE, &DeleteParams::default())
        .await?;
    wait::for_absence(&case.machine_sets(), ALONE, WAIT_TIMEOUT).await?;
    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

/// Waits until the deployment and the standalone set have so many CPUs in their annotations.
async fn knows(case: &Case, cpus: &str) -> Result<()> {
    let fits =
        |(cpu, memory): (Option<String>, Option<String>)| cpu.as_deref() == Some(cpus) && memory.is_some();
    let what = format!("said to have {cpus} CPUs");
    wait::for_state(&case.deployments(), POOL, &what, WAIT_TIMEOUT, |pool| {
        fits(capacity(pool))
    })
    .await?;
    wait::for_state(&case.machine_sets(), ALONE, &what, WAIT_TIMEOUT, |set| {
        fits(capacity(set))
    })
    .await?;
    Ok(())
}

/// CPUs and memory of a node of the group in the annotations.
fn capacity(group: &impl kube::Resource) -> (Option<String>, Option<String>) {
    let of = |key: &str| group.annotations().get(&format!("{CAPACITY}{key}")).cloned();
    (of("cpu"), of("memory"))
}

/// Writes of the controller to the deployment and the set themselves: after each to a deployment,
/// operating-system-manager renders its Secrets again.
fn writes(case: &Case) -> usize {
    let requests = case.bed.user().proxy().requests_of(CONTROLLER).into_iter();
    let written = requests.filter(|request| {
        let target = &request.target;
        (target.resource == "machinedeployments" || target.resource == "machinesets" && target.name == ALONE)
            && target.namespace == NAMESPACE
            && target.subresource.is_empty()
            && target.is_write()
    });
    written.count()
}
