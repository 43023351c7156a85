//! Pods without a budget: which of them are evicted, and which of them the drain waits for.

use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::{
    case::WAIT_TIMEOUT,
    drain::{condition, is_cordoned, pod},
    wait,
};
use kube::api::DeleteParams;
use serde_json::json;

use super::{WORKER, complete, daemon_set, finish, hold, start};

#[tokio::test]
async fn each_pod_is_evicted_once_and_the_vm_lives_until_the_last_pod_is_gone() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    let mut with_data = pod("web-2", "web", WORKER);
    with_data["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    case.runs(with_data).await?;
    hold(&case, "web-2", true).await?;
    case.begin_deletion(WORKER).await?;
    let draining = case
        .condition_with(WORKER, "Drained", "Draining", &["web-2", "terminating"])
        .await?;
    ensure!(is_cordoned(&case.node(WORKER).await?));
    ensure!(condition(&draining, "Deleting")["reason"] == "DrainingNode");
    ensure!(condition(&draining, "Ready")["status"] == "False");
    case.vm_lives(WORKER).await?;
    let vms = case.vms();
    let deleted = wait::until(&vms, WORKER, "being deleted", WAIT_TIMEOUT, |vm| {
        vm.is_none_or(|vm| vm.metadata.deletion_timestamp.is_some())
    });
    let started = Instant::now();
    let (released, deleted) = tokio::join!(hold(&case, "web-2", false), deleted);
    released?;
    deleted?;
    println!(
        "from the last pod's end to the VM's deletion: {:?}",
        started.elapsed()
    );
    case.machine_gone(WORKER).await?;
    for name in ["web-1", "web-2"] {
        let asked = case.asked_of_pod(name);
        ensure!(
            asked.len() == 1 && asked[0].target.subresource == "eviction",
            "{asked:?}"
        );
    }
    finish(case).await
}

#[tokio::test]
async fn pods_of_daemon_sets_mirror_pods_completed_pods_and_pods_with_the_label_skip_stay() -> Result<()> {
    let case = start().await?;
    let mut of_daemon_set = pod("daemon", "staying", WORKER);
    of_daemon_set["metadata"]["ownerReferences"] = json!([daemon_set(&case, "staying").await?]);
    let mut mirror = pod("mirror", "staying", WORKER);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    let mut labeled = pod("labeled", "staying", WORKER);
    labeled["metadata"]["labels"]["cluster.x-k8s.io/drain"] = json!("skip");
    let completed = pod("completed", "staying", WORKER);
    let mut names = Vec::new();
    for pod in [of_daemon_set, mirror, labeled, completed] {
        names.push(case.runs(pod).await?);
    }
    complete(&case, "completed").await?;
    // None of them may be evicted, and the drain waits for none. The controller counts the completed one, whose condition is Ready.
    case.budget("staying", "staying", 4, 4).await?;
    case.begin_deletion(WORKER).await?;
    case.machine_gone(WORKER).await?;
    for name in names {
        ensure!(case.asked_of_pod(&name).is_empty(), "{name} stays");
    }
    case.without_budget("staying").await?;
    finish(case).await
}

#[tokio::test]
async fn a_pod_with_the_label_wait_completed_is_waited_for_and_not_evicted() -> Result<()> {
    let case = start().await?;
    let mut job = pod("job-1", "job", WORKER);
    job["metadata"]["labels"]["cluster.x-k8s.io/drain"] = json!("Wait-Completed");
    case.runs(job).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(
        WORKER,
        "Drained",
        "Draining",
        &["job-1", "complete by themselves"],
    )
    .await?;
    case.vm_lives(WORKER).await?;
    complete(&case, "job-1").await?;
    case.machine_gone(WORKER).await?;
    ensure!(case.asked_of_pod("job-1").is_empty());
    finish(case).await
}

#[tokio::test]
async fn a_pod_that_is_terminating_already_is_waited_for_and_not_evicted() -> Result<()> {
    let case = start().await?;
    case.runs(pod("web-1", "web", WORKER)).await?;
    hold(&case, "web-1", true).await?;
    case.pods().delete("web-1", &DeleteParams::default()).await?;
    case.begin_deletion(WORKER).await?;
    case.condition_with(WORKER, "Drained", "Draining", &["web-1", "still on the Node"])
        .await?;
    case.vm_lives(WORKER).await?;
    hold(&case, "web-1", false).await?;
    case.machine_gone(WORKER).await?;
    ensure!(
        case.asked_of_pod("web-1").is_empty(),
        "another client has deleted it"
    );
    finish(case).await
}
