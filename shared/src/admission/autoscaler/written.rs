//! The capacity annotations of a node group that Machinist writes, as opposed to those that users write.

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

/// Annotations to set or to remove.
pub type Changes = BTreeMap<String, Option<String>>;

/// The changes after which an object's annotations state the capacity of its nodes if it is a node group, and contain
/// none of Machinist's if it is not.
///
/// An annotation is Machinist's while it has the value that Machinist wrote. One with another value is the user's and
/// stays. Unknown capacity stays as well. An equal amount in another notation is not written again: any change of a
/// MachineDeployment's annotations makes operating-system-manager generate its Secrets again.
pub fn corrections(object: &Value, capacity: &Capacity) -> Changes {
    let current: BTreeMap<&str, &str> = annotations(object).collect();
    let mut written = written(object);
    let before = written.clone();
    let mut changes = Changes::new();
    let at = |key: &str| current.get(format!("{CAPACITY}{key}").as_str()).copied();
    // An annotation that a user has changed or removed since is no longer Machinist's.
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

/// The instancetype that must be read to know the capacity of an object; `old` is the stored object, if this is an
/// update. `None` if the template is unchanged and its capacity was known.
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

/// The object with corrected capacity annotations, as far as the capacity is known: less is known of a template that
/// references Secrets, and a template with an instancetype needs the instancetype's `spec`. If an update with an
/// unchanged template omits annotations, they are taken from `old`, the stored object, unless the update itself wrote
/// them or changed the record of them.
pub fn write(old: Option<&Value>, mut object: Value, instancetype: Option<&Value>) -> Value {
    // MachineSets of a MachineDeployment have copies of its annotations and are ignored.
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

/// Whether the object lost that capacity annotation: its record is missing, or still lists the key.
fn is_missing(object: &Value, key: &str) -> bool {
    let there = annotations(object).any(|(found, _)| found.strip_prefix(CAPACITY) == Some(key));
    let recorded = annotations(object).any(|(found, _)| found == WRITTEN);
    !there && (!recorded || written(object).contains_key(key))
}

/// The annotations that Machinist wrote, by key.
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
