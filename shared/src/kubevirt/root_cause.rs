//! Why a VM does not run: one reason from a closed list, and a message for a person.
//!
//! The order is that of a search for the root cause: the VM's own failure, then its disks, then the launcher pod, then
//! the guest. A transient cause heals when its own cause goes away; a terminal one does not.

use super::observed::{Condition, DataVolumeStatus, VmStatus, VmiStatus, find};

/// Why a VM does not run, or that it does. The names are the texts of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reason {
    VMRunning,
    // On the way.
    VMStarting,
    ImportingDisk,
    WaitingForDisk,
    WaitingForAddress,
    VMStopping,
    // In the way, but it can heal.
    VMFailure,
    DiskImportFailing,
    DiskImageNotFound,
    DiskQuotaExceeded,
    DiskUnschedulable,
    Unschedulable,
    DiskNotFound,
    LauncherImageFailed,
    LauncherFailed,
    StartFailing,
    VMPaused,
    VMUnknown,
    VMHalted,
    // For good.
    DiskFailed,
    GuestEnded,
}

/// What a VM's state comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfraState {
    /// Which of the closed list.
    pub reason: Reason,
    /// For a person: the object, and its own words.
    pub message: String,
}

impl InfraState {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// It runs.
    pub fn is_ready(&self) -> bool {
        self.reason == Reason::VMRunning
    }

    /// It cannot heal.
    pub fn is_terminal(&self) -> bool {
        matches!(self.reason, Reason::DiskFailed | Reason::GuestEnded)
    }

    /// A stage that every VM passes.
    pub fn is_progress(&self) -> bool {
        matches!(
            self.reason,
            Reason::VMStarting
                | Reason::ImportingDisk
                | Reason::WaitingForDisk
                | Reason::WaitingForAddress
                | Reason::VMStopping
        )
    }
}

/// What is observed of a VM.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// Its name.
    pub name: &'a str,
    /// `spec.runStrategy`.
    pub run_strategy: &'a str,
    /// The VM's status.
    pub vm: &'a VmStatus,
    /// The VMI's status, if there is a VMI.
    pub vmi: Option<&'a VmiStatus>,
    /// Its DataVolumes, by name.
    pub disks: &'a [(&'a str, &'a DataVolumeStatus)],
}

/// The root cause of what keeps a VM from running.
pub fn root_cause(sight: Sight<'_>) -> InfraState {
    vm_failure(sight)
        .or_else(|| guest_ended(sight))
        .or_else(|| disks(sight))
        .or_else(|| launcher(sight))
        .or_else(|| paused(sight))
        .unwrap_or_else(|| stage(sight))
}

