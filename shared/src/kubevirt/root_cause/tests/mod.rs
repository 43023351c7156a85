//! Every row of KubeVirt's and CDI's tables of states (contract sections 11.1 to 11.5) has its reason.

mod tables;

use std::collections::BTreeSet;

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use tables::{TABLES, rows};

/// A state, and what it comes to.
struct Row {
    /// Table, and row of it.
    id: &'static str,
    strategy: &'static str,
    vm: Value,
    vmi: Value,
    disk: Value,
    reason: Reason,
}

fn state_of(strategy: &str, vm: &Value, vmi: &Value, disk: &Value) -> InfraState {
    state_with(strategy, vm, vmi, false, disk)
}

fn state_with(strategy: &str, vm: &Value, vmi: &Value, is_vmi_deleting: bool, disk: &Value) -> InfraState {
    let vm: VmStatus = serde_json::from_value(vm.clone()).unwrap();
    let vmi: Option<VmiStatus> = serde_json::from_value(vmi.clone()).unwrap();
    let disk: Option<DataVolumeStatus> = serde_json::from_value(disk.clone()).unwrap();
    let disks: Vec<_> = disk.iter().map(|status| ("web-1", status)).collect();
    root_cause(VmView {
        name: "web-1",
        run_strategy: strategy,
        vm: &vm,
        vmi: vmi.as_ref(),
        is_vmi_deleting,
        disks: &disks,
    })
}

/// `status.printableStatus` of a VM.
fn printed(status: &str) -> Value {
    json!({"printableStatus": status})
}

/// A phase of a VMI or DataVolume.
fn phase(phase: &str) -> Value {
    json!({"phase": phase})
}

fn running() -> Value {
    json!({"phase": "Running", "interfaces": [{"name": "default", "ipAddress": "10.0.0.7"}]})
}

trait With {
    /// With one more condition.
    fn with(self, kind: &str, status: &str, reason: &str, message: &str) -> Self;
}

impl With for Value {
    fn with(mut self, kind: &str, status: &str, reason: &str, message: &str) -> Self {
        let condition = json!({"type": kind, "status": status, "reason": reason, "message": message});
        match self["conditions"].as_array_mut() {
            Some(conditions) => conditions.push(condition),
            None => self["conditions"] = json!([condition]),
        }
        self
    }
}

fn row(id: &'static str, vm: Value, vmi: Value, disk: Value, reason: Reason) -> Row {
    Row {
        id,
        strategy: "Once",
        vm,
        vmi,
        disk,
        reason,
    }
}

fn always(row: Row) -> Row {
    Row {
        strategy: "Always",
        ..row
    }
}

impl Row {
    /// With one more condition of the VMI that is False.
    fn also(mut self, kind: &str, reason: &str) -> Self {
        self.vmi = self.vmi.with(kind, "False", reason, "");
        self
    }
}

#[test]
fn each_row_of_each_table_has_its_reason() {
    for row in rows() {
        let state = state_of(row.strategy, &row.vm, &row.vmi, &row.disk);
        assert_eq!(state.reason, row.reason, "{}: {}", row.id, state.message);
        let terminal = [
            "11.1/CrashLoopBackOff-Once",
            "11.1/Stopped-after-a-run",
            "11.3/Succeeded-Once",
            "11.3/Failed-Once",
            "11.5/Failed",
        ];
        assert_eq!(state.is_terminal(), terminal.contains(&row.id), "{}", row.id);
        assert!(state.message.contains("web-1"), "{}: {}", row.id, state.message);
    }
}

#[test]
fn no_row_of_the_tables_is_missing() {
    let rows = rows();
    let have: BTreeSet<String> = rows.iter().map(|row| row.id.to_owned()).collect();
    assert_eq!(have.len(), rows.len(), "an id is there twice");
    let want: BTreeSet<String> = TABLES
        .iter()
        .flat_map(|(table, ids)| ids.iter().map(move |id| format!("{table}/{id}")))
        .collect();
    assert_eq!(have, want);
}

