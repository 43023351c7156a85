//! What of a spec is wrong in itself, without asking the infra cluster. Every error at once, each with its field.
//!
//! Values behind references are not judged here: they may change before they are used.

use kube_quantity::ParsedQuantity;

use super::render::{SourceKind, source_kind};
use super::resolved::Image;
use super::spec::{CloudProviderSpec, VirtualMachine};
use crate::config_var::ConfigVarString;
use crate::field::{FieldPath, Report};

/// Operating systems that this provider can boot.
pub const OPERATING_SYSTEMS: [&str; 4] = ["ubuntu", "rhel", "flatcar", "rockylinux"];

/// Judges a spec found at `path`.
pub fn validate(spec: &CloudProviderSpec, path: &FieldPath, report: &mut Report) {
    label_value(&spec.cluster_name, &path.child("clusterName"), report);
    label_value(&spec.project_id, &path.child("projectID"), report);
    kubeconfig(&spec.kubeconfig, &path.child("auth").child("kubeconfig"), report);
    virtual_machine(&spec.virtual_machine, &path.child("virtualMachine"), report);
    let affinity = path.child("affinity").child("nodeAffinityPreset");
    if let Some(kind) = literal(&spec.node_affinity.kind)
        && !["", "hard", "soft"].contains(&kind.to_lowercase().as_str())
    {
        report.not_supported(&affinity.child("type"), kind, &["hard", "soft"]);
    }
    if spec.node_affinity.kind.reference().is_none()
        && literal(&spec.node_affinity.kind).is_some_and(|kind| !kind.is_empty())
        && spec.node_affinity.key.is_unset()
    {
        report.required(
            &affinity.child("key"),
            "is required with a type; name the label of the infra nodes",
        );
    }
    for (index, constraint) in spec.topology_spread.iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(index);
        let skew = path.child("maxSkew");
        if constraint.max_skew.is_unset() {
            report.required(&skew, "is required; write a number from 1 on");
        } else if let Some(text) = literal(&constraint.max_skew)
            && !text.parse::<i32>().is_ok_and(|skew| skew >= 1)
        {
            report.invalid(&skew, format!("{text:?} is not a whole number from 1 on"));
        }
        if literal(&constraint.topology_key).is_some_and(str::is_empty) || constraint.topology_key.is_unset()
        {
            report.required(
                &path.child("topologyKey"),
                "is required, like kubernetes.io/hostname; KubeVirt refuses a VM without it",
            );
        }
        let when = path.child("whenUnsatisfiable");
        match literal(&constraint.when_unsatisfiable).unwrap_or_default() {
            "" if constraint.when_unsatisfiable.reference().is_none() => {
                report.warn(&when, "is empty, which KubeVirt refuses; ScheduleAnyway is used");
            }
            "" | "DoNotSchedule" | "ScheduleAnyway" => {}
            other => report.not_supported(&when, other, &["DoNotSchedule", "ScheduleAnyway"]),
        }
        let same = |other: &&super::spec::TopologySpread| {
            other.topology_key == constraint.topology_key
                && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if spec.topology_spread[..index].iter().any(|other| same(&other)) {
            report.invalid(
                &path,
                "repeats topologyKey and whenUnsatisfiable of an earlier item, which KubeVirt refuses",
            );
        }
    }
}

/// The text of a value that is written down and not overridden by a reference.
fn literal(var: &ConfigVarString) -> Option<&str> {
    if var.reference().is_some() {
        None
    } else {
        var.value.as_deref()
    }
}

fn label_value(var: &ConfigVarString, path: &FieldPath, report: &mut Report) {
    let Some(text) = literal(var) else { return };
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.len() > 63 {
        report.invalid(
            path,
            format!(
                "becomes a label value, so it may have 63 characters, not {}",
                bytes.len()
            ),
        );
    } else if !bytes.iter().all(|b| inner(*b)) || !edge(bytes.first()) || !edge(bytes.last()) {
        let rule = "letters, digits, '-', '_' and '.', beginning and ending with a letter or digit";
        report.invalid(
            path,
            format!("{text:?} becomes a label value, which may have {rule}"),
        );
    }
}

