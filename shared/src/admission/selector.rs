//! Label selectors: whether one is well formed, and whether it matches.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::api::field::{FieldPath, Report};
use crate::api::raw::{Object, object_at};
use crate::api::syntax;

const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

/// One requirement of a selector, in the one form of all that mean the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    key: String,
    operator: String,
    values: BTreeSet<String>,
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            operator,
            values,
        } = self;
        let listed = values.iter().map(String::as_str).collect::<Vec<_>>();
        match (operator.as_str(), listed.as_slice()) {
            ("In", [value]) => write!(f, "{key}={value}"),
            ("In", _) => write!(f, "{key} in ({})", listed.join(",")),
            ("NotIn", _) => write!(f, "{key} notin ({})", listed.join(",")),
            ("Exists", _) => f.write_str(key),
            ("DoesNotExist", _) => write!(f, "!{key}"),
            _ => write!(f, "{key} {operator} ({})", listed.join(",")),
        }
    }
}

/// The requirements of a selector: those of two that select the same way are equal, however they are written.
pub fn normal(selector: &Value) -> BTreeSet<Requirement> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let labels = labels.map(|(key, value)| Requirement {
        key: key.clone(),
        operator: "In".to_owned(),
        values: BTreeSet::from([text(value)]),
    });
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    let expressions = expressions.into_iter().flatten().map(|expression| {
        let values = expression.get("values").and_then(Value::as_array);
        let of = |key: &str| expression.get(key).map(text).unwrap_or_default();
        Requirement {
            key: of("key"),
            operator: of("operator"),
            values: values.into_iter().flatten().map(text).collect(),
        }
    });
    labels.chain(expressions).collect()
}

/// Validates the selector in `spec`; returns whether it matches `labels`, or `None` if the selector is malformed.
pub fn validate(
    spec: &Map<String, Value>,
    labels: Option<&Map<String, Value>>,
    path: &FieldPath,
    report: &mut Report,
) -> Option<bool> {
    let faults = report.errors.len();
    let selector = object_at(spec, &["selector"]);
    let match_labels = selector
        .and_then(|s| s.get("matchLabels")?.as_object())
        .into_iter()
        .flatten();
    let expressions = selector
        .and_then(|s| s.get("matchExpressions")?.as_array())
        .into_iter()
        .flatten();
    let (mut matches, mut empty) = (true, true);
    for (key, value) in match_labels {
        empty = false;
        let path = path.child("matchLabels");
        let value = value.as_str().unwrap_or_default();
        if let Err(why) = syntax::qualified_name(key) {
            report.invalid(&path, format!("label key {key:?}: {why}"));
        }
        if let Err(why) = syntax::label_value(value) {
            report.invalid(&path, format!("label value {value:?}: {why}"));
        }
        matches &= label(labels, key) == Some(value);
    }
    for (i, expression) in expressions.enumerate() {
        empty = false;
        matches &= validate_expression(
            expression,
            labels,
            &path.child("matchExpressions").index(i),
            report,
        );
    }
    if empty {
        report.invalid(
            path,
            "must not be empty, or it would select every Machine of the namespace",
        );
    }
    (report.errors.len() == faults).then_some(matches)
}

fn validate_expression(
    expression: &Value,
    labels: Option<&Object>,
    path: &FieldPath,
    report: &mut Report,
) -> bool {
    let text = |key: &str| expression.get(key).and_then(Value::as_str).unwrap_or_default();
    let values = expression
        .get("values")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let (key, operator) = (text("key"), text("operator"));
    if let Err(why) = syntax::qualified_name(key) {
        report.invalid(&path.child("key"), format!("label key {key:?}: {why}"));
    }
    for (i, value) in values.iter().enumerate() {
        if let Err(why) = syntax::label_value(value.as_str().unwrap_or_default()) {
            report.invalid(&path.child("values").index(i), why);
        }
    }
    let found = label(labels, key);
    let listed = || found.is_some_and(|found| values.iter().any(|v| v.as_str().unwrap_or_default() == found));
    match operator {
        "In" | "NotIn" => {
            if values.is_empty() {
                report.required(
                    &path.child("values"),
                    format!("must be set with operator {operator}"),
                );
            }
            listed() == (operator == "In")
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                report.forbidden(
                    &path.child("values"),
                    format!("must not be set with operator {operator}"),
                );
            }
            found.is_some() == (operator == "Exists")
        }
        _ => {
            report.not_supported(&path.child("operator"), operator, &OPERATORS);
            false
        }
    }
}

fn label<'a>(labels: Option<&'a Object>, key: &str) -> Option<&'a str> {
    let value = labels?.get(key)?;
    // A typed client reads `null` as the empty string.
    if value.is_null() { Some("") } else { value.as_str() }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::as_an_expression(json!({"matchLabels": {"a": "b"}}), json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}), true)]
    #[case::other_order(json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "d", "operator": "Exists"}]}),
        json!({"matchExpressions": [{"key": "d", "operator": "Exists", "values": null}, {"key": "a", "operator": "In", "values": ["c", "b", "b"]}]}), true)]
    #[case::null_and_absent(json!({"matchLabels": {"a": "b"}, "matchExpressions": null}), json!({"matchLabels": {"a": "b"}}), true)]
    #[case::null_and_empty_text(json!({"matchLabels": {"a": null}}), json!({"matchLabels": {"a": ""}}), true)]
    #[case::another_value(json!({"matchLabels": {"a": "b"}}), json!({"matchLabels": {"a": "c"}}), false)]
    #[case::one_more(json!({"matchLabels": {"a": "b"}}), json!({"matchLabels": {"a": "b", "c": "d"}}), false)]
    #[case::one_less(json!({"matchLabels": {"a": "b", "c": "d"}}), json!({"matchLabels": {"a": "b"}}), false)]
    #[case::the_opposite(json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]}), false)]
    fn selectors_are_compared_by_meaning(#[case] one: Value, #[case] other: Value, #[case] same: bool) {
        assert_eq!(normal(&one) == normal(&other), same);
    }
}
