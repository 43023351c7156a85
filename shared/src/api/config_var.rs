//! Values in a provider's spec that are literals or come from a Secret or ConfigMap.
//!
//! A string may be a JSON string, number or boolean (its text is the value), or an object of `value`, `secretKeyRef`
//! and `configMapKeyRef`; a boolean may be a JSON boolean or that object. `secretKeyRef` wins over `configMapKeyRef`,
//! which wins over `value`; a reference counts only with namespace, name and key.

use std::fmt;

use serde_json::{Value, json};

use crate::api::decode::{Field, Fields, json_type};
use crate::api::field::{ErrorKind, Report, cut};
use crate::api::syntax;

/// The kind of object that a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl fmt::Display for RefKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        })
    }
}

/// One key of a Secret or ConfigMap of the cluster of the Machines. Always complete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef {
    /// Secret or ConfigMap.
    pub kind: RefKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key in its data.
    pub key: String,
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "key {:?} of {} {}/{}",
            self.key, self.kind, self.namespace, self.name
        )
    }
}

/// A literal value, or a reference to one.
///
/// `Debug` does not show the value, which may be a kubeconfig.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigVar<T> {
    /// The value as written; used when neither reference is set.
    pub value: Option<T>,
    /// The Secret key that has the value; wins.
    pub secret_ref: Option<KeyRef>,
    /// The ConfigMap key that has the value, without a Secret key.
    pub config_map_ref: Option<KeyRef>,
}

/// A string value.
pub type ConfigVarString = ConfigVar<String>;
/// A boolean value; unset is not the same as false.
pub type ConfigVarBool = ConfigVar<bool>;

impl<T> Default for ConfigVar<T> {
    fn default() -> Self {
        Self {
            value: None,
            secret_ref: None,
            config_map_ref: None,
        }
    }
}

impl<T> fmt::Debug for ConfigVar<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigVar")
            .field("value", &self.value.as_ref().map(|_| "…"))
            .field("secret_ref", &self.secret_ref)
            .field("config_map_ref", &self.config_map_ref)
            .finish()
    }
}

/// Why a key could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The Secret or ConfigMap does not exist.
    #[error("it does not exist")]
    NoObject,
    /// It exists, without that key.
    #[error("it has no such key")]
    NoKey,
    /// It could not be read; why.
    #[error("{0}")]
    Unavailable(String),
}

/// Why a value could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The reference leads nowhere.
    #[error("cannot read {reference}: {cause}")]
    Lookup {
        /// The reference.
        reference: KeyRef,
        /// The cause.
        cause: LookupError,
    },
    /// The text is not a boolean.
    #[error("{0} is not a boolean; write true or false")]
    NotBoolean(KeyRef),
}

impl ResolveError {
    /// The reference that failed.
    pub fn reference(&self) -> &KeyRef {
        match self {
            Self::Lookup { reference, .. } | Self::NotBoolean(reference) => reference,
        }
    }
}

/// Types that a [`ConfigVar`] can hold.
pub trait ConfigValue: Sized + Clone {
    /// The literal forms, as error messages name them.
    const LITERALS: &'static str;
    /// The value of a literal of the short form, `None` if it is of the wrong type.
    fn of_literal(literal: &Value) -> Option<Self>;
    /// The value of `value` in the object form, if any.
    fn of_field(field: &Field<'_>, report: &mut Report) -> Option<Self>;
    /// The value of a Secret's or ConfigMap's text, `None` if it is malformed.
    fn of_text(text: String) -> Option<Self>;
}

impl ConfigValue for String {
    const LITERALS: &'static str = "a string, a number, a boolean";

    fn of_literal(literal: &Value) -> Option<Self> {
        match literal {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn of_field(field: &Field<'_>, report: &mut Report) -> Option<Self> {
        field.string(report)
    }

    fn of_text(text: String) -> Option<Self> {
        Some(text)
    }
}

impl ConfigValue for bool {
    const LITERALS: &'static str = "a boolean";

    fn of_literal(literal: &Value) -> Option<Self> {
        literal.as_bool()
    }

    fn of_field(field: &Field<'_>, report: &mut Report) -> Option<Self> {
        field.bool(report)
    }

    fn of_text(text: String) -> Option<Self> {
        match text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
            _ => None,
        }
    }
}

impl<T: ConfigValue> ConfigVar<T> {
    /// A literal value.
    pub fn literal(value: T) -> Self {
        Self {
            value: Some(value),
            ..Self::default()
        }
    }

