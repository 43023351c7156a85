//! MachineSets on real control planes: scaling, adoption, release, deletion, and never one Machine too many.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, wait};
use futures::StreamExt as _;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Event};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use machinist_shared::api::{
    Machine, MachineSet, MachineSetStatus,
    names::{annotation, finalizer},
};
use serde_json::{Value, json};
use testbed::{
    bed::{CONTROLLER, Options},
    proxy::WriteFuse,
};
use tokio::sync::Notify;

const STANDBY: &str = "standby";

#[tokio::test]
async fn a_set_is_scaled_adopts_releases_and_deletes_its_machines() -> Result<()> {
    let case = Case::start().await?;
    let made = CreatedMachines::record(&case);
    case.apply(&manifest::machine_set("workers", 3)).await?;
    let ready_status = ready(&case, "workers", 3).await?;
    assert_eq!(ready_status.label_selector.as_deref(), Some("set=workers"));
    assert_eq!(
        (
            ready_status.fully_labeled_replicas,
            ready_status.available_replicas
        ),
        (Some(3), Some(3))
    );
    assert_eq!(made.of("workers").len(), 3);

    // Scale up, as an autoscaler does it.
    scale(&case, "workers", 5).await?;
    ready(&case, "workers", 5).await?;
    assert_eq!(made.of("workers").len(), 5);

    // Scale down: the annotated Machine is deleted.
    let marked = of_set(&case, "workers").await?[2].name_any();
    patch(
        &case,
        &marked,
        json!({"metadata": {"annotations": {annotation::DELETE_MACHINE: "now"}}}),
    )
    .await?;
    scale(&case, "workers", 4).await?;
    wait::for_absence(&case.machines(), &marked, WAIT_TIMEOUT).await?;
    ready(&case, "workers", 4).await?;
    assert_eq!(made.of("workers").len(), 5, "nothing was made instead");

    // A paused set creates none. Resumed, it adopts the Machine without a controller instead of creating one.
    let mut orphan = manifest::machine("orphan");
    orphan["metadata"]["labels"] = json!({"set": "workers"});
    let pause = |text: Value| json!({"metadata": {"annotations": {annotation::PAUSED: text}}});
    patch_set(&case, "workers", pause("".into())).await?;
    scale(&case, "workers", 5).await?;
    case.apply(&orphan).await?;
    case.node_ready("orphan").await?;
    assert_eq!(of_set(&case, "workers").await?.len(), 4);
    patch_set(&case, "workers", pause(Value::Null)).await?;
    ready(&case, "workers", 5).await?;
    assert_eq!(owner(&case.machines().get("orphan").await?), Some("workers"));
    assert_eq!(made.of("workers").len(), 5, "none was made");
    let mark = json!({"metadata": {"annotations": {annotation::DELETE_MACHINE: "me"}}});
    patch(&case, "orphan", mark).await?;
    scale(&case, "workers", 4).await?;
    wait::for_absence(&case.machines(), "orphan", WAIT_TIMEOUT).await?;
    ready(&case, "workers", 4).await?;

    // A Machine whose labels no longer match is released, stays, and is replaced.
    let strayed = of_set(&case, "workers").await?[0].name_any();
    let before = made.of("workers");
    patch(&case, &strayed, json!({"metadata": {"labels": {"set": "other"}}})).await?;
    let free = |machine: &Machine| machine.owner_references().is_empty();
    wait::for_state(&case.machines(), &strayed, "let go", WAIT_TIMEOUT, free).await?;
    let new = |machine: &Machine| owner(machine) == Some("workers") && !before.contains(&machine.name_any());
    wait::any(&case.machines(), "made instead", WAIT_TIMEOUT, new).await?;
    ready(&case, "workers", 4).await?;
    assert_eq!(made.of("workers").len(), before.len() + 1);
    assert_eq!(case.vm_history.uids(&strayed).len(), 1);
    case.delete_machine(&strayed).await?;

    // An invalid spec that bypassed admission is reported, and the error is cleared when it is fixed.
    let kind = "validatingwebhookconfigurations";
    case.bed.user().kubectl_ok(&["delete", kind, "--all"], "").await?;
    patch_set(
        &case,
        "workers",
        json!({"spec": {"deletePolicy": "Biggest", "replicas": 1}}),
    )
    .await?;
    let says = |set: &MachineSet| status(set).error_reason.as_deref() == Some("InvalidConfiguration");
    wait::for_state(&sets(&case), "workers", "refused", WAIT_TIMEOUT, says).await?;
    assert_eq!(of_set(&case, "workers").await?.len(), 4, "nothing is scaled down");
    patch_set(
        &case,
        "workers",
        json!({"spec": {"deletePolicy": "Newest", "replicas": 4}}),
    )
    .await?;
    let is_fixed = |set: &MachineSet| status(set).error_reason.is_none();
    wait::for_state(
        &sets(&case),
        "workers",
        "without an error",
        WAIT_TIMEOUT,
        is_fixed,
    )
    .await?;

    case.bed
        .user()
        .kubectl_ok(
            &[
                "delete",
                "machineset",
                "workers",
                "--namespace",
                manifest::NAMESPACE,
            ],
            "",
        )
        .await?;
    gone(&case, "workers").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_controller_killed_while_it_creates_five_machines_creates_five() -> Result<()> {
    let controller_args = vec!["--enable-leader-election=false".to_owned()];
    let case = Case::start_with(Options {
        controller_args,
        ..Options::default()
    })
    .await?;
    let made = CreatedMachines::record(&case);
    // The first write is the finalizer's; then come batches of 1, 2 and 2.
    for nth in 1..=7 {
        let name = format!("killed-{nth}");
        let fuse = WriteFuse::after(nth, case.bed.controller().killer()?);
        case.bed.user().proxy().arm(CONTROLLER, &fuse);
        case.apply(&manifest::machine_set(&name, 5)).await?;
        fuse.fired().await;
        // The kernel may still be ending it.
        case.bed.controller().kill();
        case.bed.controller().start().await?;
        ready(&case, &name, 5).await?;
        case.settled().await;
        let machines = made.of(&name);
        assert_eq!(machines.len(), 5, "killed after write {nth}: {machines:?}");
        for machine in &machines {
            assert_eq!(
                case.vm_history.uids(machine).len(),
                1,
                "{machine}, killed after write {nth}"
            );
        }
        case.bed.user().proxy().disarm(CONTROLLER);
        sets(&case)
            .delete(&name, &kube::api::DeleteParams::default())
            .await?;
        gone(&case, &name).await?;
    }
    case.finish(&[]).await
}

#[tokio::test]
async fn a_new_leader_with_a_stale_cache_creates_none_too_many() -> Result<()> {
    let case = Case::start().await?;
    let made = CreatedMachines::record(&case);
    let standby = case.bed.new_controller(STANDBY, &[]).await?;
    standby.launch()?;
    // It sees the set, and not the Machines that the leader then creates.
    let proxy = case.bed.user().proxy();
    proxy.freeze_watches(CONTROLLER);
    let mut set = manifest::machine_set("workers", 3);
    // Otherwise the finalizer would be its first write, which would be refused because its cache is stale.
    set["metadata"]["finalizers"] = json!([finalizer::FOREGROUND_DELETION]);
    case.apply(&set).await?;
    case.settled().await;
    proxy.freeze_watches(STANDBY);
    proxy.heal(CONTROLLER);
    ready(&case, "workers", 3).await?;
    proxy.clear_requests();
    let former = holder(&leases(&case).get(LEASE).await?);
    case.bed.controller().terminate().await?;
    wait::for_state(
        &leases(&case),
        LEASE,
        "held by the standby",
        WAIT_TIMEOUT,
        |lease| !holder(lease).is_empty() && holder(lease) != former,
    )
    .await?;
    case.settled().await;
    assert_eq!(made.of("workers").len(), 3, "none was made while it was blind");
    assert_eq!(of_set(&case, "workers").await?.len(), 3, "and none deleted");
    let asked = proxy.requests_of(STANDBY);
    let asked = asked
        .iter()
        .any(|request| request.target.verb == "list" && request.target.resource == "machines");
    assert!(asked, "it asked for what it did not know");

    proxy.heal(STANDBY);
    scale(&case, "workers", 4).await?;
    ready(&case, "workers", 4).await?;
    assert_eq!(made.of("workers").len(), 4);
    sets(&case)
        .delete("workers", &kube::api::DeleteParams::default())
        .await?;
    gone(&case, "workers").await?;
    standby.terminate().await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn repeated_refusals_of_machines_are_one_event_and_one_status() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&refuse_machines()).await?;
    let policy = [
        "delete",
        "validatingadmissionpolicybinding,validatingadmissionpolicy",
        NO_MACHINES,
    ];
    let probe = manifest::machine("probe");
    // The API server takes a moment to load its policies.
    let dry_run = ["create", "--dry-run=server", "-f", "-"];
    while case
        .bed
        .user()
        .kubectl_ok(&dry_run, &probe.to_string())
        .await
        .is_ok()
    {}
    let proxy = case.bed.user().proxy();
    proxy.clear_requests();
    case.apply(&manifest::machine_set("workers", 2)).await?;
    let events: Api<Event> = Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let attempts = |event: &Event| event.series.as_ref().and_then(|series| series.count).unwrap_or(1);
    let is_refusal = |event: &Event| {
        event.involved_object.name.as_deref() == Some("workers")
            && event
                .message
                .as_deref()
                .is_some_and(|message| message.contains("no more Machines"))
    };
    wait::any(&events, "Event of three attempts", WAIT_TIMEOUT, |event| {
        is_refusal(event) && attempts(event) >= 3
    })
    .await?;
    let listed = events.list(&ListParams::default()).await?.items;
    let refusals: Vec<_> = listed.iter().filter(|event| is_refusal(event)).collect();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    let message = refusals[0].message.clone().unwrap_or_default();
    assert!(message.contains("workers-…"), "{message}");
    let set = sets(&case).get("workers").await?;
    let said = status(&set).error_message.unwrap_or_default();
    assert_eq!(said, message);
    let asked = proxy.requests_of(CONTROLLER);
    let of_status = asked
        .iter()
        .filter(|request| request.target.resource == "machinesets" && request.target.subresource == "status");
    let of_status = of_status.count();
    assert!(of_status <= 2, "the status was written {of_status} times");

    case.bed.user().kubectl_ok(&policy, "").await?;
    let change = json!({"metadata": {"annotations": {"example.com/policy": "gone"}}});
    patch_set(&case, "workers", change).await?;
    ready(&case, "workers", 2).await?;
    sets(&case)
        .delete("workers", &kube::api::DeleteParams::default())
        .await?;
    gone(&case, "workers").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_set_replaces_machines_that_lose_their_vms_with_growing_backoff() -> Result<()> {
    let case = Case::start().await?;
    let made = CreatedMachines::record(&case);
    let (vms, machines) = (case.vms(), case.machines());
    // Once a Machine has recorded its VM, it does not create another.
    let deleter = tokio::spawn(async move {
        let mut events = watcher(machines, watcher::Config::default())
            .default_backoff()
            .applied_objects()
            .boxed();
        while let Some(machine) = events.next().await {
            let Ok(machine) = machine else { continue };
            let record = machine
                .status
                .as_ref()
                .and_then(|status| status.provider_status.as_ref());
            if record.is_some_and(|record| record["vmUID"].is_string()) {
                // It may be gone already.
                let _ = vms.delete(&machine.name_any(), &DeleteParams::default()).await;
            }
        }
    });
    let began = Instant::now();
    case.apply(&manifest::machine_set("workers", 1)).await?;
    while made.of("workers").len() < 5 {
        made.changed().await;
    }
    // The third waits for 1 s, the fourth for 2 s, the fifth for 4 s, each up to a fifth shorter by jitter.
    let took = began.elapsed();
    anyhow::ensure!(took > Duration::from_millis(5600), "five Machines took {took:?}");
    let says = |set: &MachineSet| {
        let message = status(set).error_message.unwrap_or_default();
        message.contains("end before their kubelets join")
    };
    wait::for_state(&sets(&case), "workers", "backing off", WAIT_TIMEOUT, says).await?;
    deleter.abort();
    ready(&case, "workers", 1).await?;
    let recovered = |set: &MachineSet| status(set).error_message.is_none();
    wait::for_state(&sets(&case), "workers", "recovered", WAIT_TIMEOUT, recovered).await?;
    sets(&case)
        .delete("workers", &kube::api::DeleteParams::default())
        .await?;
    gone(&case, "workers").await?;
    case.finish(&[]).await
}

const NO_MACHINES: &str = "no-machines";

/// A policy of the cluster's admin.
fn refuse_machines() -> Value {
    let group = "admissionregistration.k8s.io/v1";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": NO_MACHINES},
            "spec": {
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["cluster.k8s.io"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["machines"],
                }]},
                "validations": [{
                    "expression": "false", "messageExpression": "'no more Machines like ' + object.metadata.name",
                }],
            },
        },
        {
            "apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": NO_MACHINES},
            "spec": {"policyName": NO_MACHINES, "validationActions": ["Deny"]},
        },
    ]})
}

