//! Reading a stored spec field by field, so that one mistake hides no other field.

use std::ops::Deref;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Reads the fields of a spec, and keeps what is wrong with them.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    spec: &'a Value,
    mistakes: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(spec: &'a Value) -> Self {
        let mut mistakes = Vec::new();
        if !(spec.is_object() || spec.is_null()) {
            mistakes.push("spec: is no object".to_owned());
        }
        Self { spec, mistakes }
    }

    /// The field at `pointer`; nothing if it is absent, `null`, or not of that type, which is a mistake.
    pub(super) fn read<T: DeserializeOwned>(&mut self, pointer: &str) -> Option<T> {
        let value = self.spec.pointer(pointer).filter(|value| !value.is_null())?;
        match serde_json::from_value(value.clone()) {
            Ok(value) => Some(value),
            Err(error) => {
                let path = pointer.replace('/', ".");
                self.mistakes.push(format!("spec{path}: {error}"));
                None
            }
        }
    }

    /// What was wrong.
    pub(super) fn mistakes(self) -> Option<String> {
        (!self.mistakes.is_empty()).then(|| self.mistakes.join("; "))
    }
}

/// How much of a status could be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// Every field.
    Whole,
    /// Not every field.
    InPart,
}

/// Reads a status field by field, and how much of it could be decoded. One that could not counts as absent: any
/// client may write a status, and one wrong number must not hide the conditions beside it.
pub(super) fn status<T: DeserializeOwned + Default>(raw: Value) -> (T, Decoded) {
    if let Ok(status) = Option::<T>::deserialize(&raw) {
        return (status.unwrap_or_default(), Decoded::Whole);
    }
    let Value::Object(mut fields) = raw else {
        return (T::default(), Decoded::InPart);
    };
    fields.retain(|key, value| {
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        serde_json::from_value::<T>(Value::Object(alone)).is_ok()
    });
    let status = serde_json::from_value(Value::Object(fields));
    (status.unwrap_or_default(), Decoded::InPart)
}

/// The template of Machines as stored, byte for byte what a person wrote. It may hold a credential: it is never shown.
#[derive(Clone, Default, PartialEq)]
pub struct Template(Arc<Value>);

impl Template {
    pub(super) fn of(spec: &Value) -> Self {
        Self(Arc::new(spec.get("template").cloned().unwrap_or_default()))
    }
}

impl From<Value> for Template {
    fn from(template: Value) -> Self {
        Self(Arc::new(template))
    }
}

impl Deref for Template {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

/// Without what is in it.
impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Template(..)")
    }
}