    /// Reads `field`; absent and `null` are the default (unset). Errors are reported, and the value is then unset, too.
    pub fn decode(field: &Field<'_>, report: &mut Report) -> Self {
        let Some(found) = field.value else {
            return Self::default();
        };
        if let Value::Object(_) = found {
            return field
                .object(report)
                .map_or_else(Self::default, |fields| Self::decode_object(fields, report));
        }
        let value = T::of_literal(found);
        if value.is_none() {
            let want = format!(
                "must be {} or an object with value, secretKeyRef or configMapKeyRef, not {}",
                T::LITERALS,
                json_type(found)
            );
            report.error(&field.path, ErrorKind::Type, want);
        }
        Self {
            value,
            ..Self::default()
        }
    }

    fn decode_object(mut fields: Fields<'_>, report: &mut Report) -> Self {
        let value = T::of_field(&fields.take("value"), report);
        let secret_ref = decode_ref(RefKind::Secret, &fields.take("secretKeyRef"), report);
        let config_map_ref = decode_ref(RefKind::ConfigMap, &fields.take("configMapKeyRef"), report);
        fields.warn_unknown(report);
        Self {
            value,
            secret_ref,
            config_map_ref,
        }
    }

    /// Whether there is neither a literal nor a reference.
    pub fn is_unset(&self) -> bool {
        self.value.is_none() && self.reference().is_none()
    }

    /// The reference that determines the value, if any.
    pub fn reference(&self) -> Option<&KeyRef> {
        self.secret_ref.as_ref().or(self.config_map_ref.as_ref())
    }

    /// Every reference, including an overridden one.
    pub fn references(&self) -> impl Iterator<Item = &KeyRef> {
        self.secret_ref.iter().chain(&self.config_map_ref)
    }

