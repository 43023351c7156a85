//! The shape of Machine objects outside `providerSpec.value`: which keys there are, and of which JSON types. It follows
//! from the schemas of the API types.
//!
//! A value of a wrong type is an error, because typed clients could not read the object. An unknown or miscased key is
//! only a warning: such objects have always been accepted, and the key ignored.

use std::sync::LazyLock;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde_json::Value;

use crate::api::decode::json_type;
use crate::api::did_you_mean::instead_of;
use crate::api::field::{ErrorKind, FieldPath, MAX_REPORTED, Report};
use crate::api::schema::{self, single_type};
use crate::api::{MachineDeploymentSpec, MachineSetSpec, MachineSpec, MachineStatus, MachineTemplate};

/// What a value may be; `null` always may be.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Anything; compared as it is.
    Any,
    /// A string.
    Text,
    /// A boolean.
    Flag,
    /// An integer of 32 bits.
    Int32,
    /// An integer of 64 bits.
    Int64,
    /// An integer of 32 bits, or a string.
    IntOrString,
    /// A time after RFC 3339.
    Time,
    /// An object with free keys and values of one shape.
    Map(Box<Shape>),
    /// A list.
    List(Box<Shape>),
    /// An object with known keys.
    Object(Vec<(String, Shape)>),
}

use Shape::{Any, Flag, Int32, Int64, IntOrString, List, Map, Object, Text, Time};

/// `spec` of a Machine.
pub(crate) static MACHINE_SPEC: LazyLock<Shape> = LazyLock::new(Shape::of::<MachineSpec>);
/// A Machine. The API server validates its metadata.
pub(crate) static MACHINE: LazyLock<Shape> =
    LazyLock::new(|| whole(Shape::of::<MachineSpec>(), Shape::of::<MachineStatus>()));
/// `spec.template` of a MachineSet or MachineDeployment.
pub(crate) static TEMPLATE: LazyLock<Shape> = LazyLock::new(Shape::of::<MachineTemplate>);
/// A MachineSet. The API server validates metadata and status.
pub(crate) static SET: LazyLock<Shape> = LazyLock::new(|| whole(Shape::of::<MachineSetSpec>(), Any));
/// A MachineDeployment. The API server validates metadata and status.
pub(crate) static DEPLOYMENT: LazyLock<Shape> =
    LazyLock::new(|| whole(Shape::of::<MachineDeploymentSpec>(), Any));

fn whole(spec: Shape, status: Shape) -> Shape {
    let fields = [
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Any),
        ("spec", spec),
        ("status", status),
    ];
    Object(fields.map(|(key, shape)| (key.to_owned(), shape)).into())
}

impl Shape {
    /// The shape of an API type.
    fn of<T: JsonSchema>() -> Self {
        Self::from(&schema::of::<T>())
    }
}

impl From<&Value> for Shape {
    /// The shape that a schema describes.
    fn from(schema: &Value) -> Self {
        if let Some(shape) = schema.get("x-shape") {
            return Self::from(shape);
        }
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return IntOrString;
        }
        let format = schema.get("format").and_then(Value::as_str);
        match single_type(schema) {
            Some("string") if format == Some("date-time") => Time,
            Some("string") => Text,
            Some("boolean") => Flag,
            Some("integer") if format == Some("int32") => Int32,
            Some("integer") => Int64,
            Some("array") => List(Box::new(Self::from(&schema["items"]))),
            Some("object") => match (&schema["properties"], &schema["additionalProperties"]) {
                (Value::Object(properties), _) => Object(
                    properties
                        .iter()
                        .map(|(key, of)| (key.clone(), field(key, of)))
                        .collect(),
                ),
                (_, items @ Value::Object(_)) => Map(Box::new(Self::from(items))),
                _ => Any,
            },
            _ => Any,
        }
    }
}

fn field(key: &str, schema: &Value) -> Shape {
    match key {
        // The API server generated the schema.
        "managedFields" => List(Box::new(Any)),
        _ => Shape::from(schema),
    }
}

/// The location of a value: steps from a root. The path is built only for reported values.
#[derive(Debug, Clone, Copy)]
enum At<'a> {
    Root(&'a FieldPath),
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl At<'_> {
    fn path(&self) -> FieldPath {
        match self {
            Self::Root(path) => (*path).clone(),
            Self::Key(parent, key) => parent.path().child(key),
            Self::Index(parent, index) => parent.path().index(*index),
        }
    }
}

