//! Nodes are drained before their VMs go: budgets kept by the real disruption controller, pods ended by simulated kubelets.
//! One bed, a Machine a case, all cases side by side.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::{
    Case,
    case::PATIENCE,
    drain::{PODS, condition, is_cordoned, phase, pod},
    manifest, rollout, wait,
};
use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

type Run = for<'a> fn(&'a Case) -> BoxFuture<'a, Result<()>>;

/// Each with a Machine of its name that has joined.
const CASES: &[(&str, Run)] = &[
    ("plain", |case| plain(case).boxed()),
    ("budget", |case| budget(case).boxed()),
    ("two-budgets", |case| two_budgets(case).boxed()),
    ("one-at-a-time", |case| one_at_a_time(case).boxed()),
    ("staying", |case| staying(case).boxed()),
    ("completing", |case| completing(case).boxed()),
    ("terminating", |case| terminating(case).boxed()),
    ("late", |case| late(case).boxed()),
    ("uncordoned", |case| uncordoned(case).boxed()),
    ("excluded", |case| excluded(case).boxed()),
    ("skipped", |case| skipped(case).boxed()),
    ("timeout", |case| timeout(case).boxed()),
    ("silent", |case| silent(case).boxed()),
    ("hooked", |case| hooked(case).boxed()),
    ("held", |case| held(case).boxed()),
    ("paused", |case| paused(case).boxed()),
    ("attached", |case| attached(case).boxed()),
    ("kept-volume", |case| kept_volume(case).boxed()),
    ("detach-timeout", |case| detach_timeout(case).boxed()),
    ("detach-excluded", |case| detach_excluded(case).boxed()),
    ("out-of-service", |case| out_of_service(case).boxed()),
    ("clung-to", |case| clung_to(case).boxed()),
    ("subscribed", |case| subscribed(case).boxed()),
    ("left-behind", |case| left_behind(case).boxed()),
];

const BLOCKED: &str = "EvictionBlocked";

#[tokio::test]
async fn nodes_are_drained() -> Result<()> {
    let case = Case::start().await?;
    for name in CASES.iter().map(|(name, _)| *name).chain(["stays"]) {
        case.apply(&manifest::machine(name)).await?;
    }
    for name in CASES.iter().map(|(name, _)| *name).chain(["stays"]) {
        case.node_ready(name).await?;
    }
    let more: (&str, Run) = ("turns", |case| turns(case).boxed());
    let runs = CASES.iter().chain([&more]).map(|(name, run)| {
        let run = run(&case);
        async move { run.await.map_err(|error| error.context(*name)) }
    });
    let failed: Vec<String> = futures::future::join_all(runs)
        .await
        .into_iter()
        .filter_map(|run| run.err().map(|error| format!("{error:#}")))
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    // A pod there may have nowhere to go now.
    last(&case).await?;
    decisions_are_logged(&case)?;
    case.finish(&[]).await
}

/// One line for whatever changed something, with the Machine, its UID and why.
fn decisions_are_logged(case: &Case) -> Result<()> {
    let log = std::fs::read_to_string(case.bed.controller().log())?;
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    for message in ["approved", "evict a pod", "delete the VirtualMachine"] {
        let mut told = lines.iter().filter(|line| line["message"] == message).peekable();
        ensure!(told.peek().is_some(), "no line {message:?} in the log");
        for line in told {
            let text = |key: &str| line[key].as_str().unwrap_or_default();
            let is_whole =
                text("machine").contains('/') && !text("uid").is_empty() && !text("why").is_empty();
            ensure!(is_whole, "{line}");
        }
    }
    for change in ["approve a signing request", "evict pods", "watch the Node's pods"] {
        ensure!(
            lines.iter().all(|line| line["message"] != change),
            "{change:?} is logged, too"
        );
    }
    Ok(())
}

/// The last Node of the cluster.
async fn last(case: &Case) -> Result<()> {
    case.runs(pod("last", "last", "stays")).await?;
    case.budget("last", "last", 1, 1).await?;
    case.delete_machine("stays").await?;
    ensure!(
        case.asked_of_pod("last").is_empty(),
        "there is nowhere to go, so nothing is evicted"
    );
    counted(case, "machinist_evictions_blocked 0").await?;
    case.without_budget("last").await
}

