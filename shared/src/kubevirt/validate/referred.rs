//! Validation of referenced values, where they can be read: like literal values, but they are never shown.

use super::validate;
use crate::api::config_var::{ConfigVar, ConfigVarString, LookupError};
use crate::api::field::{ErrorKind, FieldError, FieldPath, Report};
use crate::kubevirt::spec::CloudProviderSpec;
use crate::provider::{Lookup, Overridden};

/// A referenced value.
struct Read {
    path: FieldPath,
    text: String,
    /// Its reference, for messages.
    from: String,
}

/// Errors in the values that `spec` at `path` references, and missing references: each with its own field, or with the
/// conflicting one. Values that cannot be read now are not validated, nor are the fields in `overridden`. The
/// kubeconfig and `machinist` are validated where they are used.
pub fn referred(
    spec: &CloudProviderSpec,
    overridden: Overridden,
    path: &FieldPath,
    lookup: &Lookup<'_>,
) -> Report {
    let mut report = Report::new();
    let mut read_spec = spec.clone();
    let mut values = Vec::new();
    let template = path.child("virtualMachine").child("template");
    let optional = template.child("primaryDisk").child("storageAccessType");
    for (path, var) in vars(&mut read_spec, overridden, path) {
        let Some(reference) = var.reference().cloned() else {
            continue;
        };
        match lookup(&reference) {
            Ok(text) => {
                *var = ConfigVar::literal(text.clone());
                let from = reference.to_string();
                values.push(Read { path, text, from });
            }
            Err(LookupError::Unavailable(_)) => {}
            // machine-controller ignores the field.
            Err(cause) if path == optional => {
                report.warn(
                    &path,
                    format!(
                        "cannot read {reference}: {cause}; the access mode of the StorageProfile is used"
                    ),
                );
            }
            Err(cause) => {
                report.error(
                    &path,
                    ErrorKind::NotFound,
                    format!("cannot read {reference}: {cause}"),
                );
            }
        }
    }
    if values.is_empty() {
        return report;
    }
    let check = |spec: &CloudProviderSpec| {
        let mut other = Report::new();
        validate(spec, overridden, path, &mut other);
        other.errors
    };
    // Errors without the referenced values are already reported.
    let already_reported = check(spec);
    for error in check(&read_spec) {
        if let Some(read) = values.iter().find(|read| read.path == error.path) {
            report.error(&error.path, error.kind, redacted(&error, read));
        } else if !already_reported.contains(&error) {
            report.error(&error.path, error.kind, mismatch_message(&error, &values));
        }
    }
    report
}

/// The message about a field that conflicts with referenced values, without those values.
fn mismatch_message(error: &FieldError, values: &[Read]) -> String {
    if !values.iter().any(|read| reveals(&error.message, &read.text)) {
        return error.message.clone();
    }
    let mut fields: Vec<_> = values.iter().map(|read| read.path.to_string()).collect();
    fields.sort();
    format!("conflicts with the value behind {}", fields.join(", "))
}

fn reveals(message: &str, text: &str) -> bool {
    !text.is_empty() && message.contains(text)
}

/// The message without the value, which may be a Secret's.
fn redacted(error: &FieldError, read: &Read) -> String {
    let from = &read.from;
    let quoted = format!("{:?}", read.text);
    let message = error.message.replace(&quoted, "the value");
    if !reveals(&message, &read.text) {
        return format!("{from}: {message}");
    }
    format!("{from}: this field does not accept the value")
}