fn kubeconfig(var: &ConfigVarString, path: &FieldPath, report: &mut Report) {
    let Some(inline) = var.value.as_deref().filter(|text| !text.is_empty()) else {
        return;
    };
    if super::resolved::decode_base64(inline).is_none() {
        report.invalid(path, "the inline value is not base64; encode the kubeconfig with `base64 -w0`, or refer to a Secret by secretKeyRef");
    }
}

fn virtual_machine(vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    let template = path.child("template");
    if let Some(instancetype) = &vm.instancetype {
        let path = path.child("instancetype");
        let infers = !instancetype.infer_from_volume.is_empty();
        if instancetype.name.is_empty() && !infers {
            report.required(
                &path.child("name"),
                "names a VirtualMachineInstancetype or VirtualMachineClusterInstancetype",
            );
        }
        matcher_kind(
            &instancetype.kind,
            &["VirtualMachineInstancetype", "VirtualMachineClusterInstancetype"],
            &path,
            report,
        );
    } else {
        sizes(vm, &template, report);
    }
    if let Some(preference) = &vm.preference {
        let path = path.child("preference");
        matcher_kind(
            &preference.kind,
            &["VirtualMachinePreference", "VirtualMachineClusterPreference"],
            &path,
            report,
        );
    }
    if vm.vcpu_cores < 0 || vm.vcpu_cores > i64::from(u32::MAX) {
        report.invalid(
            &template.child("vcpus").child("cores"),
            format!("{} is no number of cores", vm.vcpu_cores),
        );
    }
    primary_disk(vm, &template.child("primaryDisk"), report);
    for (index, disk) in vm.secondary_disks.iter().enumerate() {
        let path = template.child("secondaryDisks").index(index);
        required_size(&disk.size, &path.child("size"), report);
        required(
            &disk.storage_class,
            &path.child("storageClassName"),
            "names a StorageClass of the infra cluster",
            report,
        );
        access_mode(&disk.access_mode, &path.child("storageAccessType"), report);
    }
    dns(vm, path, report);
    if !["", "External", "LiveMigrate"].contains(&vm.eviction_strategy.as_str()) {
        report.not_supported(
            &path.child("evictionStrategy"),
            &vm.eviction_strategy,
            &["External", "LiveMigrate"],
        );
    }
}

fn matcher_kind(kind: &str, allowed: &[&str], path: &FieldPath, report: &mut Report) {
    // KubeVirt takes the kind in any letter case.
    if !kind.is_empty() && !allowed.iter().any(|a| a.eq_ignore_ascii_case(kind)) {
        report.not_supported(&path.child("kind"), kind, allowed);
    }
}

/// CPUs and memory, which an instancetype would bring.
fn sizes(vm: &VirtualMachine, template: &FieldPath, report: &mut Report) {
    if vm.memory.is_unset() {
        report.required(
            &template.child("memory"),
            "is required without an instancetype, like 4Gi",
        );
    } else if let Some(text) = literal(&vm.memory) {
        positive(text, &template.child("memory"), report);
    }
    if vm.vcpu_cores != 0 {
        if !vm.cpus.is_unset() {
            report.warn(&template.child("cpus"), "has no effect beside vcpus.cores");
        }
    } else if vm.cpus.is_unset() {
        report.required(
            &template.child("cpus"),
            "no CPUs configured: set cpus or vcpus.cores, or an instancetype",
        );
    } else if let Some(text) = literal(&vm.cpus) {
        positive(text, &template.child("cpus"), report);
    }
}