async fn plain(case: &Case) -> Result<()> {
    case.runs(pod("plain-1", "plain", "plain")).await?;
    let mut with_data = pod("plain-2", "plain", "plain");
    with_data["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    case.runs(with_data).await?;
    // What its end takes.
    hold(case, "plain-2", true).await?;
    case.begin_deletion("plain").await?;
    let draining = case
        .says("plain", "Drained", "Draining", &["plain-2", "terminating"])
        .await?;
    ensure!(is_cordoned(&case.node("plain").await?));
    ensure!(condition(&draining, "Deleting")["reason"] == "DrainingNode");
    ensure!(condition(&draining, "Ready")["status"] == "False");
    case.vm_lives("plain").await?;
    let vms = case.vms();
    let told = wait::until(&vms, "plain", "told to end", PATIENCE, |vm| {
        vm.is_none_or(|vm| vm.metadata.deletion_timestamp.is_some())
    });
    let started = std::time::Instant::now();
    let (released, told) = tokio::join!(hold(case, "plain-2", false), told);
    released?;
    told?;
    println!("from the last pod's end to the VM's: {:?}", started.elapsed());
    case.machine_gone("plain").await?;
    for name in ["plain-1", "plain-2"] {
        let asked = case.asked_of_pod(name);
        ensure!(
            asked.len() == 1 && asked[0].target.subresource == "eviction",
            "{asked:?}"
        );
    }
    Ok(())
}

async fn budget(case: &Case) -> Result<()> {
    case.runs(pod("budget-1", "budget", "budget")).await?;
    case.budget("budget-of-one", "budget", 1, 1).await?;
    case.begin_deletion("budget").await?;
    case.says(
        "budget",
        "Drained",
        BLOCKED,
        &["budget-of-one", &format!("{PODS}/budget-1")],
    )
    .await?;
    case.vm_lives("budget").await?;
    let metrics = case.bed.controller().metrics().await?;
    let blocked = metrics
        .lines()
        .find_map(|line| line.strip_prefix("machinist_evictions_blocked "));
    ensure!(
        blocked.is_some_and(|pods| pods != "0"),
        "{blocked:?} pods are blocked"
    );
    let events = case.describe("budget").await?;
    ensure!(events.contains("budget-of-one"), "an Event names it: {events}");
    case.without_budget("budget-of-one").await?;
    case.machine_gone("budget").await
}

async fn two_budgets(case: &Case) -> Result<()> {
    case.runs(pod("two-budgets-1", "two-budgets", "two-budgets"))
        .await?;
    case.budget("two-budgets-a", "two-budgets", 0, 1).await?;
    case.budget("two-budgets-b", "two-budgets", 0, 1).await?;
    case.begin_deletion("two-budgets").await?;
    case.says(
        "two-budgets",
        "Drained",
        "Draining",
        &["more than one PodDisruptionBudget"],
    )
    .await?;
    case.vm_lives("two-budgets").await?;
    case.without_budget("two-budgets-b").await?;
    case.machine_gone("two-budgets").await?;
    case.without_budget("two-budgets-a").await
}

async fn one_at_a_time(case: &Case) -> Result<()> {
    let names = ["one-1", "one-2", "one-3"];
    for name in names {
        case.runs(pod(name, "one", "one-at-a-time")).await?;
    }
    case.budget("one-at-a-time", "one", 2, 3).await?;
    case.begin_deletion("one-at-a-time").await?;
    case.says("one-at-a-time", "Drained", BLOCKED, &["2 healthy pods and has 2"])
        .await?;
    let left = case.pods().list(&ListParams::default().labels("app=one")).await?;
    let stays = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
    ensure!(left.iter().filter(stays).count() == 2, "one may go: {left:?}");
    // Who controls them makes others elsewhere.
    for name in ["one-4", "one-5"] {
        case.runs(pod(name, "one", "stays")).await?;
    }
    case.machine_gone("one-at-a-time").await?;
    for name in ["one-4", "one-5"] {
        case.pods().delete(name, &DeleteParams::default()).await?;
    }
    case.without_budget("one-at-a-time").await
}

async fn staying(case: &Case) -> Result<()> {
    let mut of_daemon_set = pod("staying-daemon", "staying", "staying");
    of_daemon_set["metadata"]["ownerReferences"] = json!([daemon_set(case, "staying").await?]);
    let mut mirror = pod("staying-mirror", "staying", "staying");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    let mut labelled = pod("staying-labelled", "staying", "staying");
    labelled["metadata"]["labels"]["cluster.x-k8s.io/drain"] = json!("skip");
    let completed = pod("staying-completed", "staying", "staying");
    let mut names = Vec::new();
    for pod in [of_daemon_set, mirror, labelled, completed] {
        names.push(case.runs(pod).await?);
    }
    complete(case, "staying-completed").await?;
    // None of them may be evicted, and none has to be. The controller counts the completed one, whose condition is Ready.
    case.budget("staying", "staying", 4, 4).await?;
    case.begin_deletion("staying").await?;
    case.machine_gone("staying").await?;
    for name in names {
        ensure!(case.asked_of_pod(&name).is_empty(), "{name} stays");
    }
    case.without_budget("staying").await
}

async fn completing(case: &Case) -> Result<()> {
    let mut job = pod("completing-1", "completing", "completing");
    job["metadata"]["labels"]["cluster.x-k8s.io/drain"] = json!("Wait-Completed");
    case.runs(job).await?;
    case.begin_deletion("completing").await?;
    case.says(
        "completing",
        "Drained",
        "Draining",
        &["completing-1", "complete by themselves"],
    )
    .await?;
    case.vm_lives("completing").await?;
    complete(case, "completing-1").await?;
    case.machine_gone("completing").await?;
    ensure!(case.asked_of_pod("completing-1").is_empty());
    Ok(())
}

async fn terminating(case: &Case) -> Result<()> {
    case.runs(pod("terminating-1", "terminating", "terminating"))
        .await?;
    hold(case, "terminating-1", true).await?;
    case.pods()
        .delete("terminating-1", &DeleteParams::default())
        .await?;
    case.begin_deletion("terminating").await?;
    case.says(
        "terminating",
        "Drained",
        "Draining",
        &["terminating-1", "still on the Node"],
    )
    .await?;
    case.vm_lives("terminating").await?;
    hold(case, "terminating-1", false).await?;
    case.machine_gone("terminating").await?;
    ensure!(
        case.asked_of_pod("terminating-1").is_empty(),
        "somebody else has told it to end"
    );
    Ok(())
}

/// A pod that comes while the Node is being drained.
async fn late(case: &Case) -> Result<()> {
    case.runs(pod("late-1", "late", "late")).await?;
    case.budget("late", "late", 1, 1).await?;
    case.begin_deletion("late").await?;
    case.says("late", "Drained", BLOCKED, &["late-1"]).await?;
    case.runs(pod("late-2", "other", "late")).await?;
    case.evicted("late-2").await?;
    case.without_budget("late").await?;
    case.machine_gone("late").await
}

/// Somebody takes the cordon back.
async fn uncordoned(case: &Case) -> Result<()> {
    case.runs(pod("uncordoned-1", "uncordoned", "uncordoned")).await?;
    case.budget("uncordoned", "uncordoned", 1, 1).await?;
    case.begin_deletion("uncordoned").await?;
    case.says("uncordoned", "Drained", BLOCKED, &["uncordoned-1"])
        .await?;
    case.patch_node("uncordoned", json!({"spec": {"unschedulable": null}}))
        .await?;
    wait::for_state(
        &case.nodes(),
        "uncordoned",
        "cordoned again",
        PATIENCE,
        is_cordoned,
    )
    .await?;
    case.without_budget("uncordoned").await?;
    case.machine_gone("uncordoned").await
}

async fn excluded(case: &Case) -> Result<()> {
    case.runs(pod("excluded-1", "excluded", "excluded")).await?;
    case.annotate(
        "excluded",
        "machine.cluster.x-k8s.io/exclude-node-draining",
        Some(""),
    )
    .await?;
    goes_without_drain(case, "excluded", "excluded-1", "exclude-node-draining").await
}

async fn skipped(case: &Case) -> Result<()> {
    case.runs(pod("skipped-1", "skipped", "skipped")).await?;
    case.patch_node(
        "skipped",
        json!({"metadata": {"annotations": {"kubermatic.io/skip-eviction": "true"}}}),
    )
    .await?;
    goes_without_drain(case, "skipped", "skipped-1", "skip-eviction").await
}

/// A Node that has not been Ready for long.
async fn silent(case: &Case) -> Result<()> {
    case.runs(pod("silent-1", "silent", "silent")).await?;
    let ready = json!({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "silent",
        "lastTransitionTime": "2026-01-01T12:00:00Z", "lastHeartbeatTime": "2026-01-01T12:00:00Z"});
    let patch = Patch::Strategic(json!({"status": {"conditions": [ready]}}));
    case.nodes()
        .patch_status("silent", &PatchParams::default(), &patch)
        .await?;
    goes_without_drain(case, "silent", "silent-1", "has not been Ready").await
}

async fn goes_without_drain(case: &Case, machine: &str, pod: &str, why: &str) -> Result<()> {
    // So that its last conditions can be read.
    let hook = "pre-terminate.delete.hook.machine.cluster.x-k8s.io/test";
    case.annotate(machine, hook, Some("")).await?;
    case.begin_deletion(machine).await?;
    case.says(machine, "Drained", "DrainSkipped", &[why]).await?;
    ensure!(!is_cordoned(&case.node(machine).await?));
    case.annotate(machine, hook, None).await?;
    case.machine_gone(machine).await?;
    ensure!(case.asked_of_pod(pod).is_empty());
    Ok(())
}

async fn timeout(case: &Case) -> Result<()> {
    case.runs(pod("timeout-1", "timeout", "timeout")).await?;
    case.budget("timeout", "timeout", 1, 1).await?;
    case.begin_deletion("timeout").await?;
    case.says("timeout", "Drained", BLOCKED, &["timeout-1"]).await?;
    case.vm_lives("timeout").await?;
    case.annotate("timeout", "machinist.dev/node-drain-timeout", Some("3s"))
        .await?;
    case.machine_gone("timeout").await?;
    case.without_budget("timeout").await
}

async fn hooked(case: &Case) -> Result<()> {
    let hook = "pre-drain.delete.hook.machine.cluster.x-k8s.io/backup";
    case.runs(pod("hooked-1", "hooked", "hooked")).await?;
    case.annotate("hooked", hook, Some("backup-operator")).await?;
    case.begin_deletion("hooked").await?;
    case.says(
        "hooked",
        "Deleting",
        "WaitingForPreDrainHook",
        &[hook, "backup-operator"],
    )
    .await?;
    ensure!(!is_cordoned(&case.node("hooked").await?));
    case.annotate("hooked", hook, None).await?;
    case.machine_gone("hooked").await?;
    ensure!(case.asked_of_pod("hooked-1").len() == 1);
    Ok(())
}

async fn held(case: &Case) -> Result<()> {
    let hook = "pre-terminate.delete.hook.machine.cluster.x-k8s.io/cleanup";
    case.runs(pod("held-1", "held", "held")).await?;
    case.annotate("held", hook, Some("")).await?;
    case.begin_deletion("held").await?;
    let machine = case
        .says("held", "Deleting", "WaitingForPreTerminateHook", &[hook])
        .await?;
    ensure!(condition(&machine, "Drained")["status"] == "True");
    ensure!(case.pods().get_opt("held-1").await?.is_none());
    case.vm_lives("held").await?;
    // The hook's owner looks after the end there; and somebody else does not wait for it.
    case.runs(pod("held-2", "held", "held")).await?;
    case.vms().delete("held", &DeleteParams::default()).await?;
    wait::for_absence(&case.vms(), "held", PATIENCE).await?;
    case.says("held", "Deleting", "WaitingForPreTerminateHook", &[hook])
        .await?;
    case.node("held").await?;
    ensure!(case.asked_of_pod("held-2").is_empty(), "it was evicted");
    case.annotate("held", hook, None).await?;
    case.machine_gone("held").await
}

async fn paused(case: &Case) -> Result<()> {
    let pause = "machine-controller.kubermatic.io/initializers";
    case.runs(pod("paused-1", "paused", "paused")).await?;
    case.budget("paused", "paused", 1, 1).await?;
    case.begin_deletion("paused").await?;
    case.says("paused", "Drained", BLOCKED, &["paused-1"]).await?;
    case.annotate("paused", pause, Some("me")).await?;
    case.without_budget("paused").await?;
    // A refused eviction would be tried again by then.
    let before = case.asked_of_pod("paused-1").len();
    let pods = case.pods();
    let quiet = wait::until(&pods, "paused-1", "evicted", Duration::from_secs(7), |pod| {
        pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    });
    ensure!(quiet.await.is_err(), "a paused Machine's pods are left alone");
    ensure!(case.asked_of_pod("paused-1").len() <= before + 1);
    case.annotate("paused", pause, None).await?;
    case.machine_gone("paused").await
}

async fn attached(case: &Case) -> Result<()> {
    case.attach("pv-attached", "data", "attached").await?;
    case.begin_deletion("attached").await?;
    let machine = case
        .says("attached", "Deleting", "WaitingForVolumeDetach", &["pv-attached"])
        .await?;
    ensure!(condition(&machine, "Drained")["status"] == "True");
    case.vm_lives("attached").await?;
    case.detach("pv-attached").await?;
    case.machine_gone("attached").await?;
    forget_volume(case, "pv-attached").await
}

/// The volume of a pod that stays is waited for only when the VM is gone.
async fn kept_volume(case: &Case) -> Result<()> {
    let mut stays = pod("kept-volume-1", "kept-volume", "kept-volume");
    stays["metadata"]["labels"]["cluster.x-k8s.io/drain"] = json!("skip");
    stays["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "kept"}}]);
    case.runs(stays).await?;
    case.attach("pv-kept", "kept", "kept-volume").await?;
    case.attach("pv-other", "other", "kept-volume").await?;
    case.begin_deletion("kept-volume").await?;
    let machine = case
        .says(
            "kept-volume",
            "Deleting",
            "WaitingForVolumeDetach",
            &["pv-other", "default/other"],
        )
        .await?;
    let message = condition(&machine, "Deleting")["message"].to_string();
    ensure!(!message.contains("pv-kept"), "{message}");
    case.detach("pv-other").await?;
    case.says("kept-volume", "Deleting", "ReleasingVolumes", &["pv-kept"])
        .await?;
    ensure!(case.vms().get_opt("kept-volume").await?.is_none());
    case.detach("pv-kept").await?;
    case.machine_gone("kept-volume").await?;
    forget_volume(case, "pv-kept").await?;
    forget_volume(case, "pv-other").await
}

async fn detach_timeout(case: &Case) -> Result<()> {
    case.attach("pv-timeout", "timeout", "detach-timeout").await?;
    case.begin_deletion("detach-timeout").await?;
    case.says(
        "detach-timeout",
        "Deleting",
        "WaitingForVolumeDetach",
        &["pv-timeout"],
    )
    .await?;
    case.vm_lives("detach-timeout").await?;
    case.annotate(
        "detach-timeout",
        "machinist.dev/node-volume-detach-timeout",
        Some("3s"),
    )
    .await?;
    case.says("detach-timeout", "Deleting", "ReleasingVolumes", &["pv-timeout"])
        .await?;
    case.detach("pv-timeout").await?;
    case.machine_gone("detach-timeout").await?;
    forget_volume(case, "pv-timeout").await
}

async fn detach_excluded(case: &Case) -> Result<()> {
    let key = "machine.cluster.x-k8s.io/exclude-wait-for-node-volume-detach";
    case.annotate("detach-excluded", key, Some("")).await?;
    case.attach("pv-excluded", "excluded", "detach-excluded").await?;
    case.begin_deletion("detach-excluded").await?;
    case.says(
        "detach-excluded",
        "VolumesDetached",
        "VolumeDetachSkipped",
        &["pv-excluded"],
    )
    .await?;
    case.says(
        "detach-excluded",
        "Deleting",
        "ReleasingVolumes",
        &["pv-excluded"],
    )
    .await?;
    case.detach("pv-excluded").await?;
    case.machine_gone("detach-excluded").await?;
    forget_volume(case, "pv-excluded").await
}

/// The VM is gone and a volume still attached: the Node says so to those who would detach it.
async fn out_of_service(case: &Case) -> Result<()> {
    case.annotate(
        "out-of-service",
        "machine.cluster.x-k8s.io/exclude-node-draining",
        Some(""),
    )
    .await?;
    case.attach("pv-out-of-service", "data", "out-of-service").await?;
    case.begin_deletion("out-of-service").await?;
    // Volumes are another question than the drain.
    case.says(
        "out-of-service",
        "VolumesDetached",
        "VolumesAttached",
        &["pv-out-of-service"],
    )
    .await?;
    case.annotate(
        "out-of-service",
        "machine.cluster.x-k8s.io/exclude-wait-for-node-volume-detach",
        Some(""),
    )
    .await?;
    let tainted = |node: &Node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
        taints
            .into_iter()
            .flatten()
            .any(|taint| taint.key == "node.kubernetes.io/out-of-service" && taint.effect == "NoExecute")
    };
    wait::for_state(
        &case.nodes(),
        "out-of-service",
        "out of service",
        PATIENCE,
        tainted,
    )
    .await?;
    ensure!(
        case.vms().get_opt("out-of-service").await?.is_none(),
        "only when the VM is gone"
    );
    case.detach("pv-out-of-service").await?;
    case.machine_gone("out-of-service").await?;
    forget_volume(case, "pv-out-of-service").await
}

/// Somebody's finalizer holds the Node.
async fn clung_to(case: &Case) -> Result<()> {
    let held = json!({"metadata": {"finalizers": ["example.com/holds"]}});
    case.patch_node("clung-to", held).await?;
    case.begin_deletion("clung-to").await?;
    case.says("clung-to", "Deleting", "DeletingNode", &["example.com/holds"])
        .await?;
    case.annotate("clung-to", "machinist.dev/node-deletion-timeout", Some("1s"))
        .await?;
    case.machine_gone("clung-to").await?;
    case.patch_node("clung-to", json!({"metadata": {"finalizers": null}}))
        .await
}

async fn subscribed(case: &Case) -> Result<()> {
    let finalizer = "kubermatic.io/red-hat-subscription";
    let machine = case.machines().get("subscribed").await?;
    let mut finalizers = machine.metadata.finalizers.unwrap_or_default();
    finalizers.push(finalizer.to_owned());
    case.patch_machine("subscribed", json!({"metadata": {"finalizers": finalizers}}))
        .await?;
    case.delete_machine("subscribed").await?;
    let events: Api<k8s_openapi::api::events::v1::Event> =
        Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let told = |event: &k8s_openapi::api::events::v1::Event| {
        event.reason.as_deref() == Some("SubscriptionLeft")
            && event
                .note
                .as_deref()
                .is_some_and(|note| note.contains("subscribed"))
    };
    wait::any(&events, "Event that says what to do by hand", PATIENCE, told).await
}

/// Somebody removes the finalizers by hand: what is left is counted, named, and not touched.
async fn left_behind(case: &Case) -> Result<()> {
    let (name, hook) = (
        "left-behind",
        "pre-terminate.delete.hook.machine.cluster.x-k8s.io/test",
    );
    case.annotate(name, hook, Some("")).await?;
    case.begin_deletion(name).await?;
    case.says(name, "Deleting", "WaitingForPreTerminateHook", &[hook])
        .await?;
    case.patch_machine(name, json!({"metadata": {"finalizers": null}}))
        .await?;
    case.machine_gone(name).await?;
    counted(case, "machinist_orphans{kind=\"VirtualMachine\"} 1").await?;
    counted(case, "machinist_orphans{kind=\"PersistentVolumeClaim\"} 1").await?;
    let log = std::fs::read_to_string(case.bed.controller().log())?;
    ensure!(
        log.lines()
            .any(|line| line.contains(name) && line.contains("has no Machine")),
        "the log does not name it"
    );
    case.vm_lives(name).await?;
    case.vms().delete(name, &DeleteParams::default()).await?;
    wait::for_absence(&case.vms(), name, PATIENCE).await?;
    counted(case, "machinist_orphans{kind=\"VirtualMachine\"} 0").await?;
    case.nodes().delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// Returns when the controller's metrics have that line.
async fn counted(case: &Case, line: &str) -> Result<()> {
    let has = async {
        loop {
            if case
                .bed
                .controller()
                .metrics()
                .await?
                .lines()
                .any(|found| found == line)
            {
                return Ok(());
            }
            // Nothing tells when a metric changes.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, has).await {
        Ok(counted) => counted,
        Err(_) => bail!("{line} was not counted"),
    }
}

/// A MachineDeployment whose Nodes are drained one after the other.
async fn turns(case: &Case) -> Result<()> {
    let mut deployment = rollout::deployment("turns", 3);
    deployment["metadata"]["annotations"] = json!({"machinist.dev/max-concurrent-drains": "1"});
    case.apply(&deployment).await?;
    case.rollout("turns", "NewMachineSetAvailable").await?;
    let ours = ListParams::default().labels("pool=turns");
    let machines = case.machines().list(&ours).await?;
    let mut waiting: Vec<String> = machines.iter().map(ResourceExt::name_any).collect();
    ensure!(waiting.len() == 3, "{waiting:?}");
    for name in &waiting {
        case.runs(pod(name, "turns", name)).await?;
        hold(case, name, true).await?;
    }
    case.kubectl(&["scale", "md", "turns", "--replicas=0"]).await?;
    while !waiting.is_empty() {
        let mut drained = None;
        let of_turns =
            |pod: &Pod| pod.metadata.deletion_timestamp.is_some() && waiting.contains(&pod.name_any());
        wait::any(&case.pods(), "pod that goes", PATIENCE, of_turns).await?;
        for name in &waiting {
            match case.pods().get(name).await?.metadata.deletion_timestamp {
                Some(_) if drained.is_none() => drained = Some(name.clone()),
                Some(_) => bail!("two Nodes are drained at a time: {drained:?}, {name}"),
                None => {
                    case.says(name, "Deleting", "WaitingForOtherDrains", &["1 at a time"])
                        .await?;
                    ensure!(!is_cordoned(&case.node(name).await?));
                }
            }
        }
        let Some(drained) = drained else {
            bail!("no Node is drained")
        };
        waiting.retain(|name| *name != drained);
        hold(case, &drained, false).await?;
    }
    case.kubectl(&["delete", "md", "turns", "--wait=false"]).await?;
    wait::for_absence(&case.deployments(), "turns", PATIENCE).await
}

/// A finalizer on a pod is what its end takes.
async fn hold(case: &Case, pod: &str, held: bool) -> Result<()> {
    let finalizers: Value = if held {
        json!(["example.com/holds"])
    } else {
        Value::Null
    };
    let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    case.pods().patch(pod, &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn complete(case: &Case, pod: &str) -> Result<()> {
    let patch = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    case.pods()
        .patch_status(pod, &PatchParams::default(), &patch)
        .await?;
    let succeeded = |pod: &Pod| phase(pod) == "Succeeded";
    wait::for_state(&case.pods(), pod, "completed", PATIENCE, succeeded).await?;
    Ok(())
}

/// A DaemonSet, which nobody acts on here; the reference of its pods.
async fn daemon_set(case: &Case, name: &str) -> Result<Value> {
    let labels = json!({"daemon": name});
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": PODS},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "containers": [{"name": "main", "image": "registry.example.com/pause"}]}}},
    });
    let sets: Api<k8s_openapi::api::apps::v1::DaemonSet> = Api::namespaced(case.bed.user().client(), PODS);
    let made = sets
        .create(&PostParams::default(), &serde_json::from_value(set)?)
        .await?;
    Ok(
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "controller": true,
        "uid": made.metadata.uid}),
    )
}

async fn forget_volume(case: &Case, volume: &str) -> Result<()> {
    let volumes: Api<k8s_openapi::api::core::v1::PersistentVolume> = Api::all(case.bed.user().client());
    volumes.delete(volume, &DeleteParams::default()).await?;
    Ok(())
}
