//! The capacity of the nodes of a template.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::admission::subject::Subject;
use crate::api::ValueAt;
use crate::api::config_var::{KeyRef, LookupError};
use crate::api::names::annotation::{self, KUBELET_CONFIG};
use crate::api::names::label;
use crate::api::raw::{Object, object_at};
use crate::api::syntax;
use crate::kubevirt::spec::{CloudProviderSpec, Matcher};
use crate::provider_spec::operating_system::OperatingSystem;

/// Keys that the instancetype determines, if the spec has one.
pub(super) const INSTANCETYPE_KEYS: [&str; 4] = ["cpu", "memory", "gpu-count", "gpu-type"];

/// The known capacity of a node, by annotation key of the autoscaler. `None` means that the node has none of it; a
/// missing key means that it is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity(pub(super) BTreeMap<&'static str, Option<String>>);

impl Capacity {
    /// The known, nonzero capacity.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let known = self.0.iter();
        known.filter_map(|(key, value)| Some((*key, value.as_deref()?)))
    }
}

/// Capacity of the nodes of `spec.template` of a MachineDeployment or MachineSet. `lookup` resolves the template's
/// references (nothing at admission: the author may not be allowed to read them). `instancetype` is the `spec` of the
/// template's instancetype, if known.
pub fn capacity(
    object: &Value,
    lookup: &dyn Fn(&KeyRef) -> Result<String, LookupError>,
    instancetype: Option<&Value>,
) -> Capacity {
    let mut capacity = Capacity::default();
    let Some(spec) = template_spec(object) else {
        return capacity;
    };
    let known = &mut capacity.0;
    let subject = Subject::new(object, ValueAt::TEMPLATE);
    let config = subject.config();
    known.insert("labels", labels(spec, config.operating_system));
    known.insert("taints", taints(spec));
    known.insert("maxPods", max_pods(object));
    let Some(cloud) = &config.cloud_provider_spec else {
        return capacity;
    };
    known.extend(cloud.capacity(lookup, instancetype));
    capacity
}

/// The instancetype of the template, if it names one.
pub fn instancetype(subject: &Subject<'_>) -> Option<Matcher> {
    let cloud = subject.config().cloud_provider_spec.as_ref()?;
    let found = cloud
        .of::<CloudProviderSpec>()?
        .virtual_machine
        .instancetype
        .clone()?;
    (!found.name.is_empty()).then_some(found)
}

fn template_spec(object: &Value) -> Option<&Object> {
    object_at(object.as_object()?, &["spec", "template", "spec"])
}

/// Labels of the Node that a Machine's spec asks for.
fn labels(spec: &Object, os: Option<OperatingSystem>) -> Option<String> {
    let own = object_at(spec, &["metadata", "labels"]).into_iter().flatten();
    let mut labels: BTreeMap<&str, &str> = own
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect();
    if let Some(os) = os {
        labels.entry(label::OPERATING_SYSTEM).or_insert(os.as_str());
    }
    let valid = |(key, value): &(&str, &str)| {
        syntax::qualified_name(key).is_ok() && syntax::label_value(value).is_ok()
    };
    let labels = labels.into_iter().filter(valid);
    list(labels.map(|(key, value)| format!("{key}={value}")))
}

fn taints(spec: &Object) -> Option<String> {
    let taints = spec.get("taints").and_then(Value::as_array).into_iter().flatten();
    list(taints.filter_map(|taint| {
        let text = |key: &str| taint.get(key).and_then(Value::as_str).unwrap_or_default();
        let (key, value, effect) = (text("key"), text("value"), text("effect"));
        let valid = syntax::qualified_name(key).is_ok() && syntax::label_value(value).is_ok();
        let equals = if value.is_empty() { "" } else { "=" };
        (valid && !effect.is_empty()).then(|| format!("{key}{equals}{value}:{effect}"))
    }))
}

/// `maxPods` as the component that generates user data reads it: Machinist from the Machine, and so from the template;
/// operating-system-manager also from a MachineDeployment that names a profile.
fn max_pods(object: &Value) -> Option<String> {
    let of = |object: &Value, key: &str| {
        let mut found = super::annotations(object).filter(|(found, text)| *found == key && !text.is_empty());
        found.next().map(|(_, text)| text.to_owned())
    };
    let key = format!("{KUBELET_CONFIG}MaxPods");
    let template = object.pointer("/spec/template");
    let mode = template.and_then(|template| of(template, annotation::BOOTSTRAP));
    let is_osm =
        mode.as_deref() != Some("builtin") && of(object, annotation::OPERATING_SYSTEM_PROFILE).is_some();
    let text = template
        .and_then(|template| of(template, &key))
        .or_else(|| of(object, &key).filter(|_| is_osm))?;
    text.parse::<u32>().ok().filter(|pods| *pods > 0)?;
    Some(text)
}

fn list(items: impl Iterator<Item = String>) -> Option<String> {
    let items = items.collect::<Vec<_>>();
    (!items.is_empty()).then(|| items.join(","))
}