fn primary_disk(vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    let disk = &vm.primary_disk;
    required_size(&disk.size, &path.child("size"), report);
    required(
        &disk.storage_class,
        &path.child("storageClassName"),
        "names a StorageClass of the infra cluster",
        report,
    );
    required(
        &disk.os_image,
        &path.child("osImage"),
        "names the image to boot: a URL, a registry image or a PVC",
        report,
    );
    access_mode(&disk.access_mode, &path.child("storageAccessType"), report);
    if let Some(method) = literal(&disk.pull_method)
        && !["", "node", "pod"].contains(&method)
    {
        report.not_supported(&path.child("pullMethod"), method, &["node", "pod"]);
    }
    if let Some(source) = literal(&disk.source)
        && !["", "http", "registry", "pvc"].contains(&source)
    {
        report.warn(
            &path.child("source"),
            format!("{source:?} is none of http, registry, pvc; the source is guessed from osImage"),
        );
    }
    if let Some(target) = literal(&disk.storage_target)
        && !["", "pvc", "storage"].contains(&target)
    {
        report.warn(
            &path.child("storageTarget"),
            format!("{target:?} is neither pvc nor storage; storage is used"),
        );
    }
    if !disk.extra_headers.is_empty() && !disk.extra_headers_secret.is_unset() {
        report.forbidden(
            &path.child("extraHeadersSecretRef"),
            "is mutually exclusive with extraHeaders; keep one of them",
        );
    }
    let (Some(location), source) = (literal(&disk.os_image), literal(&disk.source).unwrap_or_default())
    else {
        return;
    };
    let image = Image {
        location: location.to_owned(),
        source: source.to_owned(),
        ..Image::default()
    };
    let legal = match source_kind(&image) {
        SourceKind::Http => location.starts_with("http://") || location.starts_with("https://"),
        SourceKind::Registry => location.starts_with("docker://") || location.starts_with("oci-archive://"),
        SourceKind::Claim => true,
    };
    if !legal && !location.is_empty() && disk.source.reference().is_none() {
        let want = "http://…, https://…, docker://…, oci-archive://… or the name of a PVC";
        report.invalid(
            &path.child("osImage"),
            format!("{location:?} is no source that CDI can import; write {want}"),
        );
    }
}

fn dns(vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    const POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    let nameservers = vm
        .dns_config
        .as_ref()
        .and_then(|config| config.nameservers.as_ref())
        .map_or(0, Vec::len);
    if let Some(policy) = literal(&vm.dns_policy).filter(|policy| !policy.is_empty()) {
        if !POLICIES.contains(&policy) {
            report.not_supported(&path.child("dnsPolicy"), policy, &POLICIES);
        } else if policy == "None" && nameservers == 0 {
            let path = path.child("dnsConfig").child("nameservers");
            report.required(&path, "at least one nameserver is required with dnsPolicy None");
        }
    }
    if nameservers > 3 {
        let path = path.child("dnsConfig").child("nameservers");
        report.invalid(
            &path,
            format!("KubeVirt takes at most 3 nameservers, not {nameservers}"),
        );
    }
}

fn access_mode(var: &ConfigVarString, path: &FieldPath, report: &mut Report) {
    const MODES: [&str; 4] = [
        "ReadWriteOnce",
        "ReadWriteMany",
        "ReadOnlyMany",
        "ReadWriteOncePod",
    ];
    if let Some(mode) = literal(var)
        && !mode.is_empty()
        && !MODES.contains(&mode)
    {
        report.not_supported(path, mode, &MODES);
    }
}

fn required(var: &ConfigVarString, path: &FieldPath, what: &str, report: &mut Report) {
    if var.is_unset() || literal(var) == Some("") {
        report.required(path, format!("is required; {what}"));
    }
}

fn required_size(var: &ConfigVarString, path: &FieldPath, report: &mut Report) {
    if var.is_unset() {
        report.required(path, "is required, a quantity like 10Gi");
    } else if let Some(text) = literal(var) {
        positive(text, path, report);
    }
}

