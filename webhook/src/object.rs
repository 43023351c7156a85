//! Objects in reviews, decoded without unused parts.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value};

/// An object as it was sent, except `metadata.managedFields`: it is about a third of many objects, in dozens of small
/// maps, and admission neither reads nor changes it.
#[derive(Debug, PartialEq)]
pub(crate) struct Object(pub(crate) Value);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Position::Root.deserialize(deserializer).map(Self)
    }
}

/// The position of a value in an object.
#[derive(Debug, Clone, Copy)]
enum Position {
    Root,
    Metadata,
}

impl<'de> DeserializeSeed<'de> for Position {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Position {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = match (self, key.as_str()) {
                (Self::Root, "metadata") => entries.next_value_seed(Self::Metadata)?,
                (Self::Metadata, "managedFields") => {
                    entries.next_value::<IgnoredAny>()?;
                    continue;
                }
                _ => entries.next_value()?,
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Value, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(items))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn managed_fields_are_left_out_where_the_api_server_writes_them() {
        let fields = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
        let sent = json!({
            "metadata": {"name": "m", "managedFields": fields, "labels": {"managedFields": "x"}},
            "spec": {"metadata": {"managedFields": fields}, "managedFields": 1, "list": [{"metadata": {"managedFields": 1}}]},
        });
        let mut want = sent.clone();
        want["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(serde_json::from_value::<Object>(sent).unwrap(), Object(want));
    }

    #[rstest]
    #[case("null")]
    #[case("true")]
    #[case("-1")]
    #[case("18446744073709551615")]
    #[case("1.5")]
    #[case(r#""a\"b""#)]
    #[case(r#"[{"managedFields":1},null]"#)]
    #[case(r#"{"metadata":[{"managedFields":1}],"managedFields":1}"#)]
    #[case(r#"{"metadata":"m"}"#)]
    #[case(r#"{"a":1,"a":2}"#)]
    fn everything_else_is_read_as_it_is(#[case] text: &str) {
        let object: Object = serde_json::from_str(text).unwrap();
        assert_eq!(object.0, serde_json::from_str::<Value>(text).unwrap());
    }
}
