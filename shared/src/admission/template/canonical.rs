//! The form of a template that is the same for all templates of which the same is made.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::admission::mutate::default_spec;
use crate::admission::shape::TEMPLATE;
use crate::api::field::{FieldPath, Report};
use crate::api::names::{annotation, label};
use crate::api::raw::{Object, any_case, object_at_mut};
use crate::provider_spec::ProviderConfig;
use crate::provider_spec::operating_system::OperatingSystem;
use crate::providers;

/// The form. What only the environment of the process and the clusters decide is left out.
pub(super) fn canonical(template: &Value) -> Value {
    let (mut template, mut os) = (template.clone(), None);
    if let Some(root) = template.as_object_mut() {
        if let Some(labels) = object_at_mut(root, &["metadata", "labels"]) {
            labels.remove(label::TEMPLATE_HASH);
        }
        if let Some(spec) = object_at_mut(root, &["spec"]) {
            // As admission completes each Machine.
            os = default_spec(spec);
            if let Some(provider) = providers::of_spec(spec) {
                provider.add_defaults(spec, None, "");
            }
        }
    }
    // As typed clients read it.
    let template = TEMPLATE.normal(&template);
    let map = |pointer: &str| {
        let found = template.pointer(pointer).and_then(Value::as_object);
        found.cloned().unwrap_or_default()
    };
    let mut annotations = map("/metadata/annotations");
    // These never get into a Machine of a set.
    annotations.retain(|key, _| !annotation::ADMIN_DECISIONS.contains(&key.as_str()));
    let mut node_labels = map("/spec/metadata/labels");
    if let Some(os) = os {
        let labeled = node_labels.entry(label::OPERATING_SYSTEM);
        labeled.or_insert_with(|| json!(os.as_str()));
    }
    let kubelet = template.pointer("/spec/versions/kubelet");
    let kubelet = kubelet.map(|version| match version.as_str() {
        Some(text) => json!(text.trim_start_matches('v')),
        None => version.clone(),
    });
    let value = template.pointer("/spec/providerSpec/value");
    json!({
        "finalizers": template.pointer("/metadata/finalizers"),
        "labels": map("/metadata/labels"),
        "made": value.map(|value| made(value, &annotations)),
        "annotations": annotations,
        "kubelet": kubelet,
        "node": {
            "labels": node_labels,
            "annotations": map("/spec/metadata/annotations"),
            "taints": template.pointer("/spec/taints"),
        },
    })
}

/// The form without what is only on the Node.
pub(super) fn in_guest(template: &Value) -> Value {
    let mut form = canonical(template);
    let mut keep = |path: &[&str], kept: &dyn Fn(&str) -> bool| {
        let map = form.as_object_mut().and_then(|form| object_at_mut(form, path));
        if let Some(map) = map {
            map.retain(|key, _| kept(key));
        }
    };
    keep(&["annotations"], &|key| {
        !annotation::CHANGED_IN_PLACE.contains(&key)
    });
    keep(&["node"], &|key| key != "taints");
    keep(&["node", "labels"], &|key| {
        [label::REGION, label::ZONE].contains(&key)
    });
    let is_of_kubelet = |key: &str| annotation::KUBELET_PREFIXES.iter().any(|of| key.starts_with(of));
    keep(&["node", "annotations"], &is_of_kubelet);
    form
}

/// What is made of `providerSpec.value`. Of one that cannot be decoded nothing is; then only absent and empty are equal.
fn made(value: &Value, annotations: &Object) -> Value {
    decoded(value, annotations).unwrap_or_else(|| pruned(value))
}

fn decoded(value: &Value, annotations: &Object) -> Option<Value> {
    let mut report = Report::new();
    let config = ProviderConfig::decode(Some(value), &FieldPath::default(), &mut report);
    if !report.is_ok() {
        return None;
    }
    let cloud = config.cloud_provider_spec?;
    let annotations: BTreeMap<_, _> = annotations
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let network = config.network.unwrap_or_default();
    Some(json!({
        "provider": config.cloud_provider?.name(),
        "instance": cloud.canonical()?,
        "machinist": cloud.machinist().canonical(&annotations),
        "system": config.operating_system?.as_str(),
        "settings": settings(config.operating_system?, config.operating_system_spec.as_ref()),
        "sshPublicKeys": config.ssh_public_keys,
        "caPublicKey": config.ca_public_key,
        "network": [json!(network.cidr), json!(network.gateway), json!(network.dns_servers), json!(network.ip_family)],
        "overwriteCloudConfig": config.overwrite_cloud_config,
    }))
}

/// The settings that have an effect: the built-in bootstrap reads exact keys, operating-system-manager any letter case.
fn settings(os: OperatingSystem, spec: Option<&Value>) -> Value {
    let empty = Map::new();
    let spec = spec.and_then(Value::as_object).unwrap_or(&empty);
    let (flags, texts) = os.settings();
    let is_set = |value: &&Value| !(value.is_null() || **value == json!(false) || **value == json!(""));
    let exact = |key: &&str| {
        let value = spec.get(*key).filter(is_set)?;
        (value.is_boolean() || value.is_string()).then(|| ((*key).to_owned(), value.clone()))
    };
    let any = |key: &&str| Some(((*key).to_owned(), any_case(spec, key).filter(is_set)?.clone()));
    let keys = || flags.iter().chain(texts);
    let exact: Object = keys().filter_map(exact).collect();
    let any: Object = keys().filter_map(any).collect();
    json!([exact, any])
}

/// Without what is absent or empty. Items of lists keep their places.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (key.clone(), pruned(value)));
            let there = |value: &Value| match value {
                Value::Null => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(map) => !map.is_empty(),
                _ => true,
            };
            Value::Object(entries.filter(|(_, value)| there(value)).collect())
        }
        Value::Array(items) => items.iter().map(pruned).collect(),
        other => other.clone(),
    }
}