fn said(condition: &Condition) -> String {
    match (condition.reason.as_str(), condition.message.as_str()) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

fn vm_failure(sight: Sight<'_>) -> Option<InfraState> {
    let failure = find(&sight.vm.conditions, "Failure", "True")?;
    Some(InfraState::new(
        Reason::VMFailure,
        format!("VirtualMachine {}: {}", sight.name, said(failure)),
    ))
}

/// Under Once nothing restarts a guest that has ended; so it is the end of the VM.
fn guest_ended(sight: Sight<'_>) -> Option<InfraState> {
    let vmi = sight.vmi?;
    if sight.run_strategy == "Always" || !vmi.is_final() {
        return None;
    }
    let how = if vmi.phase == "Succeeded" {
        "the guest shut itself down"
    } else {
        "the guest crashed or its host was lost"
    };
    let why = if vmi.reason.is_empty() {
        String::new()
    } else {
        format!(" ({})", vmi.reason)
    };
    let message = format!(
        "VirtualMachineInstance {} is {}: {how}{why}; under runStrategy {} nothing starts it again",
        sight.name, vmi.phase, sight.run_strategy
    );
    Some(InfraState::new(Reason::GuestEnded, message))
}

fn disks(sight: Sight<'_>) -> Option<InfraState> {
    let trouble = sight
        .disks
        .iter()
        .find_map(|(name, status)| disk_trouble(name, status));
    trouble.or_else(|| {
        let (name, status) = sight.disks.iter().find(|(_, status)| is_importing(status))?;
        let progress = match status.progress.as_str() {
            "" | "N/A" => String::new(),
            progress => format!(", {} done", tens(progress)),
        };
        let phase = if status.phase.is_empty() {
            "Pending"
        } else {
            &status.phase
        };
        let moving = phase.ends_with("InProgress") || phase.ends_with("Scheduled");
        let reason = if moving {
            Reason::ImportingDisk
        } else {
            Reason::WaitingForDisk
        };
        Some(InfraState::new(
            reason,
            format!("DataVolume {name} is {phase}{progress}"),
        ))
    })
}

fn disk_trouble(name: &str, status: &DataVolumeStatus) -> Option<InfraState> {
    let running = find(&status.conditions, "Running", "False");
    if status.phase == "Failed" {
        let why = running
            .map(said)
            .filter(|why| !why.is_empty())
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        return Some(InfraState::new(
            Reason::DiskFailed,
            format!("DataVolume {name} has failed for good{why}"),
        ));
    }
    let quota = ["Bound", "Running"].into_iter().find_map(|kind| {
        status
            .conditions
            .iter()
            .find(|c| c.kind == kind && c.status != "True" && c.reason == "ErrExceededQuota")
    });
    if let Some(quota) = quota {
        return Some(InfraState::new(
            Reason::DiskQuotaExceeded,
            format!("DataVolume {name}: {}", said(quota)),
        ));
    }
    if let Some(running) = running {
        let reason = match running.reason.as_str() {
            "Error" | "ChecksumError" | "OOMKilled" => Some(Reason::DiskImportFailing),
            "ImagePullFailed" => Some(Reason::DiskImageNotFound),
            "Unschedulable" => Some(Reason::DiskUnschedulable),
            _ => None,
        };
        if let Some(reason) = reason {
            let retries = match status.restart_count {
                0 => String::new(),
                count => format!(" (restarted {count} times)"),
            };
            return Some(InfraState::new(
                reason,
                format!("DataVolume {name}: {}{retries}", said(running)),
            ));
        }
    }
    let bound = find(&status.conditions, "Bound", "False").filter(|bound| {
        !matches!(
            bound.reason.as_str(),
            "" | "Pending" | "Claim Pending" | "NotFound"
        )
    })?;
    Some(InfraState::new(
        Reason::DiskImportFailing,
        format!("DataVolume {name}: {}", said(bound)),
    ))
}

fn is_importing(status: &DataVolumeStatus) -> bool {
    !matches!(
        status.phase.as_str(),
        "Succeeded" | "WaitForFirstConsumer" | "PendingPopulation"
    )
}

/// `42.31%` → `40 %`: progress is told in steps of ten.
fn tens(progress: &str) -> String {
    let percent: f64 = progress.trim_end_matches('%').parse().unwrap_or_default();
    format!("{:.0} %", (percent / 10.0).floor() * 10.0)
}

fn launcher(sight: Sight<'_>) -> Option<InfraState> {
    let (vm, vmi) = (
        &sight.vm.conditions,
        sight.vmi.map(|vmi| vmi.conditions.as_slice()).unwrap_or_default(),
    );
    let seen = |kind: &str| find(vmi, kind, "False").or_else(|| find(vm, kind, "False"));
    if let Some(synchronized) = seen("Synchronized") {
        let reason = match synchronized.reason.as_str() {
            "ErrImagePull" | "ImagePullBackOff" => Reason::LauncherImageFailed,
            "FailedPvcNotFound" => Reason::DiskNotFound,
            _ => Reason::LauncherFailed,
        };
        let message = format!("VirtualMachineInstance {}: {}", sight.name, said(synchronized));
        return Some(InfraState::new(reason, message));
    }
    let unscheduled = seen("PodScheduled").filter(|c| c.reason == "Unschedulable")?;
    Some(InfraState::new(
        Reason::Unschedulable,
        format!("VirtualMachineInstance {}: {}", sight.name, unscheduled.message),
    ))
}

fn paused(sight: Sight<'_>) -> Option<InfraState> {
    let conditions = sight.vmi.map(|vmi| vmi.conditions.as_slice()).unwrap_or_default();
    let paused =
        find(conditions, "Paused", "True").or_else(|| find(&sight.vm.conditions, "Paused", "True"))?;
    Some(InfraState::new(
        Reason::VMPaused,
        format!(
            "VirtualMachineInstance {} is paused: {}",
            sight.name,
            said(paused)
        ),
    ))
}

fn stage(sight: Sight<'_>) -> InfraState {
    let name = sight.name;
    if let Some(vmi) = sight.vmi {
        return match vmi.phase.as_str() {
            "Running" if vmi.addresses().is_empty() => InfraState::new(
                Reason::WaitingForAddress,
                format!("VirtualMachineInstance {name} runs, without an address yet"),
            ),
            "Running" => InfraState::new(Reason::VMRunning, format!("VirtualMachineInstance {name} runs")),
            "Unknown" => InfraState::new(
                Reason::VMUnknown,
                format!("the host of VirtualMachineInstance {name} cannot be reached"),
            ),
            "Succeeded" | "Failed" => InfraState::new(
                Reason::StartFailing,
                format!(
                    "VirtualMachineInstance {name} is {}; it is started again",
                    vmi.phase
                ),
            ),
            phase => {
                let phase = if phase.is_empty() { "Pending" } else { phase };
                InfraState::new(
                    Reason::VMStarting,
                    format!("VirtualMachineInstance {name} is {phase}"),
                )
            }
        };
    }
    let status = sight.vm.printable_status.as_str();
    let failures = sight
        .vm
        .start_failure
        .as_ref()
        .map_or(0, |failure| failure.consecutive_fail_count);
    match status {
        "CrashLoopBackOff" => InfraState::new(
            Reason::StartFailing,
            format!("VirtualMachine {name} failed to start {failures} times"),
        ),
        "DataVolumeError" => InfraState::new(
            Reason::DiskImportFailing,
            format!("VirtualMachine {name} reports DataVolumeError"),
        ),
        "ErrorUnschedulable" => InfraState::new(
            Reason::Unschedulable,
            format!("VirtualMachine {name} cannot be scheduled"),
        ),
        "ErrorPvcNotFound" => InfraState::new(
            Reason::DiskNotFound,
            format!("a disk of VirtualMachine {name} does not exist"),
        ),
        "ErrImagePull" | "ImagePullBackOff" => InfraState::new(
            Reason::LauncherImageFailed,
            format!("VirtualMachine {name} reports {status}"),
        ),
        "Stopping" | "Terminating" => {
            InfraState::new(Reason::VMStopping, format!("VirtualMachine {name} is {status}"))
        }
        "Unknown" => InfraState::new(
            Reason::VMUnknown,
            format!("nobody knows the state of VirtualMachine {name}"),
        ),
        // The first status that KubeVirt ever writes is Stopped: with a guest that is to run, it means "not yet".
        _ if sight.run_strategy == "Halted" => InfraState::new(
            Reason::VMHalted,
            format!("VirtualMachine {name} was halted (runStrategy Halted)"),
        ),
        "" | "Stopped" => InfraState::new(Reason::VMStarting, format!("VirtualMachine {name} was accepted")),
        status => InfraState::new(Reason::VMStarting, format!("VirtualMachine {name} is {status}")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn judge(strategy: &str, vm: Value, vmi: Value, disk: Value) -> InfraState {
        let vm: VmStatus = serde_json::from_value(vm).unwrap();
        let vmi: Option<VmiStatus> = serde_json::from_value(vmi).unwrap();
        let disk: Option<DataVolumeStatus> = serde_json::from_value(disk).unwrap();
        let disks: Vec<_> = disk.iter().map(|status| ("web-1", status)).collect();
        root_cause(Sight {
            name: "web-1",
            run_strategy: strategy,
            vm: &vm,
            vmi: vmi.as_ref(),
            disks: &disks,
        })
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]})
    }

    fn with(mut value: Value, more: &Value) -> Value {
        value
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        value
    }

    #[rstest]
    #[case::no_status_yet(json!({}), json!(null), json!(null), Reason::VMStarting)]
    #[case::the_first_status_ever(json!({"printableStatus": "Stopped"}), json!(null), json!(null), Reason::VMStarting)]
    #[case::importing(json!({"printableStatus": "Provisioning"}), json!(null), json!({"phase": "ImportInProgress", "progress": "42.31%"}), Reason::ImportingDisk)]
    #[case::disk_pending(json!({"printableStatus": "Provisioning"}), json!(null), json!({"phase": "Pending"}), Reason::WaitingForDisk)]
    #[case::first_consumer(json!({"printableStatus": "Starting"}), json!({"phase": "Pending"}), json!({"phase": "WaitForFirstConsumer"}), Reason::VMStarting)]
    #[case::import_error(json!({"printableStatus": "DataVolumeError"}), json!(null), with(condition("Running", "False", "Error", "404"), &json!({"phase": "ImportInProgress"})), Reason::DiskImportFailing)]
    #[case::image_pull(json!({"printableStatus": "DataVolumeError"}), json!(null), condition("Running", "False", "ImagePullFailed", "no such image"), Reason::DiskImageNotFound)]
    #[case::disk_failed(json!({}), json!(null), json!({"phase": "Failed"}), Reason::DiskFailed)]
    #[case::disk_quota(json!({}), json!(null), condition("Bound", "Unknown", "ErrExceededQuota", "exceeded quota"), Reason::DiskQuotaExceeded)]
    #[case::importer_unschedulable(json!({}), json!(null), condition("Running", "False", "Unschedulable", "no node"), Reason::DiskUnschedulable)]
    #[case::claim_lost(json!({}), json!(null), condition("Bound", "False", "ClaimLost", "lost"), Reason::DiskImportFailing)]
    #[case::claim_pending(json!({}), json!(null), condition("Bound", "False", "Pending", "PVC is pending"), Reason::WaitingForDisk)]
    #[case::instancetype(condition("Failure", "True", "FailedFindInstancetype", "not found"), json!(null), json!(null), Reason::VMFailure)]
    #[case::unschedulable_on_the_vm(condition("PodScheduled", "False", "Unschedulable", "0/1 nodes"), json!({"phase": "Scheduling"}), json!({"phase": "Succeeded"}), Reason::Unschedulable)]
    #[case::unschedulable_on_the_vmi(json!({}), with(condition("PodScheduled", "False", "Unschedulable", "0/1 nodes"), &json!({"phase": "Scheduling"})), json!(null), Reason::Unschedulable)]
    #[case::launcher_image(json!({}), with(condition("Synchronized", "False", "ErrImagePull", "rpc"), &json!({"phase": "Scheduling"})), json!(null), Reason::LauncherImageFailed)]
    #[case::claim_missing(json!({}), with(condition("Synchronized", "False", "FailedPvcNotFound", "PVC a/b does not exist"), &json!({"phase": "Pending"})), json!(null), Reason::DiskNotFound)]
    #[case::launcher_refused(json!({}), with(condition("Synchronized", "False", "FailedCreate", "quota"), &json!({"phase": "Pending"})), json!(null), Reason::LauncherFailed)]
    #[case::scheduled(json!({"printableStatus": "Starting"}), json!({"phase": "Scheduled"}), json!({"phase": "Succeeded"}), Reason::VMStarting)]
    #[case::running_without_address(json!({"printableStatus": "Running"}), json!({"phase": "Running"}), json!(null), Reason::WaitingForAddress)]
    #[case::running(json!({"printableStatus": "Running"}), json!({"phase": "Running", "interfaces": [{"name": "default", "ipAddress": "10.0.0.7"}]}), json!(null), Reason::VMRunning)]
    #[case::paused(json!({}), with(condition("Paused", "True", "PausedIOError", "io"), &json!({"phase": "Running"})), json!(null), Reason::VMPaused)]
    #[case::powered_off(json!({"printableStatus": "Stopped"}), json!({"phase": "Succeeded"}), json!(null), Reason::GuestEnded)]
    #[case::crashed(json!({"printableStatus": "Stopped"}), json!({"phase": "Failed", "reason": "NodeUnresponsive"}), json!(null), Reason::GuestEnded)]
    #[case::host_unknown(json!({}), json!({"phase": "Unknown"}), json!(null), Reason::VMUnknown)]
    #[case::crash_loop(json!({"printableStatus": "CrashLoopBackOff", "startFailure": {"consecutiveFailCount": 3}}), json!(null), json!(null), Reason::StartFailing)]
    #[case::terminating(json!({"printableStatus": "Terminating"}), json!(null), json!(null), Reason::VMStopping)]
    fn each_state_has_its_reason(
        #[case] vm: Value,
        #[case] vmi: Value,
        #[case] disk: Value,
        #[case] reason: Reason,
    ) {
        assert_eq!(judge("Once", vm, vmi, disk).reason, reason);
    }

    #[test]
    fn under_always_a_guest_that_ended_is_started_again() {
        let state = judge("Always", json!({}), json!({"phase": "Failed"}), json!(null));
        assert_eq!((state.reason, state.is_terminal()), (Reason::StartFailing, false));
    }

    #[test]
    fn progress_is_told_in_steps_of_ten() {
        let state = judge(
            "Once",
            json!({}),
            json!(null),
            json!({"phase": "ImportInProgress", "progress": "42.31%"}),
        );
        assert_eq!(state.message, "DataVolume web-1 is ImportInProgress, 40 % done");
    }

    #[test]
    fn the_schedulers_words_reach_the_person() {
        let vm = condition(
            "PodScheduled",
            "False",
            "Unschedulable",
            "0/1 nodes are available: 1 Insufficient memory.",
        );
        let state = judge("Once", vm, json!({"phase": "Scheduling"}), json!(null));
        assert!(state.message.contains("Insufficient memory"), "{}", state.message);
    }
}
