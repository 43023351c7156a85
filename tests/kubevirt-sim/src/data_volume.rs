//! CDI: DataVolumes and their claims, phase by phase.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::instancetype::quantity;
use crate::objects::{Kind, controlled_by, controller_of, deleting, list, object, stamp, text};
use crate::plan::{Clock, Plan, Write};

/// Keeps a claim while a pod uses it.
const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Part of the import before its first byte.
const SCHEDULING: f64 = 0.2;
/// Progress is reported about this often, between twice and ten times per import.
const STEP: Duration = Duration::from_millis(150);

/// How long an importer works before it fails, and how long it is not started again then. Kubelets begin with ten seconds.
const FAILS_AFTER: Duration = Duration::from_millis(300);
const BACK_OFF: Duration = Duration::from_secs(3);

/// How a StorageClass provisions volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Class {
    /// By a CSI driver: CDI fills a temporary claim and finally rebinds its volume.
    pub csi: bool,
    /// Only when a pod uses the claim.
    pub waits: bool,
}

/// What a DataVolume depends on.
#[derive(Debug)]
pub struct DataVolumeInputs<'a> {
    /// The DataVolume.
    pub data_volume: &'a DynamicObject,
    /// The claim of its name.
    pub claim: Option<&'a DynamicObject>,
    /// Why the API server refused its creation the last time.
    pub over_quota: Option<&'a str>,
    /// Whether the source of a clone exists; true for any other source.
    pub source_exists: bool,
    /// How its StorageClass provisions volumes.
    pub class: Class,
    /// Whether a VMI uses the claim.
    pub consumer: bool,
    /// The claim that is filled on behalf of [`Self::claim`].
    pub prime: Option<&'a DynamicObject>,
    /// Faults of the VM, or of the DataVolume itself.
    pub faults: &'a Faults,
    /// How long an import takes.
    pub import: Duration,
}

/// Whether KubeVirt starts a VM on this DataVolume.
pub fn ready(data_volume: &DynamicObject) -> bool {
    matches!(
        text(data_volume, "/status/phase"),
        Some("Succeeded" | "WaitForFirstConsumer" | "PendingPopulation")
    )
}

/// KubeVirt's message about a missing importer: the claim could not be created.
pub fn refused_claim(data_volume: &DynamicObject) -> Option<String> {
    let bound = crate::objects::find_condition(list(data_volume, "/status/conditions"), "Bound")?;
    let refused = bound["status"] == "False" && bound["reason"] == "ErrExceededQuota";
    refused.then(|| {
        format!(
            "DataVolume {} importer is not running due to an error: {}",
            data_volume.name_any(),
            bound["message"].as_str().unwrap_or_default()
        )
    })
}

/// Whether KubeVirt calls this a DataVolumeError.
pub fn in_error(data_volume: &DynamicObject) -> bool {
    let running = crate::objects::find_condition(list(data_volume, "/status/conditions"), "Running");
    text(data_volume, "/status/phase") == Some("Failed")
        || running.is_some_and(|condition| {
            condition["status"] == "False"
                && matches!(condition["reason"].as_str(), Some("Error" | "ImagePullFailed"))
        })
}

