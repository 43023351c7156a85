//! Validation of a new Machine: everything that can be checked without the infra cluster, all at once.

use std::collections::BTreeMap;

use serde_json::Value;

use super::shape::{MACHINE, MACHINE_SPEC};
use super::subject::Subject;
use super::{AdmissionSettings, Author};
use crate::admission::{kubelet_settings, kubelet_version};
use crate::admission::{own_names, startup_taints};
use crate::api::ValueAt;
use crate::api::did_you_mean::did_you_mean;
use crate::api::field::{ErrorKind, FieldPath, Report};
use crate::api::names::{self, annotation, is_ccm_provider_id_of};
use crate::api::raw::{Object, object_at};
use crate::api::{duration, syntax};
use crate::kubevirt::topology;
use crate::provider::Spec;
use crate::providers;

/// Validates a new Machine, after its defaults are added.
pub fn validate_create(raw: &Value, author: Author, settings: &AdmissionSettings) -> Report {
    validate_create_subject(&Subject::new(raw, ValueAt::MACHINE), author, settings)
}

/// Validates a [`Subject`], whose decoded spec later checks reuse.
pub fn validate_create_subject(
    machine: &Subject<'_>,
    author: Author,
    settings: &AdmissionSettings,
) -> Report {
    let raw = machine.object();
    if !raw.is_object() {
        return not_an_object();
    }
    let (mut report, root) = (Report::new(), FieldPath::default());
    MACHINE.check(raw, &root, &mut report);
    let mut policy = Report::new();
    let name = raw
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    validate_name(name, &mut report);
    validate_node_name(name, raw, &mut policy);
    let spec = FieldPath::new("spec");
    validate_provider_id(raw.get("spec"), Some(name), &spec, &mut policy);
    let cloud = validate_spec(
        machine,
        raw.get("spec"),
        &spec,
        settings,
        &mut report,
        &mut policy,
    );
    let metadata = FieldPath::new("metadata");
    if let Some(cloud) = cloud {
        cloud.validate_name(name, &metadata.child("name"), &mut report);
    }
    let labels = raw.pointer("/metadata/labels").and_then(Value::as_object);
    let provider = providers::of(raw.pointer("/spec/providerSpec/value"));
    provider.unwrap_or(providers::DEFAULT).validate_labels(
        &mut labels.into_iter().flatten().map(|(key, _)| key.as_str()),
        &metadata.child("labels"),
        &mut report,
    );
    let annotations = raw.pointer("/metadata/annotations");
    let is_builtin = settings.is_builtin(raw);
    validate_annotations(annotations, is_builtin, &metadata, &mut report, &mut policy);
    own_names::warn_of_machine(raw.get("metadata"), &metadata, &mut report);
    validate_startup_taints(annotations, raw.get("spec"), &metadata, &mut policy);
    merge(report, policy, author)
}

/// A providerID belongs to one Machine, and the autoscaler accepts no duplicates. So a new Machine and a template have
/// none. Only that of a cloud controller manager, which consists of the name, can be known in advance.
pub(super) fn validate_provider_id(
    spec: Option<&Value>,
    name: Option<&str>,
    path: &FieldPath,
    policy: &mut Report,
) {
    let id = spec
        .and_then(|spec| spec.get("providerID"))
        .and_then(Value::as_str);
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return;
    };
    if name.is_some_and(|name| is_ccm_provider_id_of(name, id)) {
        return;
    }
    policy.forbidden(
        &path.child("providerID"),
        "must not be set: the controller writes it when it knows the VM; remove it from a copied manifest",
    );
}

/// Annotations that the built-in bootstrap reads and could not use: found below the metadata at `path`, of a template as
/// well. With a setting that no kubelet starts with, the built-in bootstrap makes no user data, and no Node comes of it.
pub(super) fn validate_annotations(
    annotations: Option<&Value>,
    is_builtin: bool,
    path: &FieldPath,
    report: &mut Report,
    policy: &mut Report,
) {
    let annotations = annotations.and_then(Value::as_object).into_iter().flatten();
    let annotations: BTreeMap<String, String> = annotations
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let path = path.child("annotations");
    for error in kubelet_settings::read(&annotations).1 {
        let why = format!(
            "the node is not made with this setting of its kubelet: {}",
            error.why
        );
        let path = path.child(&error.annotation);
        if is_builtin {
            policy.invalid(&path, why);
        } else {
            report.warn(&path, why);
        }
    }
    if let Some(mode) = annotations.get(annotation::BOOTSTRAP)
        && !mode.is_empty()
        && !names::BOOTSTRAP_MODES.contains(&mode.as_str())
    {
        let why = format!("{mode:?} is not one of {}", names::BOOTSTRAP_MODES.join(", "));
        report.warn(&path.child(annotation::BOOTSTRAP), why);
    }
    for key in [
        annotation::DRAIN_TIMEOUT,
        annotation::DETACH_TIMEOUT,
        annotation::NODE_DELETION_TIMEOUT,
    ] {
        let Some(text) = annotations.get(key).filter(|text| duration::parse(text).is_err()) else {
            continue;
        };
        let why = format!("{text:?} is not a duration like 10m or 1h30m; no timeout applies");
        report.warn(&path.child(key), why);
    }
}

