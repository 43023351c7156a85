//! Edits of raw JSON objects that preserve unknown parts.

use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// The object at `key`, created if absent or `null`; `None` if it has another type.
pub(crate) fn child<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    let value = object.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Object::new());
    }
    value.as_object_mut()
}

/// The object at a path of keys, if every step is an object already.
pub(crate) fn object_at<'a>(object: &'a Object, path: &[&str]) -> Option<&'a Object> {
    path.iter()
        .try_fold(object, |object, key| object.get(*key)?.as_object())
}

/// The same, mutable.
pub(crate) fn object_at_mut<'a>(object: &'a mut Object, path: &[&str]) -> Option<&'a mut Object> {
    path.iter()
        .try_fold(object, |object, key| object.get_mut(*key)?.as_object_mut())
}

/// The text at `key`, in any letter case if the exact key is absent; `None` if it is empty or not a string.
pub(crate) fn text<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    any_case(object, key)?.as_str().filter(|text| !text.is_empty())
}

/// The value at `key`, in any letter case if the exact key is absent.
pub fn any_case<'a>(object: &'a Object, key: &str) -> Option<&'a Value> {
    object.get(key).or_else(|| {
        object
            .iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| v)
    })
}

/// The text of an object's annotation.
pub(crate) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object_at(object.as_object()?, &["metadata", "annotations"])?
        .get(key)?
        .as_str()
}

/// Renames keys in another letter case to the documented spelling, unless that key exists, too.
pub(crate) fn spell(object: &mut Object, keys: &[&str]) {
    for key in keys {
        if object.contains_key(*key) {
            continue;
        }
        let Some(miscased) = object.keys().find(|k| k.eq_ignore_ascii_case(key)).cloned() else {
            continue;
        };
        if let Some(value) = object.remove(&miscased) {
            object.insert((*key).to_owned(), value);
        }
    }
}

/// JSON with sorted keys: equal values give equal text, in whatever order their keys came.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items = items.iter().map(canonical).collect::<Vec<_>>();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let mut keys = map.iter().collect::<Vec<_>>();
            keys.sort_by_key(|(key, _)| *key);
            let entry = |(key, value): &(&String, &Value)| {
                format!("{}:{}", Value::String((*key).clone()), canonical(value))
            };
            let entries = keys.iter().map(entry).collect::<Vec<_>>();
            format!("{{{}}}", entries.join(","))
        }
        other => other.to_string(),
    }
}