/// CDI's next step.
pub fn sync(seen: &DataVolumeInputs, clock: &mut Clock, now: Timestamp) -> Plan {
    let data_volume = seen.data_volume;
    let phase = text(data_volume, "/status/phase").unwrap_or_default();
    if deleting(data_volume) {
        return Plan::idle();
    }
    let status = |step: &Step| json_status(seen, step, now);
    let write = |step: &Step, otherwise: Plan| {
        Plan::status_or(Kind::DataVolume, data_volume, status(step), otherwise)
    };
    let Some(claim) = seen.claim else {
        if phase == "Succeeded" {
            return Plan::idle();
        }
        let create = Plan::one(Write::Create(Kind::Pvc, claim_for(seen)));
        return match seen.over_quota {
            // It is retried without a limit, after the failure is reported.
            Some(why) => write(&Step::OverQuota(why.to_owned()), create),
            None if list(data_volume, "/status/conditions").is_empty() => write(&Step::NoClaim, create),
            None => create,
        };
    };
    let owned = controller_of(claim).is_some_and(|owner| Some(&owner.uid) == data_volume.uid().as_ref());
    if deleting(claim) || !owned {
        return Plan::idle();
    }
    if phase == "Succeeded" {
        return hand_over(seen, claim, status(&Step::Succeeded));
    }
    if phase == "Failed" || seen.faults.import_failed {
        return write(&Step::Failed, Plan::idle());
    }
    if let Some(phase) = waits_in(seen, claim) {
        clock.since("pending");
        let pending = json!({"phase": "Pending"});
        return write(
            &Step::Waiting(phase),
            Plan::status_or(Kind::Pvc, claim, pending, Plan::idle()),
        );
    }
    let filled = match (seen.class.csi, seen.prime) {
        (false, _) => claim,
        (true, Some(prime)) => prime,
        (true, None) => return Plan::one(Write::Create(Kind::Pvc, prime_for(claim))),
    };
    if !is_bound(filled) {
        return Plan::status_or(Kind::Pvc, filled, bound_claim(filled), Plan::idle());
    }
    if let Some(message) = &seen.faults.import_failing {
        return fail(seen, message, clock, now);
    }
    let passed = clock.since("importing").as_secs_f64();
    let whole = seen.import.as_secs_f64().max(0.001);
    let (step, next) = progress(passed / whole, steps(seen.import));
    let wait = Duration::from_secs_f64((next * whole - passed).max(0.001));
    write(
        &step,
        if step == Step::Succeeded {
            Plan::idle()
        } else {
            Plan::after(wait)
        },
    )
}

/// The phase in which the import waits for a volume, if it does.
fn waits_in(seen: &DataVolumeInputs, claim: &DynamicObject) -> Option<&'static str> {
    let begun = is_bound(claim) || seen.prime.is_some();
    if seen.faults.pvc_pending || !seen.source_exists {
        return Some("Pending");
    }
    match (begun || seen.consumer || !seen.class.waits, seen.class.csi) {
        (true, _) => None,
        (false, true) => Some("PendingPopulation"),
        (false, false) => Some("WaitForFirstConsumer"),
    }
}

/// The volume that was filled becomes that of the DataVolume's own claim.
fn hand_over(seen: &DataVolumeInputs, claim: &DynamicObject, succeeded: Value) -> Plan {
    if !is_bound(claim) {
        return Plan::status_or(Kind::Pvc, claim, bound_claim(claim), Plan::idle());
    }
    let prime = seen.prime.filter(|prime| !deleting(prime));
    let rest = prime.map_or_else(Plan::idle, |prime| {
        Plan::one(Write::Delete(Kind::Pvc, prime.clone()))
    });
    Plan::status_or(Kind::DataVolume, seen.data_volume, succeeded, rest)
}

/// The importer works for a moment, fails, waits and is started again.
fn fail(seen: &DataVolumeInputs, message: &str, clock: &mut Clock, now: Timestamp) -> Plan {
    let running = crate::objects::find_condition(list(seen.data_volume, "/status/conditions"), "Running");
    let is = |status: &str, reason: &str| {
        running.is_some_and(|running| running["status"] == status && running["reason"] == reason)
    };
    let restarts = restarts(seen.data_volume);
    let (lasts, next) = if is("True", "Pod is running") {
        (FAILS_AFTER, Step::Failing(message.to_owned(), restarts))
    } else if is("False", "Error") {
        (BACK_OFF, Step::Retrying(restarts + 1))
    } else {
        (Duration::ZERO, Step::Retrying(restarts))
    };
    if let Some(wait) = clock.left(&format!("{next:?}"), lasts) {
        return Plan::after(wait);
    }
    let status = json_status(seen, &next, now);
    Plan::status_or(Kind::DataVolume, seen.data_volume, status, Plan::idle())
}

fn restarts(data_volume: &DynamicObject) -> u64 {
    let restarts = data_volume.data.pointer("/status/restartCount");
    restarts.and_then(Value::as_u64).unwrap_or_default()
}

fn is_bound(claim: &DynamicObject) -> bool {
    text(claim, "/status/phase") == Some("Bound")
}