/// Validates the annotation that names startup taints, below the metadata at `path`, of a template as well. A
/// misspelled key would match no taint, and the taint would be restored again and again.
pub(super) fn validate_startup_taints(
    annotations: Option<&Value>,
    spec: Option<&Value>,
    path: &FieldPath,
    policy: &mut Report,
) {
    let named = annotations.and_then(|annotations| annotations.get(annotation::STARTUP_TAINTS)?.as_str());
    let taints = spec.and_then(|spec| spec.get("taints")?.as_array());
    let taints = taints.into_iter().flatten();
    let known: Vec<&str> = taints.filter_map(|taint| taint.get("key")?.as_str()).collect();
    for key in startup_taints::keys(named.unwrap_or_default()) {
        if !known.contains(&key) {
            let hint = did_you_mean(key, known.iter().copied());
            let why = format!("{key:?} is not the key of a taint in spec.taints{hint}");
            policy.invalid(&path.child("annotations").child(annotation::STARTUP_TAINTS), why);
        }
    }
}

/// Validates the spec of a Machine at `path`, in a template as well. Shape errors are already in `report`. Errors that
/// prevent rendering go to `report`, other reasons to refuse to `policy`. Returns the provider's part, as far as it
/// could be decoded.
pub(super) fn validate_spec<'a>(
    subject: &'a Subject<'_>,
    spec: Option<&Value>,
    path: &FieldPath,
    settings: &AdmissionSettings,
    report: &mut Report,
    policy: &mut Report,
) -> Option<&'a dyn Spec> {
    let empty = Object::new();
    let spec = match spec {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(spec)) => spec,
        // A value of a wrong type is already reported.
        Some(_) => return None,
    };
    let cloud = validate_provider(
        subject,
        spec,
        &path.child("providerSpec"),
        settings,
        report,
        policy,
    );
    let is_builtin = settings.is_builtin(subject.object());
    validate_version(
        spec,
        &path.child("versions").child("kubelet"),
        (settings, is_builtin),
        report,
        policy,
    );
    if spec.get("configSource").is_some_and(|source| !source.is_null()) {
        policy.forbidden(
            &path.child("configSource"),
            "must not be set: no supported kubelet reads it",
        );
    }
    validate_taints(spec, &path.child("taints"), report, policy);
    validate_metadata(spec, &path.child("metadata"), policy);
    own_names::warn_of_node(spec.get("metadata"), &path.child("metadata"), report);
    topology::warn_unlabelled(spec, path, report);
    cloud
}

/// The report on a value that is not an object.
pub(super) fn not_an_object() -> Report {
    let mut report = Report::new();
    report.error(&FieldPath::new("<object>"), ErrorKind::Type, "must be an object");
    report
}

/// Merges reasons that are not about rendering, depending on the author.
pub(super) fn merge(mut report: Report, policy: Report, author: Author) -> Report {
    match author {
        Author::Person => report.extend(policy),
        Author::SetController => {
            report
                .warnings
                .extend(policy.errors.iter().map(ToString::to_string));
            report.warnings.extend(policy.warnings);
        }
    }
    report
}

/// Virtual machine, Node and labels have the Machine's name.
fn validate_name(name: &str, report: &mut Report) {
    if name.len() > syntax::LABEL_MAX {
        let path = FieldPath::new("metadata").child("name");
        report.invalid(
            &path,
            "must be no more than 63 characters: it becomes a label of the virtual machine",
        );
    }
}

fn validate_node_name(name: &str, raw: &Value, policy: &mut Report) {
    let node = raw
        .pointer("/spec/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !node.is_empty() && node != name {
        let path = FieldPath::new("spec").child("metadata").child("name");
        policy.invalid(
            &path,
            format!("{node:?} must be the Machine's own name, or be unset"),
        );
    }
}

