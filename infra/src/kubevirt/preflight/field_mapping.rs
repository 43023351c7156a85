//! Maps KubeVirt's errors for a VM to the fields of the Machine's spec.

use kube::core::Status;
use machinist_shared::api::field::{ErrorKind, FieldPath, Report};
use machinist_shared::api::names::{annotation, label};
use serde_json::Value;

use super::request::PreflightRequest;
use crate::kube::error::RemoteError;

/// Fields of a VirtualMachine, with the fields of `cloudProviderSpec` that they come from; the first match counts.
const ORIGINS: [(&str, &str); 19] = [
    (
        "spec.template.spec.domain.resources.requests.memory",
        "virtualMachine.template.memory",
    ),
    (
        "spec.template.spec.domain.resources.limits.memory",
        "virtualMachine.template.memory",
    ),
    (
        "spec.template.spec.domain.memory",
        "virtualMachine.template.memory",
    ),
    (
        "spec.template.spec.domain.resources.requests.cpu",
        "virtualMachine.template.cpus",
    ),
    (
        "spec.template.spec.domain.resources.limits.cpu",
        "virtualMachine.template.cpus",
    ),
    ("spec.template.spec.domain.cpu", "virtualMachine.template.vcpus"),
    (
        "spec.template.spec.domain.devices.networkInterfaceMultiqueue",
        "virtualMachine.enableNetworkMultiQueue",
    ),
    ("spec.instancetype", "virtualMachine.instancetype"),
    ("spec.preference", "virtualMachine.preference"),
    (
        "spec.template.spec.evictionStrategy",
        "virtualMachine.evictionStrategy",
    ),
    ("spec.template.spec.dnsPolicy", "virtualMachine.dnsPolicy"),
    ("spec.template.spec.dnsConfig", "virtualMachine.dnsConfig"),
    // These have no path.
    ("dnsPolicy", "virtualMachine.dnsPolicy"),
    ("nameservers", "virtualMachine.dnsConfig.nameservers"),
    ("searchDomains", "virtualMachine.dnsConfig.searches"),
    ("options", "virtualMachine.dnsConfig.options"),
    ("spec.template.spec.affinity", "affinity"),
    ("spec.template.spec.nodeAffinity", "affinity.nodeAffinityPreset"),
    (
        "spec.template.spec.topologySpreadConstraints",
        "topologySpreadConstraints",
    ),
];

/// Fields of a VM that an instancetype sets.
const OF_INSTANCETYPES: &[&str] = &[
    "domain.cpu",
    "domain.memory",
    "domain.resources",
    "domain.devices.gpus",
    "domain.devices.hostDevices",
    "domain.ioThreads",
    "domain.ioThreadsPolicy",
    "domain.launchSecurity",
    "nodeSelector",
    "schedulerName",
];

/// Fields of a VM that a preference sets, and no instancetype does.
const OF_PREFERENCES: &[&str] = &[
    "domain.firmware",
    "domain.features",
    "domain.clock",
    "domain.machine",
    "domain.devices.tpm",
    "domain.devices.inputs",
    "domain.devices.rng",
    "domain.devices.disks",
    "domain.devices.interfaces",
    "terminationGracePeriodSeconds",
];

/// Fields of a DataVolume template, with the fields of a disk that they come from.
const DISK_ORIGINS: [(&str, &str); 6] = [
    ("resources", "size"),
    ("storageClassName", "storageClassName"),
    ("accessModes", "storageAccessType"),
    ("secretRef", "dataVolumeSecretRef"),
    ("extraHeaders", "extraHeaders"),
    ("source", "osImage"),
];

/// Adds an error for each cause of the refusal, or one for the whole.
pub(super) fn map_fields(status: &Status, request: &PreflightRequest<'_>, vm: &Value, report: &mut Report) {
    let whole = RemoteError::from(&kube::Error::Api(Box::new(status.clone()))).to_string();
    if status.code == 403 && !whole.contains("quota") && !whole.contains("admission webhook") {
        let path = request.kubeconfig_path();
        report.error(
            &path,
            ErrorKind::Forbidden,
            format!("its user cannot create VirtualMachines: {whole}"),
        );
        return;
    }
    let causes = status
        .details
        .as_ref()
        .map(|details| details.causes.as_slice())
        .unwrap_or_default();
    let before = report.errors.len();
    for cause in causes.iter().filter(|cause| !cause.message.is_empty()) {
        let path = origin(&cause.field, &cause.message, request, vm);
        report.invalid(
            &path,
            format!(
                "KubeVirt rejects this: {}: {}{}",
                cause.field,
                excerpt(&cause.message),
                advice(&cause.field, &cause.message, request)
            ),
        );
    }
    if report.errors.len() == before {
        report.invalid(
            &request.path.child("virtualMachine"),
            format!("KubeVirt rejects the VM: {whole}"),
        );
    }
}