/// Section 11.6: with everything wrong at once, the first step speaks; take its cause away, and the next one does.
#[test]
fn the_earlier_step_speaks() {
    let mut vm = printed("Running").with("Failure", "True", "FailedCreate", "no");
    let mut vmi = phase("Running")
        .with("Synchronized", "False", "FailedCreate", "no")
        .with("PodScheduled", "False", "Unschedulable", "no")
        .with("Paused", "True", "PausedByUser", "");
    let mut disk = phase("Failed").with("Running", "False", "Error", "no");
    let mut order = Vec::new();
    let heal = |status: &mut Value, kind: &str| {
        let conditions = status["conditions"].as_array_mut().unwrap();
        conditions.retain(|condition| condition["type"] != kind);
    };
    let mut note = |vm: &Value, vmi: &Value, disk: &Value| order.push(state_of("Once", vm, vmi, disk).reason);
    note(&vm, &vmi, &disk);
    heal(&mut vm, "Failure");
    note(&vm, &vmi, &disk);
    disk["phase"] = json!("ImportInProgress");
    note(&vm, &vmi, &disk);
    heal(&mut disk, "Running");
    vmi["phase"] = json!("Scheduling");
    note(&vm, &vmi, &disk);
    disk["phase"] = json!("Succeeded");
    note(&vm, &vmi, &disk);
    heal(&mut vmi, "Synchronized");
    note(&vm, &vmi, &disk);
    heal(&mut vmi, "PodScheduled");
    vmi["phase"] = json!("Failed");
    note(&vm, &vmi, &disk);
    vmi["phase"] = json!("Running");
    note(&vm, &vmi, &disk);
    heal(&mut vmi, "Paused");
    note(&vm, &vmi, &disk);
    vmi["interfaces"] = running()["interfaces"].clone();
    note(&vm, &vmi, &disk);
    assert_eq!(
        order,
        [
            Reason::VMFailure,
            Reason::DiskFailed,
            Reason::DiskImportFailing,
            Reason::ImportingDisk,
            Reason::LauncherFailed,
            Reason::Unschedulable,
            Reason::GuestEnded,
            Reason::VMPaused,
            Reason::WaitingForAddress,
            Reason::VMRunning,
        ]
    );
}

#[rstest]
#[case::for_a_moment("Migrating", "PausedByMigrationMonitor", Reason::VMRunning)]
#[case::as_it_was_before("Migrating", "PausedByUser", Reason::VMRunning)]
#[case::its_disk_is_gone("Migrating", "PausedIOError", Reason::VMPaused)]
#[case::after_all("Paused", "PausedByMigrationMonitor", Reason::VMPaused)]
fn a_live_migration_is_no_trouble(#[case] status: &str, #[case] why: &str, #[case] reason: Reason) {
    let vmi = running().with("Paused", "True", why, "");
    assert_eq!(
        state_of("Once", &printed(status), &vmi, &json!(null)).reason,
        reason
    );
}

#[test]
fn an_end_is_the_end_and_tells_what_was_wrong_before() {
    let vmi = phase("Failed").with(
        "Synchronized",
        "False",
        "FailedGuaranteeResources",
        "no huge pages",
    );
    let state = state_of("Once", &json!({}), &vmi, &json!(null));
    assert!(state.is_terminal());
    assert_eq!(
        state.message,
        "VirtualMachineInstance web-1 is Failed: the guest crashed or its host was lost; runStrategy Once does not restart it; before that, VirtualMachineInstance web-1: FailedGuaranteeResources: no huge pages"
    );
}

#[rstest]
#[case("Once", "Succeeded", Reason::GuestEnded)]
#[case("Once", "Failed", Reason::GuestEnded)]
#[case("Manual", "Failed", Reason::GuestEnded)]
#[case("RerunOnFailure", "Succeeded", Reason::GuestEnded)]
#[case("RerunOnFailure", "Failed", Reason::StartFailing)]
#[case("Always", "Succeeded", Reason::StartFailing)]
#[case("Halted", "Failed", Reason::VMHalted)]
fn the_run_strategy_decides_what_an_end_means(
    #[case] strategy: &str,
    #[case] end: &str,
    #[case] reason: Reason,
) {
    assert_eq!(
        state_of(strategy, &json!({}), &phase(end), &json!(null)).reason,
        reason
    );
}

/// `kubectl delete vmi`: the VMI stays final until its pod is gone, and KubeVirt starts the VM again.
#[rstest]
#[case::once_after_a_shutdown("Once", "Succeeded", Reason::VMStopping)]
#[case::once_after_a_crash("Once", "Failed", Reason::VMStopping)]
#[case::rerun_on_failure("RerunOnFailure", "Succeeded", Reason::VMStopping)]
#[case::always("Always", "Failed", Reason::VMStopping)]
#[case::manual("Manual", "Succeeded", Reason::VMStopping)]
#[case::halted("Halted", "Succeeded", Reason::VMHalted)]
#[case::before_it_is_final("Once", "Running", Reason::VMStopping)]
fn the_end_of_an_instance_that_is_being_deleted_is_not_the_end(
    #[case] strategy: &str,
    #[case] end: &str,
    #[case] reason: Reason,
) {
    // KubeVirt shows Stopping until the VMI is final, and Stopped from then on.
    let shown = if end == "Running" { "Stopping" } else { "Stopped" };
    let state = state_with(strategy, &printed(shown), &phase(end), true, &json!(null));
    assert_eq!(
        (state.reason, state.is_terminal()),
        (reason, false),
        "{}",
        state.message
    );
}

