//! Stored values are never a reason to refuse: an object that references a deleted object must still be editable.

use machinist_shared::api::field::Report;
use machinist_shared::api::raw::any_case;
use serde_json::Value;

/// The report with a warning instead of each error about a field with the same value in `old`.
pub(crate) fn downgrade(report: Report, old: &Value, new: &Value) -> Report {
    let mut judged = Report {
        warnings: report.warnings,
        ..Report::new()
    };
    for error in report.errors {
        if same(&error.path.to_string(), old, new) {
            judged.warnings.push(error.to_string());
        } else {
            judged.errors.push(error);
        }
    }
    judged
}

/// Whether the field at the path is the same in both; if neither has it, its deepest existing parent counts.
fn same(path: &str, old: &Value, new: &Value) -> bool {
    let (mut before, mut after) = (old, new);
    for part in parts(path) {
        let step = |value| child(value, part).filter(|value| !value.is_null());
        match (step(before), step(after)) {
            (Some(old), Some(new)) => (before, after) = (old, new),
            (None, None) => break,
            _ => return false,
        }
    }
    equal(before, after)
}

/// Equality in which `null` equals absent.
fn equal(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.keys().chain(new.keys()).all(|key| {
            equal(
                old.get(key).unwrap_or(&Value::Null),
                new.get(key).unwrap_or(&Value::Null),
            )
        }),
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| equal(old, new))
        }
        _ => old == new,
    }
}

fn child<'a>(value: &'a Value, part: &str) -> Option<&'a Value> {
    match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        object => any_case(object.as_object()?, part),
    }
}

/// Names and indices of a path like `a.b[0][x.y/z]`.
fn parts(path: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        let (part, next) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').unwrap_or((inner, "")),
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        parts.push(part);
        rest = next.strip_prefix('.').unwrap_or(next);
    }
    parts
}

#[cfg(test)]
mod tests {
    use machinist_shared::api::field::FieldPath;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::the_same("a.b.name", true)]
    #[case::in_another_letter_case("A.B.Name", true)]
    #[case::another_value("a.c", false)]
    #[case::an_item("a.list[0]", true)]
    #[case::another_item("a.list[1]", false)]
    #[case::a_new_item("a.list[2]", false)]
    #[case::a_key_with_dots("a.labels[x.y/z]", true)]
    #[case::below_what_neither_has("a.b.none.deeper", true)]
    #[case::below_what_changed("a.none", false)]
    #[case::null_for_absent("a.b.gone", true)]
    fn a_field_is_stored_if_it_is_the_same(#[case] path: &str, #[case] stored: bool) {
        let old = json!({"a": {"b": {"name": "x", "gone": null}, "c": 1, "list": ["p", "q"], "labels": {"x.y/z": "l"}}});
        let new =
            json!({"a": {"b": {"name": "x"}, "c": 2, "list": ["p", "r", "s"], "labels": {"x.y/z": "l"}}});
        let mut report = Report::new();
        report.invalid(&FieldPath::new(path), "is wrong");
        let judged = downgrade(report, &old, &new);
        assert_eq!(judged.errors.is_empty(), stored, "{judged:?}");
        assert_eq!(judged.warnings.len(), usize::from(stored));
    }
}
