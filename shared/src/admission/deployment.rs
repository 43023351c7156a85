//! MachineDeployments: defaults of the rollout, and the same defaults and validation of the template as of a Machine.

use serde_json::{Value, json};

use super::pool::{default_replicas, default_template, validate_pool, validate_replicas};
use super::shape::DEPLOYMENT;
use super::subject::Subject;
use super::update::is_deleting;
use super::{AdmissionSettings, Author, own_names};
use crate::admission::autoscaler;
use crate::api::ValueAt;
use crate::api::field::{FieldPath, Report};
use crate::api::raw::{Object, child, object_at, object_at_mut};
use crate::api::{rollout, syntax};
use crate::provider::MachineOwnerKind;

/// Adds defaults to a MachineDeployment; `old` is the stored object, if this is an update. A MachineDeployment that is
/// being deleted is not changed.
pub fn mutate_deployment(old: Option<&Value>, raw: &Value, settings: &AdmissionSettings) -> Value {
    let mut deployment = raw.clone();
    if is_deleting(raw) {
        return deployment;
    }
    let Some(spec) = deployment
        .as_object_mut()
        .and_then(|root| object_at_mut(root, &["spec"]))
    else {
        return deployment;
    };
    default_replicas(old, raw, spec);
    default_rollout(spec);
    if let Some(template) = object_at_mut(spec, &["template", "spec"]) {
        default_template(old, template, settings);
    }
    autoscaler::write(old, deployment, None)
}

fn default_rollout(spec: &mut Object) {
    let mut default = |key: &str, value: Value| {
        let field = spec.entry(key).or_insert(Value::Null);
        if field.is_null() {
            *field = value;
        }
    };
    default("minReadySeconds", json!(0));
    default("revisionHistoryLimit", json!(1));
    default("progressDeadlineSeconds", json!(600));
    let Some(strategy) = child(spec, "strategy") else {
        return;
    };
    if strategy
        .get("type")
        .is_none_or(|t| t.is_null() || t.as_str() == Some(""))
    {
        strategy.insert("type".to_owned(), json!("RollingUpdate"));
    }
    if strategy.get("type").and_then(Value::as_str) != Some("RollingUpdate") {
        return;
    }
    let Some(rolling) = child(strategy, "rollingUpdate") else {
        return;
    };
    for (key, value) in [
        ("maxSurge", rollout::MAX_SURGE),
        ("maxUnavailable", rollout::MAX_UNAVAILABLE),
    ] {
        if rolling.get(key).is_none_or(Value::is_null) {
            rolling.insert(key.to_owned(), json!(value));
        }
    }
}

/// Validates a MachineDeployment after [`mutate_deployment`]; `old` is the stored object, if this is an update. A
/// MachineDeployment that is being deleted always passes, and stored values are never a reason to refuse.
pub fn validate_deployment(old: Option<&Value>, new: &Value, settings: &AdmissionSettings) -> Report {
    let subject = |object| Subject::new(object, ValueAt::TEMPLATE);
    validate_deployment_subject(old.map(subject).as_ref(), &subject(new), settings)
}

/// Validates a [`Subject`], whose decoded spec later checks reuse.
pub fn validate_deployment_subject(
    old: Option<&Subject<'_>>,
    new: &Subject<'_>,
    settings: &AdmissionSettings,
) -> Report {
    let pool = (&*DEPLOYMENT, MachineOwnerKind::Deployment);
    validate_pool(
        pool,
        old,
        new,
        Author::Person,
        settings,
        &|object, spec, report, _| {
            let path = FieldPath::new("spec");
            own_names::warn_of_deployment(object, report);
            let name = object.pointer("/metadata/name").and_then(Value::as_str);
            if name.is_some_and(|name| name.len() > syntax::LABEL_MAX) {
                let why = "is longer than 63 characters; infra clusters reject it as a label of the virtual machines";
                report.warn(&FieldPath::new("metadata.name"), why);
            }
            validate_replicas(spec, &path.child("replicas"), report);
            validate_deadline(spec, &path.child("progressDeadlineSeconds"), report);
            autoscaler::validate(object, report);
            validate_strategy(spec, &path.child("strategy"), report);
        },
    )
}