/// Names of all Machines that sets ever created, by set.
struct CreatedMachines(Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>, Arc<Notify>);

impl CreatedMachines {
    fn record(case: &Case) -> Self {
        let (made, news, machines) = (Arc::default(), Arc::new(Notify::new()), case.machines());
        let record: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>> = Arc::clone(&made);
        let tells = Arc::clone(&news);
        // The task ends with the test's runtime.
        tokio::spawn(async move {
            let mut events = watcher(machines, watcher::Config::default())
                .default_backoff()
                .boxed();
            while let Some(event) = events.next().await {
                let Ok(watcher::Event::Apply(machine) | watcher::Event::InitApply(machine)) = event else {
                    continue;
                };
                if let Some(set) = owner(&machine)
                    && machine.name_any().starts_with(set)
                {
                    let mut made = record.lock().unwrap_or_else(PoisonError::into_inner);
                    made.entry(set.to_owned()).or_default().insert(machine.name_any());
                    tells.notify_one();
                }
            }
        });
        Self(made, news)
    }

    /// Returns when there may be more.
    async fn changed(&self) {
        self.1.notified().await;
    }

    fn of(&self, set: &str) -> BTreeSet<String> {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(set).cloned().unwrap_or_default()
    }
}

/// The finalizer of machine-controller.
const LEASE: &str = "machine-controller";