/// KubeVirt deletes an instance that failed to start, and creates another.
#[rstest]
#[case::before_its_guest_ran(&["Scheduled", "Failed"], 0)]
#[case::after_its_guest_ran(&["Scheduled", "Running", "Failed"], 2)]
fn a_start_that_fails_stays_one_cause_while_its_instance_is_deleted(
    #[case] phases: &[&str],
    #[case] failures: i64,
) {
    let mut vmi = phase("Failed");
    vmi["phaseTransitionTimestamps"] = phases.iter().map(|phase| json!({"phase": phase})).collect();
    let vm = json!({"startFailure": {"consecutiveFailCount": failures}});
    for is_deleting in [false, true] {
        let state = state_with("Always", &vm, &vmi, is_deleting, &json!(null));
        assert_eq!(state.reason, Reason::StartFailing, "{}", state.message);
    }
}

#[rstest]
#[case::that_waited_for_a_host(&["Pending", "Scheduling", "Failed"], "it ended before its guest ran")]
#[case::that_had_a_host(&["Pending", "Scheduling", "Scheduled", "Failed"], "it ended before its guest ran")]
#[case::that_ran(&["Scheduled", "Running", "Failed"], "the guest crashed or its host was lost")]
#[case::whose_phases_are_not_recorded(&[], "the guest crashed or its host was lost")]
fn a_guest_crashes_only_if_it_ran(#[case] phases: &[&str], #[case] how: &str) {
    let mut vmi = phase("Failed");
    vmi["phaseTransitionTimestamps"] = phases.iter().map(|phase| json!({"phase": phase})).collect();
    let state = state_of("Once", &json!({}), &vmi, &json!(null));
    assert!(state.is_terminal());
    assert!(state.message.contains(how), "{}", state.message);
}

#[rstest]
#[case::import(json!({"phase": "ImportInProgress", "progress": "42.31%"}), "DataVolume web-1 is ImportInProgress, 40 % done")]
#[case::one_restart(json!({"phase": "ImportInProgress", "restartCount": 1}), "DataVolume web-1 is ImportInProgress (the importer was restarted once)")]
#[case::no_progress_yet(json!({"phase": "ImportScheduled", "progress": "N/A"}), "DataVolume web-1 is ImportScheduled")]
#[case::claim(phase("Pending").with("Bound", "False", "Pending", "no volume yet"), "DataVolume web-1 is Pending: Pending: no volume yet")]
#[case::restarts(json!({"phase": "ImportInProgress", "restartCount": 4}), "DataVolume web-1: is ImportInProgress (the importer was restarted 4 times)")]
#[case::for_good(phase("Failed").with("Running", "False", "ChecksumError", "want a, got b"), "DataVolume web-1 failed permanently: ChecksumError: want a, got b")]
#[case::claim_behind_a_pod_that_is_done(phase("Failed").with("Running", "False", "Completed", "Import Complete").with("Bound", "False", "ClaimLost", "no volume left"), "DataVolume web-1 failed permanently: ClaimLost: no volume left")]
#[case::pod_before_a_claim(phase("Failed").with("Running", "False", "Error", "404").with("Bound", "False", "Pending", ""), "DataVolume web-1 failed permanently: Error: 404")]
#[case::nothing_but_a_pod_that_is_done(phase("Failed").with("Running", "False", "Completed", "Import Complete"), "DataVolume web-1 failed permanently: Completed: Import Complete")]
#[case::no_claim_could_be_made(phase("Pending").with("Bound", "Unknown", "ErrClaimNotValid", "no access mode"), "DataVolume web-1: ErrClaimNotValid: no access mode")]
#[case::nothing_known_yet(phase("Pending").with("Bound", "Unknown", "NotFound", "No PVC found"), "DataVolume web-1 is Pending")]
fn disks_are_reported_in_their_own_words(#[case] disk: Value, #[case] message: &str) {
    let state = state_of("Once", &printed("Provisioning"), &json!(null), &disk);
    assert_eq!(state.message, message);
}

