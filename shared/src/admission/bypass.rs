//! The bypass of immutability: one spec change, once.
//!
//! A user sets [`BYPASS_IMMUTABILITY`] to `true` and changes the spec in one request. The mutating step must remove the
//! annotation, or it would permit every later change as well. The validating step, which validates the change, runs
//! after it. So the mutating step leaves a trace: [`SPEC_CHANGE`] with a digest of the Machine's UID, its old spec and
//! its new spec. A user who can set one annotation can set the other, so the trace grants no new permission. It fits
//! this one transition only, and any later write that passes admission removes it.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::shape::MACHINE_SPEC;
use crate::api::names::annotation::{BYPASS_IMMUTABILITY, SPEC_CHANGE};
use crate::api::raw::{annotation, canonical, child, object_at_mut};

/// Removes the annotation from `new`, an update of `old`; and leaves the trace if it was `true` and the spec changed.
pub(super) fn mutate(old: &Value, new: &mut Value) {
    let granted = annotation(new, BYPASS_IMMUTABILITY) == Some("true");
    remove(new, BYPASS_IMMUTABILITY);
    if old.get("spec") == new.get("spec") {
        // Most updates leave the spec unchanged, and a comparison costs far less than normalization.
        remove(new, SPEC_CHANGE);
        return;
    }
    let (before, after) = (spec(old), spec(new));
    if before == after {
        remove(new, SPEC_CHANGE);
        return;
    }
    if granted {
        let metadata = new.as_object_mut().and_then(|new| child(new, "metadata"));
        if let Some(annotations) = metadata.and_then(|metadata| child(metadata, "annotations")) {
            let trace = trace(old, &before, &after);
            annotations.insert(SPEC_CHANGE.to_owned(), Value::String(trace));
        }
        return;
    }
    match annotation(new, SPEC_CHANGE) {
        Some(found) if found == trace(old, &before, &after) => {}
        _ => remove(new, SPEC_CHANGE),
    }
}

/// Whether the bypass permits the change from `old` to `new`.
pub(super) fn permits(old: &Value, new: &Value) -> bool {
    // The annotation still exists only if the mutating step did not run.
    annotation(new, BYPASS_IMMUTABILITY) == Some("true")
        || annotation(new, SPEC_CHANGE) == Some(trace(old, &spec(old), &spec(new)).as_str())
}

/// Removes an annotation of an object.
pub(super) fn remove(object: &mut Value, key: &str) {
    let annotations = object
        .as_object_mut()
        .and_then(|o| object_at_mut(o, &["metadata", "annotations"]));
    if let Some(annotations) = annotations {
        annotations.remove(key);
    }
}

/// The spec of a Machine as a typed client sees it.
pub(super) fn spec(object: &Value) -> Value {
    MACHINE_SPEC.normal(object.get("spec").unwrap_or(&Value::Null))
}

fn trace(old: &Value, before: &Value, after: &Value) -> String {
    let uid = old.pointer("/metadata/uid").unwrap_or(&Value::Null);
    let text = [uid, before, after].map(canonical).join("\n");
    let digest = Sha256::digest(text.as_bytes());
    format!("{digest:x}")
}