/// The field of the Machine's spec that a field of the VM comes from.
fn origin(field: &str, message: &str, request: &PreflightRequest<'_>, vm: &Value) -> FieldPath {
    let path = &request.path;
    // KubeVirt's schema names the field only in its message.
    let field = match message.split_once(" in body ") {
        Some((named, _)) if field.is_empty() => named,
        _ => field,
    };
    if let Some((index, rest)) = data_volume(field) {
        let is_about_source = index == 0 && message.contains("clone source");
        return of_disk(index, if is_about_source { ".source" } else { rest }, path);
    }
    let template = field.strip_prefix("spec.template.").unwrap_or(field);
    if let Some(rest) = template.strip_prefix("metadata.labels") {
        return of_label(rest, message, request, vm);
    }
    if let Some(rest) = template.strip_prefix("metadata.annotations") {
        return of_annotation(rest, message, request, vm);
    }
    let begins = |vm: &str| {
        field
            .strip_prefix(vm)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let origin = ORIGINS.iter().find(|(vm, _)| begins(vm));
    let ours = brought_by(field, request)
        .or(origin.map(|(_, ours)| *ours))
        .unwrap_or("virtualMachine");
    below(path, ours)
}

/// What to do about a cause that KubeVirt's own words do not explain.
fn advice(field: &str, message: &str, request: &PreflightRequest<'_>) -> String {
    let is_of_cpu = field.starts_with("spec.template.spec.domain.cpu");
    let has_cpus = request.spec.instancetype.is_none() && request.spec.vcpu_cores == 0;
    if is_of_cpu && has_cpus && message.contains("vCPU") {
        return "; KubeVirt does not count cpus: set vcpus.cores instead, or use an instancetype".to_owned();
    }
    if message.contains("insufficient permissions in clone source namespace") {
        return format!(
            "; allow the ServiceAccount default of namespace {} to create datavolumes/source in the namespace of the PVC",
            request.namespace
        );
    }
    String::new()
}

/// The field of ours that brings this field of the VM's guest, which the author did not write: an instancetype brings sizes
/// and devices, a preference what the guest is like.
fn brought_by(field: &str, request: &PreflightRequest<'_>) -> Option<&'static str> {
    let is_below = |parents: &[&str]| {
        let domain = field.strip_prefix("spec.template.spec.")?;
        let rest = parents.iter().find_map(|parent| domain.strip_prefix(parent))?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then_some(())
    };
    let spec = request.spec;
    if spec.preference.is_some() && is_below(OF_PREFERENCES).is_some() {
        return Some("virtualMachine.preference");
    }
    let by_instancetype = spec.instancetype.is_some() && is_below(OF_INSTANCETYPES).is_some();
    if by_instancetype {
        return Some("virtualMachine.instancetype");
    }
    // Without cores, there are only cpus.
    let has_cpus = spec.vcpu_cores == 0 && is_below(&["domain.cpu"]).is_some();
    has_cpus.then_some("virtualMachine.template.cpus")
}

fn below(path: &FieldPath, fields: &str) -> FieldPath {
    fields
        .split('.')
        .fold(path.clone(), |path, part| path.child(part))
}

fn of_disk(index: usize, rest: &str, path: &FieldPath) -> FieldPath {
    let template = path.child("virtualMachine").child("template");
    let disk = match index.checked_sub(1) {
        None => template.child("primaryDisk"),
        Some(further) => template.child("secondaryDisks").index(further),
    };
    let has = |key: &str| rest.split(['.', '[', ']']).any(|part| part == key);
    match DISK_ORIGINS.iter().find(|(vm, _)| has(vm)) {
        // Secondary disks have only size and storage.
        Some((_, ours)) if index == 0 || ["size", "storageClassName", "storageAccessType"].contains(ours) => {
            disk.child(ours)
        }
        _ => disk,
    }
}

/// The field names the label, or the message quotes its key or value.
fn of_label(rest: &str, message: &str, request: &PreflightRequest<'_>, vm: &Value) -> FieldPath {
    let location = request.path.child("virtualMachine").child("location");
    match named(rest, message, &vm["metadata"]["labels"]) {
        Some(label::CLUSTER_NAME | label::CLUSTER_ID) => request.path.child("clusterName"),
        Some(label::PROJECT_ID) => request.path.child("projectID"),
        Some(label::REGION) if !request.labels.contains_key(label::REGION) => location.child("region"),
        Some(label::ZONE) if !request.labels.contains_key(label::ZONE) => location.child("zone"),
        Some(label::KUBEVIRT_VM | label::MACHINE_DEPLOYMENT) => FieldPath::new("metadata.name"),
        Some(key) => request.metadata.child("labels").child(key),
        None => request.metadata.child("labels"),
    }
}

fn of_annotation(rest: &str, message: &str, request: &PreflightRequest<'_>, vm: &Value) -> FieldPath {
    // It is named in neither.
    if let Some(operating_system) = &request.ignition
        && message.contains(annotation::IGNITION)
    {
        return operating_system.clone();
    }
    match named(rest, message, &vm["spec"]["template"]["metadata"]["annotations"]) {
        Some(annotation::OVN_LOGICAL_SWITCH)
            if !request.annotations.contains_key(annotation::OVN_LOGICAL_SWITCH) =>
        {
            below(&request.path, "virtualMachine.providerNetwork.vpc.subnet.name")
        }
        Some(key) => request.metadata.child("annotations").child(key),
        None => request.metadata.child("annotations"),
    }
}

/// The key of the map that a cause refers to.
fn named<'a>(rest: &str, message: &str, map: &'a Value) -> Option<&'a str> {
    let key = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let key = key.or_else(|| rest.strip_prefix('.'));
    let quoted = message.split('"').nth(1);
    let pairs = || map.as_object().into_iter().flatten();
    let by_key = |requirements: &str| pairs().find(|(key, _)| *key == requirements);
    let by_value = |requirements: &str| pairs().find(|(_, value)| value.as_str() == Some(requirements));
    let found = key.and_then(by_key).or_else(|| quoted.and_then(by_key));
    // KubeVirt names a feature that a feature gate forbids at the end of its message.
    let at_the_end = || pairs().find(|(key, _)| message.ends_with(&format!(".{key}")));
    let found = found.or_else(at_the_end);
    let found = found.or_else(|| quoted.filter(|text| !text.is_empty()).and_then(by_value));
    found.map(|(key, _)| key.as_str())
}