fn validate_provider<'a>(
    subject: &'a Subject<'_>,
    spec: &Object,
    path: &FieldPath,
    settings: &AdmissionSettings,
    report: &mut Report,
    policy: &mut Report,
) -> Option<&'a dyn Spec> {
    let provider = match spec.get("providerSpec") {
        None | Some(Value::Null) => None,
        Some(Value::Object(provider)) => Some(provider),
        Some(_) => return None,
    };
    if provider.is_some_and(|p| p.get("valueFrom").is_some_and(|from| !from.is_null())) {
        report.warn(&path.child("valueFrom"), "has no effect; use value");
    }
    let value_path = path.child("value");
    let config = subject.config();
    report.extend(subject.faults().clone());
    config.validate_ssh_keys(&value_path, policy);
    let cloud = config.cloud_provider_spec.as_deref()?;
    cloud.validate(
        settings.overridden,
        &value_path.child("cloudProviderSpec"),
        report,
    );
    Some(cloud)
}

fn validate_version(
    spec: &Object,
    path: &FieldPath,
    (settings, is_builtin): (&AdmissionSettings, bool),
    report: &mut Report,
    policy: &mut Report,
) {
    let found = spec.get("versions").and_then(|versions| versions.get("kubelet"));
    let text = match found {
        _ if spec
            .get("versions")
            .is_some_and(|v| !v.is_object() && !v.is_null()) =>
        {
            return;
        }
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(Value::Number(_)) => {
            // The check of the shape reports the wrong type, but not why users meet it.
            report.invalid(
                path,
                "write the version in quotes and with all three numbers, like \"1.33.4\": YAML reads 1.30 as the number 1.3",
            );
            return;
        }
        Some(_) => return,
    };
    if text.is_empty() {
        report.required(path, "must be set, like 1.33.4");
        return;
    }
    match kubelet_version::parse(text) {
        Err(error) => report.invalid(path, error.to_string()),
        Ok(version) if !settings.version_constraint.allows(&version) => {
            let hint = if version.pre.is_empty() {
                ""
            } else {
                "; pre-releases need a constraint that names one"
            };
            policy.invalid(
                path,
                format!(
                    "{text:?} does not satisfy {:?}{hint}",
                    settings.version_constraint.to_string()
                ),
            );
        }
        Ok(version) if !kubelet_version::is_whole(text) => {
            let why = format!(
                "{text:?} is the version of no release; write all three numbers without leading zeros, like {}.{}.4",
                version.major, version.minor
            );
            if is_builtin {
                policy.invalid(path, why);
            } else {
                report.warn(path, why);
            }
        }
        Ok(_) => {}
    }
}

