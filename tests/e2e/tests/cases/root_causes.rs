//! Failures on the infra cluster are reported on the Machine with the message of their cause: in a condition and in
//! `kubectl describe`. Prints the time from the event on the infra cluster to the condition.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::{
    Case,
    case::{WAIT_TIMEOUT, message},
    infra, manifest, objects, wait,
};
use k8s_openapi::{api::core::v1::Event, jiff::Timestamp};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::json;
use testbed::{bed::Options, seed::INFRA_NAMESPACE};

/// How long a guest may take to join in these cases.
const JOIN_TIMEOUT: Duration = Duration::from_secs(8);

#[tokio::test]
async fn an_unschedulable_vm() -> Result<()> {
    const CAUSE: &str = "0/3 nodes are available: 3 Insufficient memory.";
    let case = start().await?;
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    apply_with(&case, "crowded", "unschedulable", CAUSE).await?;
    expect_condition(
        &case,
        "crowded",
        event(&vmis, "crowded", CAUSE),
        "Unschedulable",
        CAUSE,
    )
    .await?;
    case.delete_machine("crowded").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_failing_import() -> Result<()> {
    const CAUSE: &str = "expected status code 200, got 404. Status: 404 Not Found";
    let case = start().await?;
    apply_with(&case, "no-image", "import-failing", CAUSE).await?;
    let disks = case.data_volumes();
    let failing = async {
        wait::any(&disks, "a failing import", WAIT_TIMEOUT, |disk| {
            disk.data["status"]["conditions"].to_string().contains(CAUSE)
        })
        .await
    };
    expect_condition(&case, "no-image", failing, "DiskImportFailing", CAUSE).await?;
    case.delete_machine("no-image").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_disk_beyond_the_quota_and_its_recovery() -> Result<()> {
    let case = start().await?;
    infra::quota(&case, "disks", "persistentvolumeclaims", "0", "0").await?;
    case.apply(&manifest::machine("greedy")).await?;
    let disks = case.data_volumes();
    expect_condition(
        &case,
        "greedy",
        event(&disks, "greedy", "ErrExceededQuota"),
        "DiskQuotaExceeded",
        "exceeded quota: disks, requested: persistentvolumeclaims=1",
    )
    .await?;
    let delete = ["delete", "resourcequota", "disks", "-n", INFRA_NAMESPACE];
    case.bed.infra().kubectl_ok(&delete, "").await?;
    case.node_ready("greedy").await?;
    infra::ready(&case, "greedy", "VMRunning").await?;
    case.delete_machine("greedy").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_guest_that_crashes_at_every_start_is_one_cause_and_reported_once() -> Result<()> {
    // A start takes longer than a stage lasts before it is reported.
    let boot = Some(Duration::from_secs(12));
    let case = Case::start_with(Options {
        boot,
        ..Options::default()
    })
    .await?;
    let mut machine = manifest::machine("crashing");
    machine["metadata"]["annotations"] = json!({"sim.kubevirt.io/crash": "before-running"});
    // With a subnet, KubeVirt starts the guest again and again.
    manifest::virtual_machine(&mut machine)["providerNetwork"] =
        json!({"name": "kubeovn", "vpc": {"name": "vpc", "subnet": {"name": "subnet"}}});
    case.apply(&machine).await?;
    let vms = case.vms();
    expect_condition(
        &case,
        "crashing",
        event(&vms, "crashing", "CrashLoopBackOff"),
        "StartFailing",
        "failed to start once",
    )
    .await?;
    // It goes through all stages of a start, and fails again.
    let starting = std::cell::Cell::new(false);
    let fails_again = |machine: &machinist_shared::api::Machine| {
        starting.set(starting.get() || message(machine, "VMStarting").is_some());
        message(machine, "StartFailing").is_some_and(|message| message.contains("failed to start 2 times"))
    };
    wait::for_state(
        &case.machines(),
        "crashing",
        "failing again",
        WAIT_TIMEOUT,
        fails_again,
    )
    .await?;
    assert!(
        !starting.get(),
        "it was reported as starting, without the failure"
    );
    assert_eq!(
        warnings(&case, "crashing", "StartFailing").await?,
        1,
        "reported once"
    );
    case.delete_machine("crashing").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_claim_that_waits_and_its_recovery() -> Result<()> {
    let case = Case::start().await?;
    apply_with(&case, "unbound", "pvc-pending", "true").await?;
    expect_condition(
        &case,
        "unbound",
        event(&case.data_volumes(), "unbound", "Pending"),
        "WaitingForDisk",
        "PVC unbound Pending",
    )
    .await?;
    take_back(&case, "unbound", "pvc-pending").await?;
    case.node_ready("unbound").await?;
    case.delete_machine("unbound").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_guest_without_an_address() -> Result<()> {
    let case = Case::start().await?;
    apply_with(&case, "mute", "no-ip", "true").await?;
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    expect_condition(
        &case,
        "mute",
        event(&vmis, "mute", "Running"),
        "WaitingForAddress",
        "VirtualMachineInstance mute runs, without an address yet",
    )
    .await?;
    case.delete_machine("mute").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_guest_that_never_joins() -> Result<()> {
    let case = start().await?;
    apply_with(&case, "silent", "never-joins", "true").await?;
    // Its time runs from its creation, which the API server tells to the second.
    let created = case
        .machines()
        .get("silent")
        .await?
        .metadata
        .creation_timestamp
        .context("no age")?;
    let left = created.0 + JOIN_TIMEOUT - Timestamp::now();
    let overdue = async {
        tokio::time::sleep(left.try_into()?).await;
        Ok(())
    };
    expect_condition(
        &case,
        "silent",
        overdue,
        "JoinTimeout",
        "the VM runs, but its kubelet did not register",
    )
    .await?;
    // One that stands alone is left to a person, who can look into the guest.
    let machine = case.machines().get("silent").await?;
    assert_eq!(machine.metadata.deletion_timestamp, None);
    assert_eq!(case.vm_history.uids("silent").len(), 1);
    case.delete_machine("silent").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_vm_deleted_behind_the_machines_back() -> Result<()> {
    let case = start().await?;
    case.apply(&manifest::machine("robbed")).await?;
    let machine = case.node_ready("robbed").await?;
    let vms = case.vms();
    let gone = async {
        vms.delete("robbed", &DeleteParams::default()).await?;
        let first = case.vm_history.uids("robbed");
        wait::until(&vms, "robbed", "gone", WAIT_TIMEOUT, |vm| {
            vm.is_none_or(|vm| !first.contains(vm.metadata.uid.as_ref().unwrap_or(&String::new())))
        })
        .await?;
        Ok(())
    };
    expect_condition(&case, "robbed", gone, "VMVanished", "is gone").await?;

    // A standalone Machine gets another VM.
    let first = vm_uid(&machine);
    let is_recreated = |machine: &machinist_shared::api::Machine| {
        let uid = vm_uid(machine);
        uid.is_some() && uid != first
    };
    let recreated = wait::for_state(
        &case.machines(),
        "robbed",
        "recreated",
        WAIT_TIMEOUT,
        is_recreated,
    )
    .await?;
    assert_eq!(recreated.metadata.uid, machine.metadata.uid);
    assert_eq!(case.vm_history.uids("robbed").len(), 2);
    case.delete_machine("robbed").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_launcher_whose_image_cannot_be_pulled() -> Result<()> {
    const CAUSE: &str = "manifest unknown";
    let case = start().await?;
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    apply_with(&case, "pulling", "image-pull", CAUSE).await?;
    expect_condition(
        &case,
        "pulling",
        event(&vmis, "pulling", CAUSE),
        "LauncherImageFailed",
        CAUSE,
    )
    .await?;
    case.delete_machine("pulling").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_paused_guest_and_its_recovery() -> Result<()> {
    const CAUSE: &str = "PausedIOError";
    let case = start().await?;
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    apply_with(&case, "paused", "paused", CAUSE).await?;
    expect_condition(&case, "paused", event(&vmis, "paused", CAUSE), "VMPaused", CAUSE).await?;
    take_back(&case, "paused", "paused").await?;
    case.node_ready("paused").await?;
    infra::ready(&case, "paused", "VMRunning").await?;
    case.delete_machine("paused").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn an_instancetype_that_vanished_after_admission() -> Result<()> {
    let case = start().await?;
    let infra = case.bed.infra();
    // The controller has asked for it by then, and believes for minutes that it is there.
    case.apply(&manifest::machine("before")).await?;
    case.node_ready("before").await?;
    let kind = "virtualmachineclusterinstancetypes.instancetype.kubevirt.io";
    infra.kubectl_ok(&["delete", kind, "standard-2"], "").await?;
    case.apply(&manifest::machine("after")).await?;
    let vms = case.vms();
    expect_condition(
        &case,
        "after",
        event(&vms, "after", "FailedFindInstancetype"),
        "InstancetypeNotFound",
        "standard-2",
    )
    .await?;
    for name in ["before", "after"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

#[tokio::test]
async fn an_instancetype_of_the_other_kind_goes_on_working() -> Result<()> {
    let case = start().await?;
    let mut machine = manifest::machine("mistaken");
    manifest::virtual_machine(&mut machine)["instancetype"]["kind"] = json!("VirtualMachineInstancetype");
    case.apply(&machine).await?;
    case.node_ready("mistaken").await?;
    let vm = case.vms().get("mistaken").await?;
    assert_eq!(
        vm.data["spec"]["instancetype"]["kind"],
        "VirtualMachineClusterInstancetype"
    );
    case.delete_machine("mistaken").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_guest_that_shut_itself_down_fails_its_machine() -> Result<()> {
    let case = start().await?;
    apply_with(&case, "ended", "poweroff", "true").await?;
    let vmis = objects::infra(case.bed.infra().client(), &objects::virtual_machine_instance());
    expect_condition(
        &case,
        "ended",
        event(&vmis, "ended", "Succeeded"),
        "GuestEnded",
        "",
    )
    .await?;
    failed(&case, "ended", "GuestEnded").await?;
    assert_eq!(warnings(&case, "ended", "GuestEnded").await?, 1, "reported once");
    case.delete_machine("ended").await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn a_disk_that_failed_for_good_fails_its_machine() -> Result<()> {
    let case = start().await?;
    apply_with(&case, "broken", "import-failed", "true").await?;
    expect_condition(
        &case,
        "broken",
        event(&case.data_volumes(), "broken", "Failed"),
        "DiskFailed",
        "broken",
    )
    .await?;
    failed(&case, "broken", "DiskFailed").await?;
    assert_eq!(warnings(&case, "broken", "DiskFailed").await?, 1, "reported once");
    case.delete_machine("broken").await?;
    case.finish(&[]).await
}

/// Waits until the Machine says that it cannot heal, to people and to the cluster-autoscaler.
async fn failed(case: &Case, name: &str, reason: &str) -> Result<()> {
    let says = |machine: &machinist_shared::api::Machine| {
        machine.status.as_ref().is_some_and(|status| {
            let has = |text: &Option<String>| text.as_ref().is_some_and(|text| text.starts_with(reason));
            status.phase.as_deref() == Some("Failed")
                && status.error_reason.as_deref() == Some("CreateError")
                && has(&status.error_message)
                && has(&status.failure_message)
        })
    };
    wait::for_state(&case.machines(), name, "Failed", WAIT_TIMEOUT, says).await?;
    Ok(())
}

/// How many Events warn of this, repetitions included.
async fn warnings(case: &Case, name: &str, reason: &str) -> Result<i32> {
    let events: Api<Event> = Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let about = |event: &Event| {
        event.involved_object.name.as_deref() == Some(name)
            && event
                .message
                .as_ref()
                .is_some_and(|message| message.starts_with(reason))
    };
    wait::any(&events, reason, WAIT_TIMEOUT, about).await?;
    case.settled().await;
    let events = events.list(&ListParams::default()).await?.items;
    Ok(events
        .iter()
        .filter(|event| about(event))
        .map(|event| event.count.unwrap_or(1))
        .sum())
}

/// Takes a fault back, on the VM itself.
async fn take_back(case: &Case, name: &str, fault: &str) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {format!("sim.kubevirt.io/{fault}"): "false"}}});
    case.vms()
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

/// Of the VM on record.
fn vm_uid(machine: &machinist_shared::api::Machine) -> Option<String> {
    let status = serde_json::to_value(machine.status.as_ref()?).ok()?;
    Some(status["providerStatus"]["vmUID"].as_str()?.to_owned())
}

async fn start() -> Result<Case> {
    let controller_args = vec![format!("--join-cluster-timeout={}s", JOIN_TIMEOUT.as_secs())];
    Case::start_with(Options {
        controller_args,
        ..Options::default()
    })
    .await
}

/// Applies a Machine whose VM suffers from `fault`.
async fn apply_with(case: &Case, name: &str, fault: &str, value: &str) -> Result<()> {
    let mut machine = manifest::machine(name);
    machine["metadata"]["annotations"] = json!({format!("sim.kubevirt.io/{fault}"): value});
    case.apply(&machine).await?;
    Ok(())
}

/// Returns when the object says this.
async fn event(api: &Api<DynamicObject>, name: &str, text: &str) -> Result<()> {
    wait::for_state(api, name, text, WAIT_TIMEOUT, |object| {
        object.data.to_string().contains(text)
    })
    .await?;
    Ok(())
}

/// Waits for the infra cluster's event and for a condition with this reason, whose message has the cause; both are seen
/// by watches, and `kubectl describe` shows it, too.
async fn expect_condition(
    case: &Case,
    name: &str,
    event: impl Future<Output = Result<()>>,
    reason: &str,
    text: &str,
) -> Result<()> {
    let machines = case.machines();
    let condition = async {
        let found = |machine: &machinist_shared::api::Machine| {
            message(machine, reason).is_some_and(|message| message.contains(text))
        };
        wait::for_state(&machines, name, reason, WAIT_TIMEOUT, found).await?;
        Ok::<_, anyhow::Error>(Instant::now())
    };
    let happened = async {
        event.await?;
        Ok::<_, anyhow::Error>(Instant::now())
    };
    let (happened, reported) = tokio::try_join!(happened, condition)?;
    println!(
        "{reason}: reported {:.0} ms after the infra event",
        reported.saturating_duration_since(happened).as_secs_f64() * 1e3
    );
    let described = case.describe(name).await?;
    // `kubectl describe` breaks no lines, but shows each field on its own.
    let line = described.lines().find(|line| line.contains(text));
    line.with_context(|| format!("not in kubectl describe: {described}"))?;
    anyhow::ensure!(described.contains(reason), "no {reason} in: {described}");
    Ok(())
}
