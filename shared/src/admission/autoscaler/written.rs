//! Capacity as annotations of a node group, kept apart from what people write there themselves.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::capacity::{Capacity, INSTANCETYPE_KEYS, capacity, instancetype};
use super::{annotations, is_top_level, sizes};
use crate::admission::subject::Subject;
use crate::admission::template;
use crate::api::config_var::LookupError;
use crate::api::names::autoscaler::{CAPACITY, WRITTEN};
use crate::api::quantity;
use crate::api::raw::child;
use crate::kubevirt::spec::Matcher;

/// Annotations to set, or to take away.
pub type Changes = BTreeMap<String, Option<String>>;

/// What must change in an object's annotations so that they tell the capacity of its nodes, if it is a node group, and
/// nothing of ours is left if it is none.
///
/// An annotation is ours while it says what we wrote; one that says something else is the user's, and stays. What is not
/// known stays as well. An amount that is only written in another way is no reason to write: any change of a
/// MachineDeployment's annotations has the maker of user data make its Secrets anew.
pub fn corrections(object: &Value, capacity: &Capacity) -> Changes {
    let current: BTreeMap<&str, &str> = annotations(object).collect();
    let mut written = written(object);
    let before = written.clone();
    let mut changes = Changes::new();
    let at = |key: &str| current.get(format!("{CAPACITY}{key}").as_str()).copied();
    // What somebody has changed or taken away since is not ours any more.
    written.retain(|key, value| at(key) == Some(value.as_str()));
    if sizes(object).is_none() {
        let ours = std::mem::take(&mut written).into_keys();
        changes.extend(ours.map(|key| (format!("{CAPACITY}{key}"), None)));
    } else {
        for (key, want) in &capacity.0 {
            let (is, ours) = (at(key), written.contains_key(*key));
            match (want, is) {
                (_, Some(_)) if !ours => {}
                (Some(want), Some(is)) if same(key, want, is) => {}
                (Some(want), _) => {
                    changes.insert(format!("{CAPACITY}{key}"), Some(want.clone()));
                    written.insert((*key).to_owned(), want.clone());
                }
                (None, Some(_)) => {
                    changes.insert(format!("{CAPACITY}{key}"), None);
                    written.remove(*key);
                }
                (None, None) => {}
            }
        }
    }
    let record = (!written.is_empty()).then(|| json!(written).to_string());
    let recorded = current.get(WRITTEN).copied();
    if written != before || (record.is_none() && recorded.is_some()) {
        changes.insert(WRITTEN.to_owned(), record);
    }
    changes
}

/// The instancetype that must be read before the capacity of an object is known; `old` is what is stored now, if it is an
/// update. Nothing while the template stays what it is and its capacity was known.
pub fn instancetype_needed(old: Option<&Value>, subject: &Subject<'_>) -> Option<Matcher> {
    let object = subject.object();
    sizes(object)?;
    let found = instancetype(subject)?;
    let current: BTreeMap<&str, &str> = annotations(object).collect();
    let known = |key: &str| current.contains_key(format!("{CAPACITY}{key}").as_str());
    let same = old.is_some_and(|old| same_template(old, object));
    let by_hand = |key: &str| known(key) && !written(object).contains_key(key);
    let settled = ["cpu", "memory"]
        .iter()
        .all(|key| by_hand(key) || (same && known(key)));
    (!settled).then_some(found)
}

/// The object with what it says of its capacity made true, as far as that is known: of a template that refers to Secrets
/// less, of one with an instancetype only with the `spec` of that. What an update would take away although its template
/// stays is taken from `old`, what is stored now; but what it writes itself, or leaves out of its own record, is another
/// value that somebody has learnt meanwhile.
pub fn write(old: Option<&Value>, mut object: Value, instancetype: Option<&Value>) -> Value {
    // Sets of a deployment have copies of its annotations, and are never looked at.
    if !is_top_level(&object) {
        return object;
    }
    let unread = |_: &_| Err(LookupError::Unavailable("not read at admission".to_owned()));
    let mut known = capacity(&object, &unread, instancetype);
    if let Some(old) = old.filter(|old| same_template(old, &object)) {
        let kept = written(old);
        for key in INSTANCETYPE_KEYS {
            let lost = !known.0.contains_key(key) && is_missing(&object, key);
            if let Some(value) = kept.get(key).filter(|_| lost) {
                known.0.insert(key, Some(value.clone()));
            }
        }
    }
    let changes = corrections(&object, &known);
    if changes.is_empty() {
        return object;
    }
    let annotations = object
        .as_object_mut()
        .and_then(|root| child(child(root, "metadata")?, "annotations"));
    if let Some(annotations) = annotations {
        for (key, value) in changes {
            match value {
                Some(value) => annotations.insert(key, Value::String(value)),
                None => annotations.remove(&key),
            };
        }
    }
    object
}

/// Whether what an object says of its capacity lacks that key without saying so: it has no record, or one that lists it.
fn is_missing(object: &Value, key: &str) -> bool {
    let there = annotations(object).any(|(found, _)| found.strip_prefix(CAPACITY) == Some(key));
    let recorded = annotations(object).any(|(found, _)| found == WRITTEN);
    !there && (!recorded || written(object).contains_key(key))
}

/// What we wrote, by key.
fn written(object: &Value) -> BTreeMap<String, String> {
    let record = annotations(object).find(|(key, _)| *key == WRITTEN);
    record
        .and_then(|(_, text)| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

fn same(key: &str, a: &str, b: &str) -> bool {
    let amounts = ["cpu", "memory", "ephemeral-disk"].contains(&key);
    a == b || (amounts && quantity::parse(a).is_some() && quantity::parse(a) == quantity::parse(b))
}

fn same_template(old: &Value, object: &Value) -> bool {
    let template = |object: &Value| object.pointer("/spec/template").cloned().unwrap_or_default();
    template::equal(&template(old), &template(object))
}
