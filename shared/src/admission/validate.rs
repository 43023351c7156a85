//! Validation of a new Machine: everything that can be checked without the infra cluster, all at once.

use std::collections::BTreeMap;

use serde_json::Value;

use super::shape::{MACHINE, MACHINE_SPEC};
use super::subject::Subject;
use super::{AdmissionSettings, Author};
use crate::admission::startup_taints;
use crate::admission::{kubelet_settings, kubelet_version};
use crate::api::ValueAt;
use crate::api::field::{ErrorKind, FieldPath, Report};
use crate::api::names::{self, annotation, is_ccm_provider_id_of};
use crate::api::raw::{Object, object_at};
use crate::api::{duration, syntax};
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
    warn_annotations(annotations, &metadata, &mut report);
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
        "must not be set: the controller writes it when it knows the VM",
    );
}

/// Warns of annotations that the built-in bootstrap cannot use, below the metadata at `path`, of a template as well.
/// They have never been refused.
pub(super) fn warn_annotations(annotations: Option<&Value>, path: &FieldPath, report: &mut Report) {
    let annotations = annotations.and_then(Value::as_object).into_iter().flatten();
    let annotations: BTreeMap<String, String> = annotations
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let path = path.child("annotations");
    for error in kubelet_settings::read(&annotations).1 {
        let why = format!("the kubelet does not get this setting: {}", error.why);
        report.warn(&path.child(&error.annotation), why);
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
            let hint = crate::api::field::did_you_mean(key, known.iter().copied());
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
    validate_version(
        spec,
        &path.child("versions").child("kubelet"),
        settings,
        report,
        policy,
    );
    if spec.get("configSource").is_some_and(|source| !source.is_null()) {
        policy.forbidden(
            &path.child("configSource"),
            "must not be set: no supported kubelet reads it",
        );
    }
    warn_taints(spec, &path.child("taints"), report);
    warn_metadata(spec, &path.child("metadata"), report);
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
    settings: &AdmissionSettings,
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
        Ok(_) => {}
    }
}

/// Taints that Nodes reject have always been admitted; the user gets a warning.
fn warn_taints(spec: &Object, path: &FieldPath, report: &mut Report) {
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
            report.warn(&path.child("key"), format!("Nodes reject this taint: {why}"));
        }
        if let Err(why) = syntax::label_value(text("value")) {
            report.warn(&path.child("value"), format!("Nodes reject this taint: {why}"));
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effects.contains(&text("effect")) {
            let hint = crate::api::field::did_you_mean(text("effect"), effects);
            report.warn(
                &path.child("effect"),
                format!(
                    "Nodes reject this taint: must be one of {}{hint}",
                    effects.join(", ")
                ),
            );
        }
    }
}

/// The same for labels and annotations.
fn warn_metadata(spec: &Object, path: &FieldPath, report: &mut Report) {
    for (key, value) in object_at(spec, &["metadata", "labels"]).into_iter().flatten() {
        let path = path.child("labels").child(key);
        if let Err(why) =
            syntax::qualified_name(key).and(syntax::label_value(value.as_str().unwrap_or_default()))
        {
            report.warn(&path, format!("Nodes reject this label: {why}"));
        }
    }
    for (key, _) in object_at(spec, &["metadata", "annotations"])
        .into_iter()
        .flatten()
    {
        if let Err(why) = syntax::qualified_name(&key.to_lowercase()) {
            report.warn(
                &path.child("annotations").child(key),
                format!("Nodes reject this annotation: {why}"),
            );
        }
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
            let mut report = Report::new();
            let annotations = json!({key: text});
            warn_annotations(Some(&annotations), &FieldPath::new("metadata"), &mut report);
            assert_eq!(report.warnings.is_empty(), known, "{:?}", report.warnings);
            assert!(known || report.warnings[0].contains(text));
        }
    }
}