    /// The value, `None` if unset; `lookup` returns the text of a reference. A reference that fails never falls
    /// through to the next source.
    pub fn resolve(
        &self,
        lookup: &dyn Fn(&KeyRef) -> Result<String, LookupError>,
    ) -> Result<Option<T>, ResolveError> {
        let Some(reference) = self.reference() else {
            return Ok(self.value.clone());
        };
        let text = lookup(reference).map_err(|cause| ResolveError::Lookup {
            reference: reference.clone(),
            cause,
        })?;
        T::of_text(text)
            .map(Some)
            .ok_or_else(|| ResolveError::NotBoolean(reference.clone()))
    }
}

impl ConfigVarString {
    /// The value in one form for all its notations, to compare by. Empty is unset.
    pub fn canonical(&self) -> Value {
        let reference = self.reference().map(ToString::to_string);
        let value = self.value.as_ref();
        let value = value.filter(|value| reference.is_none() && !value.is_empty());
        json!([value, reference])
    }
}

fn decode_ref(kind: RefKind, field: &Field<'_>, report: &mut Report) -> Option<KeyRef> {
    let mut fields = field.object(report)?;
    let [namespace, name, key] =
        ["namespace", "name", "key"].map(|part| fields.take(part).string(report).unwrap_or_default());
    // The other keys of an ObjectReference are accepted and ignored.
    for part in ["kind", "uid", "apiVersion", "resourceVersion", "fieldPath"] {
        fields.take(part).string(report);
    }
    fields.warn_unknown(report);
    if namespace.is_empty() || name.is_empty() || key.is_empty() {
        report.warn(&field.path, "ignored: namespace, name and key must all be set");
        return None;
    }
    // They become part of the path of a request.
    for (part, text, fault) in [
        ("namespace", &namespace, syntax::namespace(&namespace).err()),
        ("name", &name, syntax::dns_subdomain(&name).err()),
    ] {
        if let Some(why) = fault {
            report.invalid(
                &field.path.child(part),
                format!("{:?} is not a {part} of a {kind}: {why}", cut(text.clone())),
            );
        }
    }
    (syntax::namespace(&namespace).is_ok() && syntax::dns_subdomain(&name).is_ok()).then_some(KeyRef {
        kind,
        namespace,
        name,
        key,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn decode<T: ConfigValue>(value: &Value) -> (ConfigVar<T>, Report) {
        let (object, mut report) = (json!({ "x": value }), Report::new());
        let mut fields = Fields::of(&object, crate::api::field::FieldPath::default(), &mut report).unwrap();
        let var = ConfigVar::decode(&fields.take("x"), &mut report);
        (var, report)
    }

    fn key(kind: RefKind) -> KeyRef {
        KeyRef {
            kind,
            namespace: "a".into(),
            name: "b".into(),
            key: "c".into(),
        }
    }

    #[rstest]
    #[case::a_string(json!("2"), Some("2"))]
    #[case::an_empty_string(json!(""), Some(""))]
    #[case::a_number_is_its_text(json!(2), Some("2"))]
    #[case::a_negative_fraction_is_its_text(json!(-1.5), Some("-1.5"))]
    #[case::a_boolean_is_its_text(json!(true), Some("true"))]
    #[case::null_is_absent_not_the_word(json!(null), None)]
    #[case::an_object_with_value(json!({"value": "2"}), Some("2"))]
    #[case::keys_of_any_case(json!({"Value": "2"}), Some("2"))]
    #[case::an_empty_object(json!({}), None)]
    fn a_string_is_read(#[case] value: Value, #[case] want: Option<&str>) {
        let (var, report) = decode::<String>(&value);
        assert_eq!((var.value.as_deref(), report), (want, Report::new()));
    }

    #[rstest]
    #[case::a_list(json!(["2"]), "x: must be a string, a number, a boolean or an object with value, secretKeyRef or configMapKeyRef, not a list")]
    #[case::a_number_in_the_object(json!({"value": 2}), "x.value: must be a string, not a number")]
    #[case::a_reference_that_is_text(json!({"secretKeyRef": "a/b"}), "x.secretKeyRef: must be an object, not a string")]
    #[case::a_name_that_is_a_number(json!({"secretKeyRef": {"name": 1}}), "x.secretKeyRef.name: must be a string, not a number")]
    fn a_wrong_type_is_refused_for_a_string(#[case] value: Value, #[case] want: &str) {
        assert_eq!(decode::<String>(&value).1.errors[0].to_string(), want);
    }

    #[rstest]
    #[case::a_literal(json!(false), Some(false), 0)]
    #[case::null_is_unset(json!(null), None, 0)]
    #[case::an_object(json!({"value": true}), Some(true), 0)]
    #[case::quoted_is_an_error(json!("true"), None, 1)]
    #[case::quoted_in_the_object_is_an_error(json!({"value": "true"}), None, 1)]
    #[case::a_number_is_an_error(json!(1), None, 1)]
    fn a_boolean_is_read_strictly(#[case] value: Value, #[case] want: Option<bool>, #[case] errors: usize) {
        let (var, report) = decode::<bool>(&value);
        assert_eq!((var.value, report.errors.len()), (want, errors));
    }

    #[test]
    fn a_secret_wins_over_a_config_map_and_over_the_value() {
        let reference = json!({"namespace": "a", "name": "b", "key": "c"});
        let (var, report) =
            decode::<String>(&json!({"value": "v", "secretKeyRef": reference, "configMapKeyRef": reference}));
        assert_eq!(report, Report::new());
        let lookup = |r: &KeyRef| Ok(r.to_string());
        assert_eq!(
            var.resolve(&lookup),
            Ok(Some("key \"c\" of Secret a/b".to_owned()))
        );
        assert_eq!(var.references().count(), 2);
    }

    #[test]
    fn an_incomplete_reference_is_skipped_and_reported() {
        let (var, report) =
            decode::<String>(&json!({"value": "v", "secretKeyRef": {"name": "b", "key": "c"}}));
        assert_eq!(
            report.warnings,
            ["x.secretKeyRef: ignored: namespace, name and key must all be set"]
        );
        assert_eq!(
            var.resolve(&|_| Err(LookupError::NoObject)),
            Ok(Some("v".to_owned()))
        );
    }

    #[test]
    fn an_unknown_key_in_the_object_is_a_warning() {
        let (_, report) = decode::<String>(
            &json!({"secretKeyref": {"namespace": "a", "name": "b", "key": "c", "uid": "u"}, "secretKey": 1}),
        );
        assert!(report.is_ok());
        assert_eq!(
            report.warnings,
            ["x.secretKey: unknown field \"secretKey\"; did you mean \"secretKeyRef\"?"]
        );
    }

    #[test]
    fn a_reference_that_fails_does_not_fall_through() {
        let var = ConfigVar {
            secret_ref: Some(key(RefKind::Secret)),
            ..ConfigVar::literal("v".to_owned())
        };
        let error = var.resolve(&|_| Err(LookupError::NoKey)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read key \"c\" of Secret a/b: it has no such key"
        );
    }

    #[rstest]
    #[case("T", Some(true))]
    #[case("False", Some(false))]
    #[case("yes", None)]
    #[case("true\n", None)]
    fn a_boolean_from_a_secret_is_parsed_as_go_does(#[case] text: &str, #[case] want: Option<bool>) {
        let var: ConfigVarBool = ConfigVar {
            config_map_ref: Some(key(RefKind::ConfigMap)),
            ..ConfigVar::default()
        };
        let got = var.resolve(&|_| Ok(text.to_owned()));
        assert_eq!(got.ok(), want.map(Some));
    }

    #[test]
    fn debug_hides_the_value() {
        assert!(!format!("{:?}", ConfigVar::literal("sesame".to_owned())).contains("sesame"));
    }
}