fn leases(case: &Case) -> Api<Lease> {
    Api::namespaced(case.bed.user().client(), "kube-system")
}

fn holder(lease: &Lease) -> String {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.clone())
        .unwrap_or_default()
}

fn sets(case: &Case) -> Api<MachineSet> {
    Api::namespaced(case.bed.user().client(), manifest::NAMESPACE)
}

fn status(set: &MachineSet) -> MachineSetStatus {
    set.status.clone().unwrap_or_default()
}

fn owner(machine: &Machine) -> Option<&str> {
    machine
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.name.as_str())
}

/// The set's Machines that are not being deleted.
async fn of_set(case: &Case, set: &str) -> Result<Vec<Machine>> {
    let mut machines = case.machines().list(&ListParams::default()).await?.items;
    machines.retain(|machine| owner(machine) == Some(set) && machine.metadata.deletion_timestamp.is_none());
    Ok(machines)
}

/// Waits until the status of the current spec reports exactly so many Machines, all Ready, and compares it with the Machines.
async fn ready(case: &Case, name: &str, count: i32) -> Result<MachineSetStatus> {
    let fits = |set: &MachineSet| {
        let status = status(set);
        set.spec.replicas == Some(count)
            && status.observed_generation == set.metadata.generation
            && (status.replicas, status.ready_replicas) == (Some(count), Some(count))
    };
    let what = format!("ready with {count} Machines");
    let set = wait::for_state(&sets(case), name, &what, WAIT_TIMEOUT * 2, fits).await?;
    // A status may be older than the Machines.
    let there = of_set(case, name).await?;
    for machine in &there {
        case.node_ready(&machine.name_any()).await?;
    }
    let there = there.len();
    anyhow::ensure!(
        usize::try_from(count)? == there,
        "{there} Machines are there, not {count}"
    );
    Ok(status(&set))
}

async fn scale(case: &Case, name: &str, replicas: i32) -> Result<()> {
    let patch = json!({"spec": {"replicas": replicas}});
    sets(case)
        .patch_scale(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .context("cannot write /scale")?;
    Ok(())
}

async fn patch_set(case: &Case, name: &str, patch: Value) -> Result<()> {
    sets(case)
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(())
}

async fn patch(case: &Case, machine: &str, patch: Value) -> Result<()> {
    case.machines()
        .patch(machine, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(())
}

/// Waits until the set and all its objects are gone.
async fn gone(case: &Case, name: &str) -> Result<()> {
    wait::for_absence(&sets(case), name, WAIT_TIMEOUT * 2).await?;
    for machine in of_set(case, name).await? {
        wait::for_absence(&case.machines(), &machine.name_any(), WAIT_TIMEOUT).await?;
    }
    Ok(())
}
