//! Reading a stored spec field by field, so that one mistake hides no other field.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use machinist_shared::admission::template;
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
#[derive(Clone, Default)]
pub struct Template(Arc<Stored>);

#[derive(Default)]
struct Stored {
    value: Value,
    /// See [`Template::means`]: computed when it is first asked for, and kept for the reconciles that follow.
    form: OnceLock<Box<str>>,
}

impl Template {
    pub(super) fn of(spec: &Value) -> Self {
        Self::from(spec.get("template").cloned().unwrap_or_default())
    }

    /// Whether the same Machines are made of both.
    pub fn means(&self, other: &Self) -> bool {
        self == other || self.form() == other.form()
    }

    fn form(&self) -> &str {
        self.0.form.get_or_init(|| template::form(&self.0.value))
    }
}

impl From<Value> for Template {
    fn from(value: Value) -> Self {
        let form = OnceLock::new();
        Self(Arc::new(Stored { value, form }))
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.value == other.0.value
    }
}

impl Deref for Template {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0.value
    }
}

/// Without what is in it.
impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Template(..)")
    }
}