/// Taints that no Node takes: the Node is never decorated, and pods come onto it that shall not.
fn validate_taints(spec: &Object, path: &FieldPath, report: &mut Report, policy: &mut Report) {
    let taints = spec.get("taints").and_then(Value::as_array);
    let mut known = Vec::new();
    for (i, taint) in taints.into_iter().flatten().enumerate() {
        let text = |key: &str| taint.get(key).and_then(Value::as_str).unwrap_or_default();
        let path = path.index(i);
        let identity = (text("key"), text("effect"));
        if known.contains(&identity) {
            report.warn(&path, "repeats key and effect of an earlier taint and is ignored");
        }
        known.push(identity);
        if let Err(why) = syntax::qualified_name(text("key")) {
            let text = text("key");
            policy.invalid(
                &path.child("key"),
                format!("{text:?}: no Node takes this taint: {why}"),
            );
        }
        if let Err(why) = syntax::label_value(text("value")) {
            let text = text("value");
            policy.invalid(
                &path.child("value"),
                format!("{text:?}: no Node takes this taint: {why}"),
            );
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effects.contains(&text("effect")) {
            let hint = did_you_mean(text("effect"), effects);
            let text = text("effect");
            policy.invalid(
                &path.child("effect"),
                format!(
                    "{text:?}: no Node takes this taint: must be one of {}{hint}",
                    effects.join(", ")
                ),
            );
        }
    }
}

/// What the API server takes of all annotations of an object.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Labels and annotations that no Node takes.
fn validate_metadata(spec: &Object, path: &FieldPath, policy: &mut Report) {
    for (key, value) in object_at(spec, &["metadata", "labels"]).into_iter().flatten() {
        let path = path.child("labels").child(key);
        let value = value.as_str().unwrap_or_default();
        if let Err(why) = syntax::qualified_name(key) {
            policy.invalid(&path, format!("{key:?}: no Node takes this label: {why}"));
        } else if let Err(why) = syntax::label_value(value) {
            policy.invalid(&path, format!("{value:?}: no Node takes this label: {why}"));
        }
    }
    let mut size = 0;
    for (key, value) in object_at(spec, &["metadata", "annotations"])
        .into_iter()
        .flatten()
    {
        size += key.len() + value.as_str().unwrap_or_default().len();
        if let Err(why) = syntax::qualified_name(&key.to_lowercase()) {
            policy.invalid(
                &path.child("annotations").child(key),
                format!("{key:?}: no Node takes this annotation: {why}"),
            );
        }
    }
    if size > MAX_ANNOTATIONS {
        let why = format!("{size} bytes of annotations: a Node takes {MAX_ANNOTATIONS} at most");
        policy.invalid(&path.child("annotations"), why);
    }
}

/// Validates only the spec of a Machine, as for a bypassed change.
pub(super) fn inspect_spec(machine: &Value, settings: &AdmissionSettings) -> Report {
    let spec = machine.get("spec");
    let (mut report, mut policy, path) = (Report::new(), Report::new(), FieldPath::new("spec"));
    MACHINE_SPEC.check(spec.unwrap_or(&Value::Null), &path, &mut report);
    let subject = Subject::new(machine, ValueAt::MACHINE);
    validate_spec(&subject, spec, &path, settings, &mut report, &mut policy);
    merge(report, policy, Author::Person)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::a_taint_of_the_spec("a.example.com/warming-up", None)]
    #[case::two_of_them("a.example.com/warming-up,gpu", None)]
    #[case::none("", None)]
    #[case::a_misspelled_one("gpu, a.example.com/warming-ups", Some("did you mean"))]
    #[case::one_that_is_not_there("ready", Some("\"ready\" is not the key"))]
    fn a_startup_taint_must_be_a_taint_of_the_spec(#[case] text: &str, #[case] why: Option<&str>) {
        let mut policy = Report::new();
        let annotations = json!({annotation::STARTUP_TAINTS: text});
        let spec = json!({"taints": [{"key": "a.example.com/warming-up", "effect": "NoSchedule"}, {"key": "gpu", "effect": "NoExecute"}]});
        let metadata = FieldPath::new("metadata");
        validate_startup_taints(Some(&annotations), Some(&spec), &metadata, &mut policy);
        let said: Vec<String> = policy.errors.iter().map(ToString::to_string).collect();
        match why {
            None => assert!(said.is_empty(), "{said:?}"),
            Some(why) => assert!(said.len() == 1 && said[0].contains(why), "{said:?}"),
        }
    }

    #[rstest]
    #[case::minutes("10m", true)]
    #[case::hours_and_minutes("1h30m", true)]
    #[case::no_limit("0s", true)]
    #[case::nothing("0", true)]
    #[case::no_unit("600", false)]
    #[case::negative("-5m", false)]
    #[case::no_number("soon", false)]
    fn a_malformed_timeout_is_reported(#[case] text: &str, #[case] known: bool) {
        for key in [
            "machinist.dev/node-drain-timeout",
            "machinist.dev/node-volume-detach-timeout",
            "machinist.dev/node-deletion-timeout",
        ] {
            let (mut report, mut policy) = (Report::new(), Report::new());
            let annotations = json!({key: text});
            let path = FieldPath::new("metadata");
            validate_annotations(Some(&annotations), true, &path, &mut report, &mut policy);
            assert_eq!(report.warnings.is_empty(), known, "{:?}", report.warnings);
            assert!(known || report.warnings[0].contains(text));
        }
    }

    /// What the API server takes of no Node, as its own validation has it.
    #[rstest]
    #[case::effect_in_other_letters(json!({"taints": [{"key": "a", "effect": "Noschedule"}]}), "spec.taints[0].effect")]
    #[case::no_effect(json!({"taints": [{"key": "a", "value": "b"}]}), "spec.taints[0].effect")]
    #[case::effect_with_a_blank(json!({"taints": [{"key": "a", "effect": "NoSchedule "}]}), "spec.taints[0].effect")]
    #[case::no_key(json!({"taints": [{"effect": "NoExecute"}]}), "spec.taints[0].key")]
    #[case::key_with_value(json!({"taints": [{"key": "a=b", "effect": "NoExecute"}]}), "spec.taints[0].key")]
    #[case::key_of_three_parts(json!({"taints": [{"key": "a/b/c", "effect": "NoExecute"}]}), "spec.taints[0].key")]
    #[case::value_with_a_blank(json!({"taints": [{"key": "a", "value": "db team", "effect": "NoSchedule"}]}), "spec.taints[0].value")]
    #[case::long_value(json!({"taints": [{"key": "a", "value": "x".repeat(64), "effect": "NoSchedule"}]}), "spec.taints[0].value")]
    #[case::long_label(json!({"metadata": {"labels": {"team": "x".repeat(80)}}}), "spec.metadata.labels.team")]
    #[case::label_with_a_blank(json!({"metadata": {"labels": {"team": "a b"}}}), "spec.metadata.labels.team")]
    #[case::label_key(json!({"metadata": {"labels": {"-team": "a"}}}), "spec.metadata.labels.-team")]
    #[case::prefix_in_capitals(json!({"metadata": {"labels": {"Example.com/team": "a"}}}), "spec.metadata.labels[Example.com/team]")]
    #[case::annotation_key(json!({"metadata": {"annotations": {"a b": "c"}}}), "spec.metadata.annotations[a b]")]
    #[case::large_annotations(json!({"metadata": {"annotations": {"a": "x".repeat(300_000)}}}), "spec.metadata.annotations")]
    fn what_no_node_takes_is_refused(#[case] spec: Value, #[case] path: &str) {
        let machine = json!({"metadata": {"name": "m"}, "spec": spec});
        let judge = |author| validate_create(&machine, author, &AdmissionSettings::default());
        let at = |report: &Report| report.errors.iter().any(|error| error.path.to_string() == path);
        let refused = judge(Author::Person);
        assert!(at(&refused), "{:?}", refused.errors);
        let made = judge(Author::SetController);
        assert!(!at(&made), "what sets make is exempt");
        assert!(
            made.warnings.iter().any(|warning| warning.starts_with(path)),
            "{:?}",
            made.warnings
        );
    }

    #[rstest]
    #[case::with_a_letter("v1.33", true, "error")]
    #[case::without_a_patch("1.33", true, "error")]
    #[case::one_number("1", true, "error")]
    #[case::leading_zeros("01.33.4", true, "error")]
    #[case::leading_zeros_of_the_patch("1.33.04", true, "error")]
    #[case::pre_release_without_a_patch("1.34-rc.1", true, "error")]
    #[case::for_others_user_data("v1.33", false, "warning")]
    #[case::whole("1.33.4", true, "nothing")]
    #[case::whole_with_a_letter("v1.33.4", true, "nothing")]
    #[case::of_a_distribution("v1.33.4+k3s1", true, "nothing")]
    fn a_version_has_three_numbers(#[case] text: &str, #[case] is_builtin: bool, #[case] want: &str) {
        let settings = AdmissionSettings {
            version_constraint: ">=0.0.0-0".parse().unwrap(),
            ..AdmissionSettings::default()
        };
        let spec = json!({"versions": {"kubelet": text}});
        let (mut report, mut policy) = (Report::new(), Report::new());
        let path = FieldPath::new("kubelet");
        let spec = spec.as_object().unwrap();
        validate_version(spec, &path, (&settings, is_builtin), &mut report, &mut policy);
        let found = (policy.errors.len(), report.warnings.len());
        let want = match want {
            "error" => (1, 0),
            "warning" => (0, 1),
            _ => (0, 0),
        };
        assert_eq!((found, report.errors.len()), (want, 0), "{policy:?} {report:?}");
    }

    /// Settings with which no kubelet starts: refused where Machinist itself makes the user data.
    #[rstest]
    #[case::by_default(json!({}), true)]
    #[case::by_the_machine(json!({"machinist.dev/bootstrap": "builtin"}), true)]
    #[case::of_others(json!({"machinist.dev/bootstrap": "osm"}), false)]
    fn a_kubelet_setting_that_cannot_be_is_refused(#[case] annotations: Value, #[case] refused: bool) {
        for (key, text) in [
            ("MaxPods", "lots"),
            ("MaxPods", "0"),
            ("EvictionHard", "memory<1Gi"),
            ("KubeReserved", "cpu:1"),
            ("ImageGCLowThresholdPercent", "90"),
            ("ContainerLogMaxFiles", "1"),
            ("NoSuchSetting", "1"),
        ] {
            let mut machine = json!({"metadata": {"name": "m", "annotations": annotations}, "spec": {}});
            let key = format!("v1.kubelet-config.machine-controller.kubermatic.io/{key}");
            machine["metadata"]["annotations"][&key] = json!(text);
            let report = validate_create(&machine, Author::Person, &AdmissionSettings::default());
            let about = |text: &str| text.contains(&key);
            assert_eq!(
                report.errors.iter().any(|e| about(&e.path.to_string())),
                refused,
                "{key}: {:?}",
                report.errors
            );
            assert_eq!(
                report.warnings.iter().any(|w| about(w)),
                !refused,
                "{key}: {:?}",
                report.warnings
            );
        }
    }
}
