//! Small texts of users: quantities, and the three forms of a value that may be a reference.

use machinist_shared::api::config_var::{ConfigValue, ConfigVar, LookupError};
use machinist_shared::api::decode::Field;
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::api::quantity;
use serde_json::Value;

/// One input.
///
/// # Panics
/// If a law is broken.
pub fn run(text: &str) {
    if let Some(amount) = quantity::parse(text) {
        assert!(amount.is_finite(), "{text:?} is {amount}");
        let negated = match text.strip_prefix('-') {
            Some(unsigned) => unsigned.to_owned(),
            None => format!("-{}", text.trim_start_matches('+')),
        };
        assert_eq!(
            quantity::parse(&negated),
            Some(-amount),
            "{text:?} and {negated:?}"
        );
    }
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        config_var::<String>(&value, text);
        config_var::<bool>(&value, text);
    }
}

fn config_var<T: ConfigValue + Clone + PartialEq + std::fmt::Debug>(value: &Value, text: &str) {
    let mut report = Report::new();
    let field = Field {
        path: FieldPath::new("spec"),
        value: Some(value).filter(|value| !value.is_null()),
    };
    let read = ConfigVar::<T>::decode(&field, &mut report);
    assert!(
        read.is_unset() || report.is_ok() || value.is_object(),
        "{value} is of a wrong type and has a value"
    );
    // Whatever the reference contains, the result is a value, or an error that names the reference.
    if let Err(error) = read.resolve(&|_| Ok(text.to_owned())) {
        assert!(read.reference().is_some(), "{error}");
    }
    let missing = read.resolve(&|_| Err(LookupError::NoObject));
    assert_eq!(
        missing.is_err(),
        read.reference().is_some(),
        "a reference that fails falls through"
    );
}
