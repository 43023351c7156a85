//! The patch from the received object to the object to store.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::{Map, Value};

/// JSON Patch that turns `before` into `after`: it contains only the differences of the raw values. Empty if there are
/// none.
///
/// Nearly all of an object is equal and only compared; `json_patch::diff` would build a pointer for each key. A list
/// that differs is replaced as a whole.
pub fn patch(before: &Value, after: &Value) -> Patch {
    let mut patch = Patch(Vec::new());
    if before != after {
        differ(before, after, &mut PointerBuf::new(), &mut patch.0);
    }
    patch
}

/// The operations for two values that are not equal.
fn differ(before: &Value, after: &Value, at: &mut PointerBuf, operations: &mut Vec<PatchOperation>) {
    if let (Value::Object(before), Value::Object(after)) = (before, after) {
        differ_in_keys(before, after, at, operations);
    } else {
        operations.push(PatchOperation::Replace(ReplaceOperation {
            path: at.clone(),
            value: after.clone(),
        }));
    }
}

fn differ_in_keys(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    at: &mut PointerBuf,
    operations: &mut Vec<PatchOperation>,
) {
    for (key, value) in after {
        let was = before.get(key);
        if was == Some(value) {
            continue;
        }
        at.push_back(key);
        match was {
            Some(was) => differ(was, value, at, operations),
            None => operations.push(PatchOperation::Add(AddOperation {
                path: at.clone(),
                value: value.clone(),
            })),
        }
        at.pop_back();
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        at.push_back(key);
        operations.push(PatchOperation::Remove(RemoveOperation { path: at.clone() }));
        at.pop_back();
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::nothing(json!({"a": [1], "b": {"c": 1}}), json!({"b": {"c": 1}, "a": [1]}), json!([]))]
    #[case::an_added_key(json!({"a": {}}), json!({"a": {"b/c~": 1}}), json!([{"op": "add", "path": "/a/b~1c~0", "value": 1}]))]
    #[case::an_added_parent(json!({}), json!({"a": {"b": 1}}), json!([{"op": "add", "path": "/a", "value": {"b": 1}}]))]
    #[case::a_removed_key(json!({"a": {"b": null}}), json!({"a": {}}), json!([{"op": "remove", "path": "/a/b"}]))]
    #[case::another_value(json!({"a": {"b": 1}}), json!({"a": {"b": "1"}}), json!([{"op": "replace", "path": "/a/b", "value": "1"}]))]
    #[case::another_list(json!({"a": [1, 2]}), json!({"a": [1, 3]}), json!([{"op": "replace", "path": "/a", "value": [1, 3]}]))]
    #[case::another_type(json!({"a": {"b": 1}}), json!({"a": null}), json!([{"op": "replace", "path": "/a", "value": null}]))]
    #[case::another_whole(json!([]), json!({}), json!([{"op": "replace", "path": "", "value": {}}]))]
    fn a_patch_has_only_what_changed(#[case] before: Value, #[case] after: Value, #[case] want: Value) {
        let found = patch(&before, &after);
        assert_eq!(serde_json::to_value(&found).unwrap(), want);
        let mut patched = before;
        json_patch::patch(&mut patched, &found.0).unwrap();
        assert_eq!(patched, after);
    }
}
