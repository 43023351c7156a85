//! Comparison of Machine templates by meaning.
//!
//! A changed template replaces every node of a pool, so its notation must not matter: `null`, absent, `{}` and what
//! admission would fill in are the same, and so are keys of another letter case, quantities of one amount, and the two
//! ways to write a value down. Unknown keys are ignored outside `providerSpec.value`, where typed clients do not see
//! them, and count inside.
//!
//! ```
//! use machinist_shared::admission::template::equal;
//! let template = |taints| serde_json::json!({"spec": {"versions": {"kubelet": "1.33.4"}, "taints": taints}});
//! assert!(equal(&template(serde_json::json!(null)), &template(serde_json::json!([]))));
//! assert!(!equal(&template(serde_json::json!(null)), &template(serde_json::json!([{"key": "a"}]))));
//! ```

mod form;

use serde_json::Value;

use crate::admission::mutate::default_spec;
use crate::admission::shape::TEMPLATE;
use crate::api::names::{annotation, label};
use crate::api::raw::{Object, canonical, object_at_mut};
use crate::providers;

/// Whether two values of `spec.template` mean the same, so that a change from one to the other replaces no Machine.
///
/// The label that distinguishes the MachineSets of a MachineDeployment does not count. Neither do the defaults of
/// admission for the location of the virtual machines: they come from the environment or repeat the location.
pub fn equal(a: &Value, b: &Value) -> bool {
    a == b || normal(a) == normal(b)
}

/// Whether the Machines of one template can become those of the other without a new virtual machine.
///
/// Only values of the Node may change: its labels, annotations and taints, which the guest sets at registration and
/// never again. Region and zone are not among them, because volumes are bound to those. Neither are kubelet settings in
/// annotations, because a guest reads them once. The Machine's own labels and annotations are on the virtual machine as
/// well, except timeouts, which only Machinist reads.
pub fn equal_in_place(a: &Value, b: &Value) -> bool {
    a == b || is_fixed_in_guest(a) == is_fixed_in_guest(b)
}

/// A hash of the template, the same for templates that are [`equal`]. It only becomes part of the names of MachineSets,
/// so it does not have to match machine-controller's hash.
pub fn hash(template: &Value) -> u32 {
    let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    canonical(&normal(template)).bytes().fold(2_166_136_261, fnv)
}

/// The suffix of a MachineSet's name: the hash, in characters that form no words.
pub fn name_suffix(hash: u32) -> String {
    let safe = |digit: char| match digit {
        '0'..='5' => char::from_u32(u32::from(digit) + 4).unwrap_or(digit),
        '6' => 'b',
        '7' => 'c',
        '8' => 'd',
        _ => 'f',
    };
    hash.to_string().chars().map(safe).collect()
}

/// The normal form of a template: equal for all templates with the same meaning.
fn normal(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(root) = template.as_object_mut() {
        if let Some(labels) = object_at_mut(root, &["metadata", "labels"]) {
            labels.remove(label::TEMPLATE_HASH);
        }
        if let Some(spec) = object_at_mut(root, &["spec"]) {
            if let Some(provider) = providers::of_spec(spec) {
                provider.forget_defaults(spec);
            }
            default_spec(spec);
            normal_value(spec);
        }
    }
    TEMPLATE.normal(&template)
}

fn normal_value(spec: &mut Object) {
    let Some(provider) = object_at_mut(spec, &["providerSpec"]) else {
        return;
    };
    if let Some(value) = provider.get_mut("value") {
        *value = form::VALUE.normal(value).unwrap_or(Value::Null);
    }
}

fn is_fixed_in_guest(template: &Value) -> Value {
    let mut template = normal(template);
    let annotations = template
        .as_object_mut()
        .and_then(|root| object_at_mut(root, &["metadata", "annotations"]));
    if let Some(annotations) = annotations {
        annotations.retain(|key, _| !annotation::CHANGED_IN_PLACE.contains(&key.as_str()));
    }
    let spec = template
        .as_object_mut()
        .and_then(|root| object_at_mut(root, &["spec"]));
    if let Some(spec) = spec {
        spec.remove("taints");
        if let Some(labels) = object_at_mut(spec, &["metadata", "labels"]) {
            labels.retain(|key, _| [label::REGION, label::ZONE].contains(&key.as_str()));
        }
        if let Some(annotations) = object_at_mut(spec, &["metadata", "annotations"]) {
            annotations.retain(|key, _| annotation::KUBELET_PREFIXES.iter().any(|of| key.starts_with(of)));
        }
    }
    TEMPLATE.normal(&template)
}

#[cfg(test)]
mod tests;
