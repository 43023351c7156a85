//! Schemas of the API types, the source of both the CustomResourceDefinitions and the shapes that admission checks.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// The schema of a type, in one piece. If admission reads a field differently than `kubectl explain` shows it, the key
/// `x-shape` has the schema for admission.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// The one type of a schema, `null` aside.
pub(crate) fn single_type(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::String(one) => Some(one),
        Value::Array(several) => {
            let mut types = several.iter().filter_map(Value::as_str).filter(|t| *t != "null");
            types.next().filter(|_| types.next().is_none())
        }
        _ => None,
    }
}
