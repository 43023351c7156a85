//! The hash label that tells the Machines of one set from those of others, and which template is a set's.

use machinist_shared::admission::template;
use machinist_shared::api::names::label;
use serde_json::{Map, Value, json};

use super::super::snapshot::types::{Deployment, Likeness, Set};
use crate::cache::Template;

/// The template of a set with that hash: the deployment's, and the label that tells its Machines from other sets'.
pub fn with_hash(template: &Value, hash: &str) -> Template {
    let mut template = template.clone();
    if !template.is_object() {
        template = json!({});
    }
    let mut at = &mut template;
    for key in ["metadata", "labels"] {
        let child = &mut at[key];
        if !child.is_object() {
            *child = Value::Object(Map::new());
        }
        at = child;
    }
    at[label::TEMPLATE_HASH] = json!(hash);
    Template::from(template)
}

/// How a set's template compares with the deployment's.
pub fn likeness_of(set: &Set, deployment: &Deployment) -> Likeness {
    let template = &deployment.template;
    let identical = match hash_of(set) {
        Some(hash) => with_hash(template, &hash) == set.template,
        None => *template == set.template,
    };
    if identical {
        Likeness::Identical
    } else if template.means(&set.template) {
        Likeness::Equal
    } else if deployment.in_place && template::equal_in_place(template, &set.template) {
        Likeness::InPlace
    } else {
        Likeness::Different
    }
}

/// The hash label of a set, in its template or on itself.
pub(super) fn hash_of(set: &Set) -> Option<String> {
    let labels = set.template.pointer("/metadata/labels");
    let hash = labels.and_then(|labels| labels.get(label::TEMPLATE_HASH)?.as_str());
    hash.map(str::to_owned)
        .or_else(|| set.labels.get(label::TEMPLATE_HASH).cloned())
}

/// The selector of a new set: the deployment's, and the hash label.
pub(super) fn selector(selector: &Value, hash: &str) -> Value {
    let mut selector = selector.clone();
    if !selector.is_object() {
        selector = json!({});
    }
    let labels = &mut selector["matchLabels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    labels[label::TEMPLATE_HASH] = json!(hash);
    selector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_goes_into_template_labels_and_selector_and_nothing_else_changes() {
        let template = json!({"metadata": {"labels": {"a": "b"}, "name": null}, "spec": {"taints": null}});
        assert_eq!(
            *with_hash(&template, "7"),
            json!({"metadata": {"labels": {"a": "b", "machine-template-hash": "7"}, "name": null}, "spec": {"taints": null}})
        );
        assert_eq!(
            selector(&json!({"matchExpressions": []}), "7"),
            json!({"matchExpressions": [], "matchLabels": {"machine-template-hash": "7"}})
        );
    }
}