impl Shape {
    /// Reports every value of a wrong type as an error, every unknown key as a warning.
    pub(crate) fn check(&self, value: &Value, path: &FieldPath, report: &mut Report) {
        self.check_at(value, At::Root(path), report);
    }

    fn check_at(&self, value: &Value, at: At<'_>, report: &mut Report) {
        let wrong = |want: &str, report: &mut Report| {
            report.error(
                &at.path(),
                ErrorKind::Type,
                format!("must be {want}, not {}", json_type(value)),
            );
        };
        match (self, value) {
            (Any, _) | (_, Value::Null) | (Text | IntOrString, Value::String(_)) | (Flag, Value::Bool(_)) => {
            }
            (Int32 | IntOrString, Value::Number(n))
                if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            (Int64, Value::Number(n)) if n.as_i64().is_some() => {}
            (Int32 | Int64, _) => {
                let size = if matches!(self, Int32) { 32 } else { 64 };
                let got = if value.is_number() {
                    value.to_string()
                } else {
                    json_type(value).to_owned()
                };
                report.error(
                    &at.path(),
                    ErrorKind::Type,
                    format!("must be an integer of {size} bits, not {got}"),
                );
            }
            (Time, Value::String(text)) => {
                if text.parse::<Timestamp>().is_err() {
                    report.invalid(
                        &at.path(),
                        format!("{text:?} is not a time; write it like 2006-01-02T15:04:05Z"),
                    );
                }
            }
            (Map(item), Value::Object(map)) => {
                for (key, value) in map {
                    item.check_at(value, At::Key(&at, key), report);
                }
            }
            (List(item), Value::Array(items)) => {
                for (i, value) in items.iter().enumerate() {
                    item.check_at(value, At::Index(&at, i), report);
                }
            }
            (Object(keys), Value::Object(map)) => {
                for (key, value) in map {
                    let at = At::Key(&at, key);
                    if let Some(shape) = lookup(keys, key) {
                        shape.check_at(value, at, report);
                    } else {
                        let hint = if report.warnings.len() < MAX_REPORTED {
                            instead_of(key, keys.iter().map(|(known, _)| known.as_str()))
                        } else {
                            // Users read at most the first hundred, and each costs time.
                            String::new()
                        };
                        report.warn(&at.path(), format!("unknown field {key:?}, ignored{hint}"));
                    }
                }
            }
            (Text | Time, _) => wrong("a string", report),
            (Flag, _) => wrong("a boolean", report),
            (IntOrString, _) => wrong("an integer of 32 bits or a string", report),
            (List(_), _) => wrong("a list", report),
            (Map(_) | Object(_), _) => wrong("an object", report),
        }
    }

    /// The value as a typed client reads it: `null`, zero values and empty containers of known fields are absent,
    /// unknown keys are removed, times are normalized. Values of [`Shape::Any`] are kept as they are.
    pub(crate) fn normal(&self, value: &Value) -> Value {
        match (self, value) {
            (Time, Value::String(text)) => text
                .parse::<Timestamp>()
                .map_or_else(|_| value.clone(), |time| Value::String(time.to_string())),
            (Map(item), Value::Object(map)) => map
                .iter()
                .map(|(key, value)| (key.clone(), item.normal_item(value)))
                .collect(),
            (List(item), Value::Array(items)) => items.iter().map(|value| item.normal_item(value)).collect(),
            (Object(keys), Value::Object(map)) => {
                let known = map.iter().filter_map(|(key, value)| {
                    let shape = lookup(keys, key)?;
                    let value = shape.normal(value);
                    (!shape.is_zero(&value)).then(|| (key.clone(), value))
                });
                known.collect()
            }
            (Object(_) | Map(_), Value::Null) => Value::Object(serde_json::Map::new()),
            _ => value.clone(),
        }
    }

    /// Items of lists and maps stay even if they are zero; `null` is the zero value there.
    fn normal_item(&self, value: &Value) -> Value {
        match (self, value) {
            (Text, Value::Null) => Value::String(String::new()),
            _ => self.normal(value),
        }
    }