/// CDI passes on the kubelet's reasons as they are, and joins those of a clone's two pods.
#[rstest]
#[case::missing_secret("CreateContainerConfigError", Reason::DiskImportFailing)]
#[case::container_not_created("CreateContainerError", Reason::DiskImportFailing)]
#[case::container_not_started("RunContainerError", Reason::DiskImportFailing)]
#[case::start_error("StartError", Reason::DiskImportFailing)]
#[case::cannot_run("ContainerCannotRun", Reason::DiskImportFailing)]
#[case::lost_status("ContainerStatusUnknown", Reason::DiskImportFailing)]
#[case::deadline("DeadlineExceeded", Reason::DiskImportFailing)]
#[case::pod_not_made("ErrStartingPod", Reason::DiskImportFailing)]
#[case::unheard_of("SomethingNew", Reason::DiskImportFailing)]
#[case::image_without_started("ImagePullBackOff", Reason::DiskImageNotFound)]
#[case::image_name("InvalidImageName", Reason::DiskImageNotFound)]
#[case::image_never_pulled("ErrImageNeverPull", Reason::DiskImageNotFound)]
#[case::image_not_inspected("ImageInspectError", Reason::DiskImageNotFound)]
#[case::image_not_signed("SignatureValidationFailed", Reason::DiskImageNotFound)]
#[case::source_of_a_clone("ContainerCreating and CreateContainerError", Reason::DiskImportFailing)]
#[case::target_of_a_clone("Error and Pod is running", Reason::DiskImportFailing)]
#[case::both_of_a_clone_on_the_way("ContainerCreating and PodInitializing", Reason::ImportingDisk)]
#[case::initializing("PodInitializing", Reason::ImportingDisk)]
#[case::clone_pending("Pending", Reason::ImportingDisk)]
#[case::populator("Populator is running", Reason::ImportingDisk)]
#[case::nothing_said("", Reason::ImportingDisk)]
fn trouble_of_the_importer_is_no_progress(#[case] why: &str, #[case] reason: Reason) {
    let disk = phase("ImportScheduled").with("Running", "False", why, "secret \"nosuch\" not found");
    let state = state_of("Once", &printed("Provisioning"), &json!(null), &disk);
    assert_eq!(state.reason, reason, "{}", state.message);
    let speaks = state.message.contains("secret \"nosuch\" not found");
    assert_eq!(speaks, reason != Reason::ImportingDisk, "{}", state.message);
    assert_eq!(state.is_unconfirmed, why == "ErrStartingPod");
}

#[rstest]
#[case::first_try(json!({"phase": "ImportInProgress", "progress": "N/A"}), false)]
#[case::without_progress(json!({"phase": "ImportInProgress", "progress": "N/A", "restartCount": 1}), true)]
#[case::at_nought(json!({"phase": "ImportInProgress", "progress": "0.00%", "restartCount": 2}), true)]
#[case::of_one_that_fails_again_and_again(json!({"phase": "ImportInProgress", "restartCount": 4}), true)]
#[case::that_copies(json!({"phase": "ImportInProgress", "progress": "3.10%", "restartCount": 1}), false)]
#[case::that_is_done(json!({"phase": "Succeeded", "progress": "100.0%", "restartCount": 1}), false)]
fn an_importer_that_was_restarted_tries_again_until_it_copies(#[case] disk: Value, #[case] is_retry: bool) {
    let disk = disk.with("Running", "True", "Pod is running", "");
    let state = state_of("Once", &printed("Provisioning"), &json!(null), &disk);
    assert_eq!(state.is_retry, is_retry, "{}", state.message);
}

#[test]
fn the_schedulers_words_reach_the_person() {
    let vm = json!({}).with(
        "PodScheduled",
        "False",
        "Unschedulable",
        "0/1 nodes are available: 1 Insufficient memory.",
    );
    let state = state_of("Once", &vm, &phase("Scheduling"), &json!(null));
    assert_eq!(
        state.message,
        "VirtualMachineInstance web-1: 0/1 nodes are available: 1 Insufficient memory."
    );
}

#[test]
fn a_failed_disk_is_reported_before_one_that_can_recover() {
    let failing: DataVolumeStatus =
        serde_json::from_value(phase("ImportInProgress").with("Running", "False", "Error", "404")).unwrap();
    let failed: DataVolumeStatus = serde_json::from_value(phase("Failed")).unwrap();
    let state = root_cause(VmView {
        name: "web-1",
        run_strategy: "Once",
        vm: &VmStatus::default(),
        vmi: None,
        is_vmi_deleting: false,
        disks: &[("web-1", &failing), ("web-1-secondarydisk0", &failed)],
    });
    assert_eq!(
        state.message,
        "DataVolume web-1-secondarydisk0 failed permanently"
    );
}

#[test]
fn no_reason_is_left_out() {
    let places: Vec<_> = Reason::ALL.iter().map(|reason| *reason as usize).collect();
    assert_eq!(places, (0..=Reason::GuestEnded as usize).collect::<Vec<_>>());
}