/// All values that can be references and are validated, each with its field.
fn vars<'a>(
    spec: &'a mut CloudProviderSpec,
    overridden: Overridden,
    path: &FieldPath,
) -> Vec<(FieldPath, &'a mut ConfigVarString)> {
    let vm_path = path.child("virtualMachine");
    let template = vm_path.child("template");
    let primary = template.child("primaryDisk");
    let affinity = path.child("affinity").child("nodeAffinityPreset");
    let spread = path.child("topologySpreadConstraints");
    let vm = &mut spec.virtual_machine;
    let disk = &mut vm.primary_disk;
    let mut vars = vec![
        (template.child("cpus"), &mut vm.cpus),
        (template.child("memory"), &mut vm.memory),
        (primary.child("size"), &mut disk.size),
        (primary.child("storageClassName"), &mut disk.storage_class),
        (primary.child("storageAccessType"), &mut disk.access_mode),
        (primary.child("storageTarget"), &mut disk.storage_target),
        (primary.child("osImage"), &mut disk.os_image),
        (primary.child("source"), &mut disk.source),
        (primary.child("pullMethod"), &mut disk.pull_method),
        (primary.child("dataVolumeSecretRef"), &mut disk.data_volume_secret),
        (
            primary.child("extraHeadersSecretRef"),
            &mut disk.extra_headers_secret,
        ),
        (vm_path.child("dnsPolicy"), &mut vm.dns_policy),
        (affinity.child("type"), &mut spec.node_affinity.kind),
        (affinity.child("key"), &mut spec.node_affinity.key),
    ];
    if !overridden.cluster_name {
        vars.push((path.child("clusterName"), &mut spec.cluster_name));
    }
    if !overridden.project_id {
        vars.push((path.child("projectID"), &mut spec.project_id));
    }
    for (index, disk) in vm.secondary_disks.iter_mut().enumerate() {
        let path = template.child("secondaryDisks").index(index);
        vars.extend([
            (path.child("size"), &mut disk.size),
            (path.child("storageClassName"), &mut disk.storage_class),
            (path.child("storageAccessType"), &mut disk.access_mode),
        ]);
    }
    for (index, value) in spec.node_affinity.values.iter_mut().enumerate() {
        vars.push((affinity.child("values").index(index), value));
    }
    for (index, constraint) in spec.topology_spread.iter_mut().enumerate() {
        let path = spread.index(index);
        vars.extend([
            (path.child("maxSkew"), &mut constraint.max_skew),
            (path.child("topologyKey"), &mut constraint.topology_key),
            (
                path.child("whenUnsatisfiable"),
                &mut constraint.when_unsatisfiable,
            ),
        ]);
    }
    vars
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::config_var::KeyRef;
    use crate::api::decode::Fields;

    fn behind(text: &str) -> Value {
        json!({"secretKeyRef": {"namespace": "a", "name": "b", "key": text}})
    }

    /// References lead to what is written in their key.
    fn check(change: &Value) -> Report {
        check_by(change, &|key| Ok(key.key.clone()))
    }

    fn check_by(change: &Value, lookup: &Lookup<'_>) -> Report {
        referred(&spec(change), Overridden::default(), &FieldPath::new("s"), lookup)
    }

    fn spec(change: &Value) -> CloudProviderSpec {
        let mut spec = json!({"clusterName": "c", "virtualMachine": {"template": {
            "cpus": "2", "memory": "4Gi",
            "primaryDisk": {"osImage": "http://x/ubuntu.img", "size": "10Gi", "storageClassName": "standard"},
        }}});
        json_patch::merge(&mut spec, change);
        let (object, mut report) = (json!({"s": spec}), Report::new());
        let mut fields = Fields::of(&object, FieldPath::default(), &mut report).unwrap();
        let spec = super::super::super::spec::decode(&fields.take("s"), &mut report).unwrap();
        assert!(report.is_ok(), "{:?}", report.errors);
        spec
    }

    fn template(fields: &Value) -> Value {
        json!({"virtualMachine": {"template": fields}})
    }

    fn disk(fields: &Value) -> Value {
        template(&json!({"primaryDisk": fields}))
    }

    #[test]
    fn an_access_mode_that_leads_nowhere_is_done_without() {
        let nowhere = |_: &_| Err(LookupError::NoKey);
        let report = check_by(&disk(&json!({"storageAccessType": behind("k")})), &nowhere);
        assert!(report.is_ok(), "{:?}", report.errors);
        assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
        let secondary =
            json!([{"size": "1Gi", "storageClassName": "standard", "storageAccessType": behind("k")}]);
        assert!(!check_by(&template(&json!({"secondaryDisks": secondary})), &nowhere).is_ok());
    }

    #[rstest]
    #[case::zero_memory(template(&json!({"memory": behind("0")})), "s.virtualMachine.template.memory")]
    #[case::memory(template(&json!({"memory": behind("sesame")})), "s.virtualMachine.template.memory")]
    #[case::cpus(template(&json!({"cpus": behind("-1")})), "s.virtualMachine.template.cpus")]
    #[case::no_size(disk(&json!({"size": behind("0Gi")})), "s.virtualMachine.template.primaryDisk.size")]
    #[case::scheme(disk(&json!({"osImage": behind("ftp://sesame")})), "s.virtualMachine.template.primaryDisk.osImage")]
    #[case::access(disk(&json!({"storageAccessType": behind("RWX")})), "s.virtualMachine.template.primaryDisk.storageAccessType")]
    #[case::class(disk(&json!({"storageClassName": behind("Not_A_Name")})), "s.virtualMachine.template.primaryDisk.storageClassName")]
    #[case::secondary(template(&json!({"secondaryDisks": [{"size": "1Gi", "storageClassName": "s"}, {"size": behind("no"), "storageClassName": "s"}]})), "s.virtualMachine.template.secondaryDisks[1].size")]
    #[case::dns(json!({"virtualMachine": {"dnsPolicy": behind("Sesame")}}), "s.virtualMachine.dnsPolicy")]
    #[case::label(json!({"clusterName": behind("no label")}), "s.clusterName")]
    #[case::affinity(json!({"affinity": {"nodeAffinityPreset": {"type": behind("Sesame"), "key": "k"}}}), "s.affinity.nodeAffinityPreset.type")]
    #[case::spread(json!({"topologySpreadConstraints": [{"maxSkew": "1", "topologyKey": "k", "whenUnsatisfiable": behind("Sesame")}]}), "s.topologySpreadConstraints[0].whenUnsatisfiable")]
    fn a_value_behind_a_reference_is_judged_and_not_shown(#[case] change: Value, #[case] blamed: &str) {
        let report = check(&change);
        let [error] = report.errors.as_slice() else {
            panic!("{:?}", report.errors);
        };
        assert_eq!(error.path.to_string(), blamed);
        let start = "key ";
        assert!(error.message.starts_with(start), "{}", error.message);
        // The reference itself is named, whose key has the value's text here.
        let (_, said) = error.message.split_once(" of Secret a/b: ").unwrap();
        for shown in ["esame", "RWX", "Not_A_Name", "no label", "0Gi", "-1"] {
            assert!(!said.contains(shown), "{said}");
        }
    }

    #[test]
    fn a_field_that_conflicts_with_a_referenced_value_is_reported() {
        let report = check(&json!({"virtualMachine": {"dnsPolicy": behind("None")}}));
        let [error] = report.errors.as_slice() else {
            panic!("{:?}", report.errors);
        };
        assert_eq!(
            error.to_string(),
            "s.virtualMachine.dnsConfig.nameservers: conflicts with the value behind s.virtualMachine.dnsPolicy"
        );
    }

    #[test]
    fn what_the_environment_sets_is_neither_read_nor_judged() {
        let change = json!({"clusterName": behind("no label"), "projectID": behind("x"), "virtualMachine": {"template": {"cpus": behind("2")}}});
        let lookup = |key: &KeyRef| match key.key.as_str() {
            "x" => Err(LookupError::NoKey),
            text => Ok(text.to_owned()),
        };
        let spec = spec(&change);
        let by = |overridden| {
            let report = referred(&spec, overridden, &FieldPath::new("s"), &lookup);
            report
                .errors
                .iter()
                .map(|error| error.path.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(by(Overridden::default()), ["s.projectID", "s.clusterName"]);
        let both = Overridden {
            cluster_name: true,
            project_id: true,
        };
        assert_eq!(by(both), [""; 0]);
    }

    #[test]
    fn every_missing_reference_is_reported() {
        let change = template(
            &json!({"memory": behind("x"), "cpus": behind("y"), "primaryDisk": {"size": behind("z")}}),
        );
        let report = check_by(&change, &|key: &KeyRef| match key.key.as_str() {
            "x" => Err(LookupError::NoObject),
            "y" => Err(LookupError::NoKey),
            _ => Err(LookupError::Unavailable("no answer".to_owned())),
        });
        let redacted: Vec<_> = report.errors.iter().map(|error| error.path.to_string()).collect();
        let base = "s.virtualMachine.template";
        assert_eq!(redacted, [format!("{base}.cpus"), format!("{base}.memory")]);
    }

    #[test]
    fn what_is_written_down_is_not_judged_again() {
        let report = check(&template(&json!({"memory": "0", "cpus": behind("2")})));
        assert!(report.is_ok(), "{:?}", report.errors);
    }

    #[test]
    fn no_value_that_may_be_behind_a_reference_is_left_out() {
        let mut spec = CloudProviderSpec::default();
        spec.virtual_machine
            .secondary_disks
            .push(crate::kubevirt::spec::SecondaryDisk::default());
        spec.topology_spread
            .push(crate::kubevirt::spec::TopologySpread::default());
        spec.node_affinity.values.push(ConfigVar::default());
        let reference = KeyRef {
            kind: crate::api::config_var::RefKind::Secret,
            namespace: "a".to_owned(),
            name: "b".to_owned(),
            key: "c".to_owned(),
        };
        let judged = vars(&mut spec, Overridden::default(), &FieldPath::default());
        let count = judged.len();
        for (_, var) in judged {
            var.secret_ref = Some(reference.clone());
        }
        assert_eq!(spec.references().len(), count);
        // All others of the spec, set too.
        spec.kubeconfig.secret_ref = Some(reference.clone());
        spec.virtual_machine.network_multi_queue.secret_ref = Some(reference);
        assert_eq!(spec.references().len(), count + 2);
    }
}