    fn is_zero(&self, value: &Value) -> bool {
        match value {
            Value::Null => true,
            _ if matches!(self, Any) => false,
            // An int-or-string is a pointer in Go: set to zero is not the same as unset.
            Value::Number(n) => !matches!(self, IntOrString) && n.as_i64() == Some(0),
            Value::Bool(flag) => !flag,
            Value::String(text) => !matches!(self, IntOrString) && text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
        }
    }
}

fn lookup<'a>(keys: &'a [(String, Shape)], key: &str) -> Option<&'a Shape> {
    keys.iter()
        .find(|(known, _)| known == key)
        .map(|(_, shape)| shape)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::a_taint_list_that_is_an_object(json!({"taints": {}}), "spec.taints: must be a list, not an object")]
    #[case::a_label_that_is_a_number(json!({"metadata": {"labels": {"a": 1}}}), "spec.metadata.labels.a: must be a string, not a number")]
    #[case::a_version_that_is_a_number(json!({"versions": {"kubelet": 1.33}}), "spec.versions.kubelet: must be a string, not a number")]
    #[case::a_fraction_for_an_integer(json!({"metadata": {"generation": 1.5}}), "spec.metadata.generation: must be an integer of 64 bits, not 1.5")]
    #[case::a_bad_time(json!({"taints": [{"timeAdded": "noon"}]}), "spec.taints[0].timeAdded: \"noon\" is not a time; write it like 2006-01-02T15:04:05Z")]
    #[case::text_for_an_object(json!("x"), "spec: must be an object, not a string")]
    fn a_wrong_type_is_an_error(#[case] spec: Value, #[case] want: &str) {
        let mut report = Report::new();
        MACHINE_SPEC.check(&spec, &FieldPath::new("spec"), &mut report);
        assert_eq!(report.errors[0].to_string(), want);
    }

    #[rstest]
    #[case::unknown(json!({"foo": 1}), "spec.foo: unknown field \"foo\", ignored")]
    #[case::miscased(json!({"Taints": 1}), "spec.Taints: unknown field \"Taints\", ignored; did you mean \"taints\"?")]
    #[case::misspelled(json!({"versions": {"kublet": "1"}}), "spec.versions.kublet: unknown field \"kublet\", ignored; did you mean \"kubelet\"?")]
    fn an_unknown_key_is_a_warning(#[case] spec: Value, #[case] want: &str) {
        let mut report = Report::new();
        MACHINE_SPEC.check(&spec, &FieldPath::new("spec"), &mut report);
        assert_eq!((report.errors.len(), report.warnings), (0, vec![want.to_owned()]));
    }

    #[rstest]
    #[case::null_and_absent(json!({"taints": null, "metadata": {"creationTimestamp": null}}), json!({}))]
    #[case::empty_containers(json!({"taints": [], "metadata": {"labels": {}}, "versions": {}}), json!({}))]
    #[case::empty_text(json!({"versions": {"kubelet": ""}, "providerID": ""}), json!({}))]
    #[case::unknown_keys(json!({"foo": 1}), json!({}))]
    #[case::instants(json!({"taints": [{"key": "a", "timeAdded": "2026-01-01T01:00:00+01:00"}]}), json!({"taints": [{"key": "a", "timeAdded": "2026-01-01T00:00:00Z"}]}))]
    #[case::null_in_a_map(json!({"metadata": {"labels": {"a": null}}}), json!({"metadata": {"labels": {"a": ""}}}))]
    fn typed_clients_see_no_difference(#[case] a: Value, #[case] b: Value) {
        assert_eq!(MACHINE_SPEC.normal(&a), MACHINE_SPEC.normal(&b));
    }

    #[rstest]
    #[case::a_label(json!({"metadata": {"labels": {"a": ""}}}), json!({"metadata": {}}))]
    #[case::null_inside_the_value(json!({"providerSpec": {"value": {"network": null}}}), json!({"providerSpec": {"value": {}}}))]
    #[case::an_empty_taint(json!({"taints": [{}]}), json!({}))]
    fn typed_clients_see_a_difference(#[case] a: Value, #[case] b: Value) {
        assert_ne!(MACHINE_SPEC.normal(&a), MACHINE_SPEC.normal(&b));
    }
}