/// A Kubernetes quantity above zero.
fn positive(text: &str, path: &FieldPath, report: &mut Report) {
    match ParsedQuantity::try_from(text) {
        Err(_) => report.invalid(
            path,
            format!("{text:?} is not a quantity; write one like 2, 500m, 4Gi or 10G"),
        ),
        Ok(quantity) if quantity.to_bytes_f64().is_none_or(|amount| amount <= 0.0) => {
            report.invalid(path, format!("{text:?} must be more than zero"));
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::decode::Fields;

    fn good() -> Value {
        json!({
            "clusterName": "c",
            "virtualMachine": {
                "instancetype": {"name": "standard-2"},
                "template": {"primaryDisk": {"osImage": "http://x/ubuntu.img", "size": "10Gi", "storageClassName": "standard"}},
            },
        })
    }

    fn judge(extra: &Value) -> Report {
        let mut spec = good();
        json_patch::merge(&mut spec, extra);
        let (object, mut report) = (json!({"s": spec}), Report::new());
        let mut fields = Fields::of(&object, FieldPath::default(), &mut report).unwrap();
        if let Some(spec) = super::super::spec::decode(&fields.take("s"), &mut report) {
            validate(&spec, &FieldPath::new("s"), &mut report);
        }
        report
    }

    fn vm(extra: &Value) -> Value {
        json!({"virtualMachine": extra})
    }

    #[test]
    fn a_plain_spec_is_fine() {
        assert_eq!(judge(&json!({})), Report::new());
    }

    #[rstest]
    #[case::unknown_key(vm(&json!({"instancetyp": {}})), "s.virtualMachine.instancetyp")]
    #[case::no_size(vm(&json!({"template": {"primaryDisk": {"size": null}}})), "s.virtualMachine.template.primaryDisk.size")]
    #[case::bad_size(vm(&json!({"template": {"primaryDisk": {"size": "10Gb"}}})), "s.virtualMachine.template.primaryDisk.size")]
    #[case::zero_size(vm(&json!({"template": {"primaryDisk": {"size": "0"}}})), "s.virtualMachine.template.primaryDisk.size")]
    #[case::no_class(vm(&json!({"template": {"primaryDisk": {"storageClassName": ""}}})), "s.virtualMachine.template.primaryDisk.storageClassName")]
    #[case::no_memory(vm(&json!({"instancetype": null, "template": {"cpus": 2}})), "s.virtualMachine.template.memory")]
    #[case::no_cpus(vm(&json!({"instancetype": null, "template": {"memory": "1Gi"}})), "s.virtualMachine.template.cpus")]
    #[case::negative_memory(vm(&json!({"instancetype": null, "template": {"cpus": 2, "memory": "-1Gi"}})), "s.virtualMachine.template.memory")]
    #[case::negative_cores(vm(&json!({"template": {"vcpus": {"cores": -2}}})), "s.virtualMachine.template.vcpus.cores")]
    #[case::eviction(vm(&json!({"evictionStrategy": "LiveMigrat"})), "s.virtualMachine.evictionStrategy")]
    #[case::dns_policy(vm(&json!({"dnsPolicy": "none"})), "s.virtualMachine.dnsPolicy")]
    #[case::dns_none(vm(&json!({"dnsPolicy": "None"})), "s.virtualMachine.dnsConfig.nameservers")]
    #[case::headers_twice(vm(&json!({"template": {"primaryDisk": {"extraHeaders": ["a: b"], "extraHeadersSecretRef": "s"}}})), "s.virtualMachine.template.primaryDisk.extraHeadersSecretRef")]
    #[case::pull_method(vm(&json!({"template": {"primaryDisk": {"pullMethod": "host"}}})), "s.virtualMachine.template.primaryDisk.pullMethod")]
    #[case::image_scheme(vm(&json!({"template": {"primaryDisk": {"osImage": "ftp://x/y"}}})), "s.virtualMachine.template.primaryDisk.osImage")]
    #[case::affinity(json!({"affinity": {"nodeAffinityPreset": {"type": "hrd", "key": "k"}}}), "s.affinity.nodeAffinityPreset.type")]
    #[case::skew(json!({"topologySpreadConstraints": [{"maxSkew": "0", "topologyKey": "k"}]}), "s.topologySpreadConstraints[0].maxSkew")]
    #[case::cluster_name(json!({"clusterName": "a b"}), "s.clusterName")]
    #[case::kubeconfig(json!({"auth": {"kubeconfig": "apiVersion: v1"}}), "s.auth.kubeconfig")]
    fn each_mistake_is_told_with_its_field(#[case] extra: Value, #[case] path: &str) {
        let report = judge(&extra);
        let paths: Vec<String> = report.errors.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(paths, [path]);
    }

    #[test]
    fn the_shipped_example_of_machine_controller_passes_with_a_warning() {
        let report = judge(&json!({
            "topologySpreadConstraints": [{"maxSkew": "1", "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": ""}],
            "affinity": {"nodeAffinityPreset": {"type": "", "key": "", "values": []}},
        }));
        assert!(report.is_ok(), "{:?}", report.errors);
        assert_eq!(report.warnings.len(), 1);
    }
}
