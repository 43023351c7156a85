//! KubeVirt's rules for matchers themselves, independent of the cluster's objects.

use serde_json::Value;

use super::validate::Cause;

/// What is wrong with `instancetype` and `preference` of a VM.
pub(super) fn causes(vm: &Value) -> Vec<Cause> {
    [
        ("instancetype", "InstancetypeMatcher"),
        ("preference", "PreferenceMatcher"),
    ]
    .into_iter()
    .find_map(|(field, name)| {
        let matcher = vm
            .pointer(&format!("/spec/{field}"))
            .filter(|found| !found.is_null())?;
        // Only the first invalid one is reported.
        Some(of(matcher, field, name)).filter(|causes| !causes.is_empty())
    })
    .unwrap_or_default()
}

fn of(matcher: &Value, field: &str, name: &str) -> Vec<Cause> {
    let is_set = |key: &str| matcher[key].as_str().is_some_and(|text| !text.is_empty());
    let path = format!("spec.{field}");
    let cause = |kind, field: String, message: String| Cause { kind, message, field };
    let mut causes = Vec::new();
    if !is_set("name") && !is_set("inferFromVolume") {
        let message = format!("Either Name or InferFromVolume should be provided within the {name}");
        causes.push(cause("FieldValueNotFound", path.clone(), message));
    }
    if is_set("inferFromVolume") {
        for (key, word) in [("name", "Name"), ("kind", "Kind")] {
            if is_set(key) {
                let message = format!("{word} already set, should be cleared before setting inferFromVolume");
                causes.push(cause("FieldValueNotSupported", format!("{path}.{key}"), message));
            }
        }
    }
    if let Some(policy) = matcher["inferFromVolumeFailurePolicy"].as_str()
        && !["Ignore", "Reject"].contains(&policy)
    {
        let message = format!("Invalid value '{policy}' for InferFromVolumeFailurePolicy");
        causes.push(Cause::invalid(
            format!("{path}.inferFromVolumeFailurePolicy"),
            message,
        ));
    }
    causes
}