/// If Nodes become available only after the deadline, every rollout appears stuck.
fn validate_deadline(spec: &Object, path: &FieldPath, report: &mut Report) {
    let seconds = |key: &str| spec.get(key).and_then(Value::as_i64);
    if let (Some(ready), Some(deadline)) = (seconds("minReadySeconds"), seconds("progressDeadlineSeconds"))
        && ready >= deadline
    {
        let why = format!(
            "{deadline} is not above minReadySeconds ({ready}): every rollout will exceed its deadline"
        );
        report.warn(path, why);
    }
}

fn validate_strategy(spec: &Object, path: &FieldPath, report: &mut Report) {
    let Some(strategy) = object_at(spec, &["strategy"]) else {
        return;
    };
    match strategy.get("type").and_then(Value::as_str).unwrap_or_default() {
        "RollingUpdate" => {}
        // OnDelete does not roll, so the limits have no effect.
        "OnDelete" => return,
        kind => return report.not_supported(&path.child("type"), kind, &["RollingUpdate", "OnDelete"]),
    }
    let path = path.child("rollingUpdate");
    let Some(rolling) = object_at(strategy, &["rollingUpdate"]) else {
        return;
    };
    let resolved = |key: &str, default: i32, report: &mut Report| {
        let (value, path) = (rolling.get(key).unwrap_or(&Value::Null), path.child(key));
        let amount = match value {
            Value::Null => return Some(default.into()),
            Value::String(text) => rollout::percentage(text),
            // The shape check reports it.
            other => Some(other.as_i64()?),
        };
        match amount {
            None => report.invalid(
                &path,
                format!("{value} is not a number or percentage, like 1 or 25%"),
            ),
            Some(n) if n < 0 => report.invalid(&path, format!("{value} must not be negative")),
            Some(n) if n > 100 && value.is_string() && key == "maxUnavailable" => {
                report.invalid(&path, format!("{value} must not be more than 100%"));
            }
            Some(n) => return Some(n),
        }
        None
    };
    let unavailable = resolved("maxUnavailable", rollout::MAX_UNAVAILABLE, report);
    let surge = resolved("maxSurge", rollout::MAX_SURGE, report);
    if (unavailable, surge) == (Some(0), Some(0)) {
        report.invalid(
            &path.child("maxUnavailable"),
            "must not be 0 when maxSurge is 0, or no Machine could ever be replaced",
        );
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::api::names::label;

    fn deployment(labels: &Value, class: &str) -> Value {
        json!({"spec": {"template": {"spec": {"metadata": {"labels": labels}, "providerSpec": {"value": {
            "cloudProvider": "kubevirt", "operatingSystem": "ubuntu",
            "cloudProviderSpec": {"virtualMachine": {"template": {"primaryDisk": {"storageClassName": class}}}},
        }}}}}})
    }

    #[rstest]
    #[case::as_stored(json!({"a": "b", label::ZONE: "z1"}), json!({"a": "b", label::ZONE: "z1"}))]
    #[case::left_out_as_in_a_manifest(json!({"a": "b"}), json!({"a": "b", label::ZONE: "z1"}))]
    #[case::chosen_by_the_author(json!({"a": "b", label::ZONE: "z2"}), json!({"a": "b", label::ZONE: "z2"}))]
    #[case::emptied_by_the_author(json!({"a": "b", label::ZONE: ""}), json!({"a": "b", label::ZONE: ""}))]
    #[case::one_more(json!({"a": "b", label::REGION: "r"}), json!({"a": "b", label::REGION: "r", label::ZONE: "z1"}))]
    fn a_stored_topology_stays_unless_the_author_writes_another(#[case] labels: Value, #[case] want: Value) {
        let stored = deployment(&json!({"a": "b", label::ZONE: "z1"}), "fast");
        let mutated = mutate_deployment(
            Some(&stored),
            &deployment(&labels, "fast"),
            &AdmissionSettings::default(),
        );
        assert_eq!(
            mutated.pointer("/spec/template/spec/metadata/labels"),
            Some(&want)
        );
    }

    fn sized(min: &str, max: &str, replicas: &Value) -> Value {
        let size = |which: &str| format!("cluster.k8s.io/cluster-api-autoscaler-node-group-{which}-size");
        let (min_size, max_size) = (size("min"), size("max"));
        let mut object =
            json!({"kind": "MachineDeployment", "spec": {"replicas": replicas, "template": {"spec": {}}}});
        if !max.is_empty() {
            object["metadata"]["annotations"] = json!({min_size: min, max_size: max});
        }
        object
    }

    /// A user who removes `replicas` from a manifest hands the pool over to the autoscaler.
    #[rstest]
    #[case::handed_over(sized("1", "6", &json!(null)), Some(6), 6)]
    #[case::above_the_largest(sized("1", "6", &json!(null)), Some(9), 6)]
    #[case::below_the_smallest(sized("2", "6", &json!(null)), Some(1), 2)]
    #[case::of_none(sized("0", "6", &json!(null)), Some(0), 0)]
    #[case::new(sized("2", "4", &json!(null)), None, 2)]
    #[case::new_from_none(sized("0", "4", &json!(null)), None, 0)]
    #[case::written(sized("1", "6", &json!(2)), Some(6), 2)]
    #[case::without_sizes(sized("", "", &json!(null)), Some(6), 1)]
    #[case::of_sizes_that_are_none(sized("x", "6", &json!(null)), Some(6), 1)]
    fn replicas_that_are_left_out_of_a_node_group_are_the_autoscalers(
        #[case] manifest: Value,
        #[case] stored: Option<i64>,
        #[case] want: i64,
    ) {
        let old = stored.map(|stored| sized("1", "6", &json!(stored)));
        let mutated = mutate_deployment(old.as_ref(), &manifest, &AdmissionSettings::default());
        assert_eq!(mutated.pointer("/spec/replicas"), Some(&json!(want)));
        if stored.is_none() {
            let set =
                crate::admission::mutate_set(None, &manifest, Author::Person, &AdmissionSettings::default());
            assert_eq!(set.pointer("/spec/replicas"), Some(&json!(want)));
        }
    }

    #[rstest]
    #[case::another_value(json!({"matchLabels": {"pool": "other"}}), true)]
    #[case::narrower(json!({"matchLabels": {"pool": "web", "a": "b"}}), true)]
    #[case::the_same_in_other_words(json!({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["web"]}]}), false)]
    fn a_stored_selector_stays(#[case] selector: Value, #[case] refused: bool) {
        let object = |selector: &Value| {
            json!({"spec": {"replicas": 1, "selector": selector, "strategy": {"type": "RollingUpdate"},
                "template": {"metadata": {"labels": {"pool": "other", "a": "b"}}, "spec": {}}}})
        };
        let (old, new) = (
            object(&json!({"matchLabels": {"pool": "web"}})),
            object(&selector),
        );
        let at = |report: &Report| {
            report
                .errors
                .iter()
                .any(|error| error.path.to_string() == "spec.selector")
        };
        let settings = AdmissionSettings::default();
        assert_eq!(at(&validate_deployment(Some(&old), &new, &settings)), refused);
        assert!(!at(&validate_deployment(None, &new, &settings)));
        let of_set = |author| {
            at(&crate::admission::validate_set(
                Some(&old),
                &new,
                author,
                &settings,
            ))
        };
        assert_eq!(of_set(Author::Person), refused);
        assert!(!of_set(Author::SetController));
    }

    /// What is stored stays, wherever it is in its list by now.
    #[test]
    fn a_stored_taint_that_no_node_takes_is_no_reason_to_refuse() {
        let object =
            |taints: Value| json!({"spec": {"replicas": 1, "template": {"spec": {"taints": taints}}}});
        let bad = json!({"key": "a", "effect": "Noschedule"});
        let good = json!({"key": "b", "effect": "NoSchedule"});
        let old = object(json!([bad]));
        let about_taints = |new: &Value| {
            let report = validate_deployment(Some(&old), new, &AdmissionSettings::default());
            report
                .errors
                .iter()
                .filter(|error| error.path.to_string().contains("taints"))
                .count()
        };
        assert_eq!(about_taints(&object(json!([good, bad]))), 0);
        let worse = json!({"key": "a", "effect": "NoScheduled"});
        assert_eq!(about_taints(&object(json!([good, worse]))), 1);
    }
}
