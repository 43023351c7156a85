//! The name of an object that cannot be decoded, from its partial JSON.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use crate::cache::key::Key;

/// Namespace and name of the object at the start of this JSON, or in a watch event.
pub(super) fn name_of(json: &[u8]) -> Option<Key> {
    let mut found = Key::new("", "");
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    // It fails at the end of the partial JSON; values found until then count.
    let _ = Fields::Object(&mut found).deserialize(&mut deserializer);
    (!found.name.is_empty()).then_some(found)
}

/// The fields of an object that are read.
enum Fields<'a> {
    Object(&'a mut Key),
    Metadata(&'a mut Key),
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self {
            Fields::Object(found) => {
                while let Some(field) = map.next_key::<Cow<'de, str>>()? {
                    match &*field {
                        "object" => map.next_value_seed(Fields::Object(found))?,
                        "metadata" => map.next_value_seed(Fields::Metadata(found))?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
            }
            Fields::Metadata(found) => {
                while let Some(field) = map.next_key::<Cow<'de, str>>()? {
                    match &*field {
                        "name" => found.name = map.next_value()?,
                        "namespace" => found.namespace = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::whole(r#"{"kind":"A","metadata":{"labels":{"name":"x"},"name":"a","namespace":"n"}}"#, Some(("n", "a")))]
    #[case::cut_off(r#"{"metadata":{"name":"a","namespace":"n","uid":"u"},"spec":{"x":"yyy"#, Some(("n", "a")))]
    #[case::in_an_event(r#"{"type":"ADDED","object":{"metadata":{"name":"a"},"spec":[["#, Some(("", "a")))]
    #[case::a_field_of_another_type(r#"{"spec":1,"metadata":{"name":"a","namespace":"n","labels":7}}"#, Some(("n", "a")))]
    #[case::cut_off_before_the_name(r#"{"metadata":{"annotations":{"x":"yyy"#, None)]
    #[case::no_name(r#"{"metadata":{"name":7}}"#, None)]
    #[case::no_object("7", None)]
    fn the_name_is_found_in_what_there_is(#[case] json: &str, #[case] name: Option<(&str, &str)>) {
        let name = name.map(|(namespace, name)| Key::new(namespace, name));
        assert_eq!(name_of(json.as_bytes()), name);
    }
}
