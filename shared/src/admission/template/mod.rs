//! Templates of Machines, compared by what they mean.
//!
//! A template that is another one rolls every node of a pool. So how it is written must not count: `null`, absent, `{}`
//! and what admission would fill in are the same, and so are keys of another letter case, quantities of one amount, and
//! the two ways to write a value down. What is unknown is ignored outside of `providerSpec.value`, where no client could
//! tell it, and counts inside.
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

/// Whether two values of `spec.template` mean the same, so that no Machine need be made anew for the other one.
///
/// The label that tells the sets of a deployment apart does not count, and neither do defaults of admission that say
/// where the virtual machines are: they come from the environment or repeat the location.
pub fn equal(a: &Value, b: &Value) -> bool {
    a == b || normal(a) == normal(b)
}

/// Whether the Machines of one template can become those of the other without another virtual machine.
///
/// What is only on the Node may change: its labels, annotations and taints, which the guest asks for when it registers,
/// and never again. Region and zone are not among them, as volumes of a Node are bound to those; nor are settings of the
/// kubelet that are written as annotations, for a guest reads them once. The Machine's own labels and annotations are on
/// the virtual machine as well, but for timeouts, which only we read.
pub fn equal_in_place(a: &Value, b: &Value) -> bool {
    a == b || is_fixed_in_guest(a) == is_fixed_in_guest(b)
}

/// A number for the template, the same for templates that are [`equal`]. Names of sets are made of it and nothing is
/// decided by it, so it need not be the one that machine-controller would have found.
pub fn hash(template: &Value) -> u32 {
    let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    canonical(&normal(template)).bytes().fold(2_166_136_261, fnv)
}

/// The end of a set's name: the hash, of characters that make no words.
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

/// One value for all templates that mean the same.
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