/// The index in `spec.dataVolumeTemplates[…]`, with or without a dot before the bracket, and the rest of the path.
/// KubeVirt's own code omits the last letter.
fn data_volume(field: &str) -> Option<(usize, &str)> {
    let rest = field.strip_prefix("spec.dataVolumeTemplate")?;
    let rest = rest.strip_prefix('s').unwrap_or(rest);
    let rest = rest.strip_prefix('.').unwrap_or(rest).strip_prefix('[')?;
    let (index, rest) = rest.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

fn excerpt(text: &str) -> String {
    const MAX_EXCERPT: usize = 300;
    if text.chars().count() <= MAX_EXCERPT {
        return text.to_owned();
    }
    text.chars().take(MAX_EXCERPT).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use machinist_shared::kubevirt::resolved::ResolvedSpec;
    use machinist_shared::kubevirt::spec::Matcher;
    use rstest::rstest;
    use serde_json::json;

    use super::super::request::fixture::request;
    use super::*;

    #[rstest]
    #[case::memory(
        "spec.template.spec.domain.resources.requests.memory",
        "",
        "c.virtualMachine.template.memory"
    )]
    #[case::cores("spec.template.spec.domain.cpu.cores", "", "c.virtualMachine.template.vcpus")]
    #[case::instancetype("spec.instancetype", "", "c.virtualMachine.instancetype")]
    #[case::a_longer_word("spec.instancetypes", "", "c.virtualMachine")]
    #[case::spread(
        "spec.template.spec.topologySpreadConstraints[0].maxSkew",
        "",
        "c.topologySpreadConstraints"
    )]
    #[case::the_primary_disk("spec.dataVolumeTemplates[0]", "", "c.virtualMachine.template.primaryDisk")]
    #[case::its_image(
        "spec.dataVolumeTemplates[0].spec.source.http.url",
        "",
        "c.virtualMachine.template.primaryDisk.osImage"
    )]
    #[case::its_secret(
        "spec.dataVolumeTemplates[0].spec.source.http.secretRef",
        "",
        "c.virtualMachine.template.primaryDisk.dataVolumeSecretRef"
    )]
    #[case::with_a_dot(
        "spec.dataVolumeTemplates.[0].spec.storage.accessModes",
        "",
        "c.virtualMachine.template.primaryDisk.storageAccessType"
    )]
    #[case::a_further_disk(
        "spec.dataVolumeTemplates[2].spec.source",
        "",
        "c.virtualMachine.template.secondaryDisks[1]"
    )]
    #[case::its_size(
        "spec.dataVolumeTemplates[2].spec.storage.resources.requests[storage]",
        "",
        "c.virtualMachine.template.secondaryDisks[1].size"
    )]
    #[case::its_class(
        "spec.dataVolumeTemplates[1].spec.pvc.storageClassName",
        "",
        "c.virtualMachine.template.secondaryDisks[0].storageClassName"
    )]
    #[case::a_label_by_its_value(
        "metadata.labels",
        "Invalid value: \"no such cluster\": a valid label must be",
        "c.clusterName"
    )]
    #[case::a_label_by_its_key(
        "spec.template.metadata.labels[kubermatic.k8c.io/project-id]",
        "",
        "c.projectID"
    )]
    #[case::the_name("metadata.labels", "Invalid value: \"a.name\": must be", "metadata.name")]
    #[case::a_zone(
        "metadata.labels",
        "Invalid value: \"the zone\": must be",
        "c.virtualMachine.location.zone"
    )]
    #[case::a_label_of_the_machine(
        "spec.template.metadata.labels",
        "Invalid value: \"a b\": must be",
        "t.labels.pool"
    )]
    #[case::an_unknown_label("metadata.labels", "too many", "t.labels")]
    #[case::an_annotation(
        "spec.template.metadata.annotations",
        "Invalid value: \"x/y\": must be",
        "t.annotations[x/y]"
    )]
    #[case::a_subnet(
        "spec.template.metadata.annotations[ovn.kubernetes.io/logical_switch]",
        "",
        "c.virtualMachine.providerNetwork.vpc.subnet.name"
    )]
    #[case::kubevirts_name_of_a_disk(
        "spec.dataVolumeTemplate[1]",
        "",
        "c.virtualMachine.template.secondaryDisks[0]"
    )]
    #[case::servers("nameservers", "", "c.virtualMachine.dnsConfig.nameservers")]
    #[case::searches("searchDomains", "", "c.virtualMachine.dnsConfig.searches")]
    #[case::options("options", "", "c.virtualMachine.dnsConfig.options")]
    #[case::dns_policy("dnsPolicy", "", "c.virtualMachine.dnsPolicy")]
    #[case::affinity(
        "spec.template.spec.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key",
        "",
        "c.affinity.nodeAffinityPreset"
    )]
    #[case::what_the_schema_says(
        "",
        "spec.template.spec.topologySpreadConstraints.whenUnsatisfiable in body should be one of [DoNotSchedule ScheduleAnyway]",
        "c.topologySpreadConstraints"
    )]
    #[case::an_annotation_that_a_gate_forbids(
        "spec.template.metadata.annotations",
        "sidecar feature limiter is not enabled in kubevirt-config, invalid entry spec.template.metadata.annotations.x/y",
        "t.annotations[x/y]"
    )]
    #[case::ignition_that_a_gate_forbids(
        "spec.template.metadata.annotations",
        "ExperimentalIgnitionSupport feature limiter is not enabled in kubevirt-config, invalid entry spec.template.metadata.annotations.kubevirt.io/ignitiondata",
        "v.operatingSystem"
    )]
    #[case::anything_else("spec.running", "", "c.virtualMachine")]
    #[case::nothing("", "", "c.virtualMachine")]
    fn kubevirts_field_leads_to_ours(#[case] field: &str, #[case] message: &str, #[case] want: &str) {
        let spec = ResolvedSpec {
            vcpu_cores: 2,
            ..ResolvedSpec::default()
        };
        assert_eq!(origin_of(&spec, field, message).0, want);
    }

    fn matcher() -> Matcher {
        Matcher::default()
    }

    /// What the author did not write is the instancetype's, the preference's, or what is there instead of vcpus.
    #[rstest]
    #[case::cpus("domain.cpu", None, None, 0, "template.cpus")]
    #[case::cores("domain.cpu", None, Some(matcher()), 2, "template.vcpus")]
    #[case::cpus_beside_a_preference("domain.cpu.sockets", None, Some(matcher()), 0, "template.cpus")]
    #[case::an_instancetypes_cpu(
        "domain.cpu.dedicatedCpuPlacement",
        Some(matcher()),
        None,
        0,
        "instancetype"
    )]
    #[case::its_memory("domain.memory.hugepages", Some(matcher()), None, 0, "instancetype")]
    #[case::its_resources("domain.resources.requests.memory", Some(matcher()), None, 0, "instancetype")]
    #[case::its_gpus("domain.devices.gpus[0]", Some(matcher()), None, 0, "instancetype")]
    #[case::its_host_devices(
        "domain.devices.hostDevices",
        Some(matcher()),
        Some(matcher()),
        0,
        "instancetype"
    )]
    #[case::its_launch_security("domain.launchSecurity", Some(matcher()), Some(matcher()), 0, "instancetype")]
    #[case::its_node_selector("nodeSelector", Some(matcher()), None, 0, "instancetype")]
    #[case::a_preferences_firmware(
        "domain.firmware.bootloader.efi",
        Some(matcher()),
        Some(matcher()),
        0,
        "preference"
    )]
    #[case::its_features("domain.features.smm", None, Some(matcher()), 2, "preference")]
    #[case::its_tpm("domain.devices.tpm", None, Some(matcher()), 2, "preference")]
    #[case::its_clock("domain.clock", None, Some(matcher()), 2, "preference")]
    #[case::queues_are_the_authors(
        "domain.devices.networkInterfaceMultiqueue",
        Some(matcher()),
        Some(matcher()),
        0,
        "enableNetworkMultiQueue"
    )]
    #[case::a_longer_word("domain.cpus", Some(matcher()), None, 0, "")]
    #[case::memory_of_the_author(
        "domain.resources.requests.memory",
        None,
        Some(matcher()),
        0,
        "template.memory"
    )]
    fn a_field_that_the_author_did_not_write_leads_to_what_brings_it(
        #[case] field: &str,
        #[case] instancetype: Option<Matcher>,
        #[case] preference: Option<Matcher>,
        #[case] vcpu_cores: i64,
        #[case] want: &str,
    ) {
        let spec = ResolvedSpec {
            instancetype,
            preference,
            vcpu_cores,
            ..ResolvedSpec::default()
        };
        let field = format!("spec.template.spec.{field}");
        let want = format!("c.virtualMachine.{want}");
        assert_eq!(origin_of(&spec, &field, "").0, want.trim_end_matches('.'));
    }

    #[test]
    fn what_kubevirt_does_not_explain_has_an_advice() {
        let message = "insufficient CPU resources of 1 vCPU provided by VirtualMachine, preference requires 2 vCPU provided as cores";
        let cpu = "spec.template.spec.domain.cpu";
        assert!(
            origin_of(&ResolvedSpec::default(), cpu, message)
                .1
                .contains("vcpus.cores")
        );
        let cores = ResolvedSpec {
            vcpu_cores: 1,
            ..ResolvedSpec::default()
        };
        assert_eq!(origin_of(&cores, cpu, message).1, "");
        let message = "Authorization failed, message is: User system:serviceaccount:vms:default has insufficient permissions in clone source namespace images";
        let (path, advice) = origin_of(&cores, "spec.dataVolumeTemplates[0]", message);
        assert_eq!(path, "c.virtualMachine.template.primaryDisk.osImage");
        assert!(
            advice.contains("the ServiceAccount default of namespace vms"),
            "{advice}"
        );
    }

    /// Our field, and the advice.
    fn origin_of(spec: &ResolvedSpec, field: &str, message: &str) -> (String, String) {
        let texts = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let request = PreflightRequest {
            name: "a.name",
            labels: &texts("pool", "a b"),
            annotations: &texts("x/y", "z"),
            ignition: Some(FieldPath::new("v.operatingSystem")),
            metadata: FieldPath::new("t"),
            ..request(spec)
        };
        let vm = json!({
            "metadata": {"labels": {
                label::CLUSTER_NAME: "no such cluster", label::PROJECT_ID: "p", label::KUBEVIRT_VM: "a.name",
                label::ZONE: "the zone", "pool": "a b",
            }},
            "spec": {"template": {"metadata": {"annotations": {"x/y": "z", annotation::OVN_LOGICAL_SWITCH: "s"}}}},
        });
        let path = origin(field, message, &request, &vm).to_string();
        (path, advice(field, message, &request))
    }
}