fn steps(import: Duration) -> u32 {
    u32::try_from(import.as_millis() / STEP.as_millis())
        .unwrap_or(u32::MAX)
        .clamp(2, 10)
}

/// The step at a fraction of the import's time, and the fraction at which the next one is due.
fn progress(fraction: f64, steps: u32) -> (Step, f64) {
    if fraction < SCHEDULING {
        return (Step::Scheduled, SCHEDULING);
    }
    if fraction >= 1.0 {
        return (Step::Succeeded, 1.0);
    }
    let per_step = (1.0 - SCHEDULING) / f64::from(steps);
    let due = |step: u32| SCHEDULING + per_step * f64::from(step);
    let step = (1..steps).rev().find(|step| fraction >= due(*step)).unwrap_or(0);
    (Step::InProgress(100 * step / steps), due(step + 1))
}

/// Releases an unused claim.
pub fn release_claim(claim: &DynamicObject, used: bool) -> Plan {
    if used || !deleting(claim) || !claim.finalizers().iter().any(|name| name == PVC_PROTECTION) {
        return Plan::idle();
    }
    let mut released = claim.clone();
    released.finalizers_mut().retain(|name| name != PVC_PROTECTION);
    Plan::one(Write::Update(Kind::Pvc, released))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    NoClaim,
    OverQuota(String),
    Waiting(&'static str),
    Scheduled,
    InProgress(u32),
    /// The importer runs again after so many restarts.
    Retrying(u64),
    Failing(String, u64),
    Failed,
    Succeeded,
}

/// Type, status, reason and message of a condition.
type Said = (&'static str, &'static str, String, String);

#[allow(clippy::too_many_lines, reason = "one table: what CDI writes in each step")]
fn json_status(seen: &DataVolumeInputs, step: &Step, now: Timestamp) -> Value {
    let (data_volume, name) = (seen.data_volume, seen.data_volume.name_any());
    let clone = data_volume.data.pointer("/spec/source/pvc").is_some();
    let verb = if clone { "Clone" } else { "Import" };
    let said = |kind: &'static str, status: &'static str, reason: &str, message: &str| -> Said {
        (kind, status, reason.to_owned(), message.to_owned())
    };
    let bound = match seen.claim {
        None => said("Bound", "False", "NotFound", "No PVC found"),
        Some(claim) if is_bound(claim) => said("Bound", "True", "Bound", &format!("PVC {name} Bound")),
        Some(_) => said("Bound", "False", "Pending", &format!("PVC {name} Pending")),
    };
    let ready = |status: &'static str, reason: &str| said("Ready", status, reason, "");
    let running =
        |status: &'static str, reason: &str, message: &str| said("Running", status, reason, message);
    let unknown = || "N/A".to_owned();
    let (phase, progress, conditions) = match step {
        Step::NoClaim => (
            "Pending".to_owned(),
            unknown(),
            [bound, ready("False", ""), running("False", "", "")],
        ),
        Step::OverQuota(why) => (
            "Pending".to_owned(),
            unknown(),
            [
                said("Bound", "False", "ErrExceededQuota", why),
                said("Ready", "False", "ErrExceededQuota", why),
                running("False", "", ""),
            ],
        ),
        Step::Waiting(phase) => (
            (*phase).to_owned(),
            unknown(),
            [bound, ready("False", ""), running("False", "", "")],
        ),
        Step::Scheduled => (
            format!("{verb}Scheduled"),
            unknown(),
            [
                bound,
                ready("False", "TransferRunning"),
                running("False", "ContainerCreating", ""),
            ],
        ),
        Step::InProgress(_) | Step::Retrying(_) => (
            format!("{verb}InProgress"),
            match step {
                Step::InProgress(percent) => format!("{percent}.00%"),
                _ => unknown(),
            },
            [
                bound,
                ready("False", "TransferRunning"),
                running("True", "Pod is running", ""),
            ],
        ),
        Step::Failing(message, _) => (
            format!("{verb}InProgress"),
            unknown(),
            [bound, ready("False", ""), running("False", "Error", message)],
        ),
        Step::Failed => (
            "Failed".to_owned(),
            unknown(),
            [
                bound,
                ready("False", "Error"),
                running("False", "Error", "Unable to process data"),
            ],
        ),
        Step::Succeeded => (
            "Succeeded".to_owned(),
            "100.0%".to_owned(),
            [
                bound,
                ready("True", ""),
                running("False", "Completed", &format!("{verb} Complete")),
            ],
        ),
    };
    let before = list(data_volume, "/status/conditions");
    let conditions: Vec<Value> = conditions
        .into_iter()
        .map(|(kind, status, reason, message)| condition(before, kind, status, &reason, &message, now))
        .collect();
    let mut status = json!({"phase": phase, "progress": progress, "conditions": conditions});
    if seen.claim.is_some() {
        status["claimName"] = json!(name);
    }
    let restarts = match step {
        Step::Retrying(restarts) | Step::Failing(_, restarts) => *restarts,
        _ => restarts(data_volume),
    };
    if restarts > 0 {
        status["restartCount"] = json!(restarts);
    }
    status
}

fn condition(
    before: &[Value],
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Value {
    let mut value = json!({"type": kind, "status": status, "reason": reason, "message": message});
    let old = crate::objects::find_condition(before, kind);
    let unchanged =
        old.filter(|old| old["status"] == status && old["reason"] == reason && old["message"] == message);
    if let Some(old) = unchanged {
        return old.clone();
    }
    value["lastTransitionTime"] = match old.filter(|old| old["status"] == status) {
        Some(old) => old["lastTransitionTime"].clone(),
        None => json!(stamp(now)),
    };
    value["lastHeartbeatTime"] = json!(stamp(now));
    value
}

fn wanted(data_volume: &DynamicObject, field: &str) -> Value {
    let at = |part: &str| data_volume.data.pointer(&format!("/spec/{part}/{field}"));
    at("pvc").or_else(|| at("storage")).cloned().unwrap_or_default()
}

fn claim_for(seen: &DataVolumeInputs) -> DynamicObject {
    let data_volume = seen.data_volume;
    let mut spec = json!({"resources": wanted(data_volume, "resources")});
    let modes = wanted(data_volume, "accessModes");
    spec["accessModes"] = if modes.is_null() {
        json!(["ReadWriteOnce"])
    } else {
        modes
    };
    for field in ["storageClassName", "volumeMode"] {
        let value = wanted(data_volume, field);
        if !value.is_null() {
            spec[field] = value;
        }
    }
    if seen.class.csi {
        let source = format!("volume-import-source-{}", data_volume.uid().unwrap_or_default());
        spec["dataSourceRef"] =
            json!({"apiGroup": "cdi.kubevirt.io", "kind": "VolumeImportSource", "name": source});
    }
    let mut claim = object(Kind::Pvc, &data_volume.name_any(), json!({"spec": spec}));
    claim.metadata.labels.clone_from(&data_volume.metadata.labels);
    claim
        .labels_mut()
        .insert("app".to_owned(), "containerized-data-importer".to_owned());
    claim.metadata.owner_references = Some(vec![controlled_by(Kind::DataVolume, data_volume)]);
    claim
}

/// Name of the claim that CDI fills on behalf of another.
pub fn prime_name(claim: &DynamicObject) -> String {
    format!("prime-{}", claim.uid().unwrap_or_default())
}

/// The claim that CDI fills on behalf of this one.
fn prime_for(claim: &DynamicObject) -> DynamicObject {
    let mut spec = claim.data["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("dataSourceRef");
    }
    let mut prime = object(Kind::Pvc, &prime_name(claim), json!({"spec": spec}));
    prime.metadata.owner_references = Some(vec![controlled_by(Kind::Pvc, claim)]);
    prime
}

fn bound_claim(claim: &DynamicObject) -> Value {
    json!({
        "phase": "Bound",
        "accessModes": claim.data.pointer("/spec/accessModes"),
        "capacity": claim.data.pointer("/spec/resources/requests"),
    })
}

/// The message of CDI's admission about an invalid DataVolume.
pub fn refusal(template: &Value) -> Option<String> {
    let source = template.pointer("/spec/source").and_then(Value::as_object);
    let has_reference = template.pointer("/spec/sourceRef").is_some();
    let problem = match source.and_then(|source| source.iter().next()) {
        None if !has_reference => Some(" spec.source Missing Data volume source".to_owned()),
        Some((kind, source)) => source_refusal(kind, source),
        None => None,
    };
    let size = ["pvc", "storage"].iter().find_map(|part| {
        template
            .pointer(&format!("/spec/{part}/resources/requests/storage"))?
            .as_str()
    });
    problem.or_else(|| match size.map(quantity) {
        None => Some(" spec.PVC.resources.requests PVC size is missing".to_owned()),
        Some(size) if size.is_none() || size <= quantity("0") => {
            Some(" spec.PVC.resources.requests.storage PVC size can't be equal or less than zero".to_owned())
        }
        Some(_) => None,
    })
}

fn source_refusal(kind: &str, source: &Value) -> Option<String> {
    let url = source.get("url").and_then(Value::as_str).unwrap_or_default();
    let scheme = url
        .split_once("://")
        .map(|(scheme, rest)| (scheme.to_lowercase(), rest));
    match (kind, scheme) {
        ("http", None) => Some(format!(" spec.source Invalid source URL: {url}")),
        ("http", Some((scheme, rest))) => match scheme.as_str() {
            "http" | "https" if !rest.is_empty() => None,
            "http" | "https" => Some(format!(" spec.source Invalid source URL: {url}")),
            _ => Some(format!(" spec.source Invalid source URL scheme: {url}")),
        },
        ("registry", scheme) if !url.is_empty() || source.get("imageStream").is_none() => {
            match scheme.as_ref().map(|(scheme, _)| scheme.as_str()) {
                Some("docker" | "oci-archive") => {
                    let method = source.get("pullMethod").and_then(Value::as_str).unwrap_or("pod");
                    (!matches!(method, "node" | "pod")).then(|| {
                        " spec.source.registry.pullMethod Source registry pullMethod should be node or pod".to_owned()
                    })
                }
                _ => Some(format!(" spec.source Invalid source URL: {url}")),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn template(source: &Value, size: &str) -> Value {
        json!({"spec": {"source": source, "storage": {"resources": {"requests": {"storage": size}}}}})
    }

    #[rstest]
    #[case::http(json!({"http": {"url": "http://a/b.img"}}), "1Gi", None)]
    #[case::registry(json!({"registry": {"url": "docker://a/b", "pullMethod": "node"}}), "1Gi", None)]
    #[case::clone(json!({"pvc": {"name": "a"}}), "1Gi", None)]
    #[case::blank(json!({"blank": {}}), "1Gi", None)]
    #[case::no_url(json!({"http": {"url": "ubuntu.img"}}), "1Gi", Some(" spec.source Invalid source URL: ubuntu.img"))]
    #[case::scheme(json!({"http": {"url": "ftp://a/b"}}), "1Gi", Some(" spec.source Invalid source URL scheme: ftp://a/b"))]
    #[case::registry_scheme(json!({"registry": {"url": "http://a"}}), "1Gi", Some(" spec.source Invalid source URL: http://a"))]
    #[case::no_size(json!({"blank": {}}), "0", Some(" spec.PVC.resources.requests.storage PVC size can't be equal or less than zero"))]
    #[case::no_source(json!({}), "1Gi", Some(" spec.source Missing Data volume source"))]
    fn cdi_judges_a_data_volume(#[case] source: Value, #[case] size: &str, #[case] expected: Option<&str>) {
        assert_eq!(refusal(&template(&source, size)).as_deref(), expected);
    }

    #[rstest]
    #[case(0.0, Step::Scheduled)]
    #[case(0.2, Step::InProgress(0))]
    #[case(0.41, Step::InProgress(25))]
    #[case(0.81, Step::InProgress(75))]
    #[case(1.0, Step::Succeeded)]
    fn an_import_passes_through_its_phases(#[case] fraction: f64, #[case] expected: Step) {
        assert_eq!(progress(fraction, 4).0, expected);
    }
}
