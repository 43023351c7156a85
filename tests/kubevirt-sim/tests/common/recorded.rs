//! Compares statuses with recorded ones of KubeVirt (`tests/recorded`).

use kubevirt_sim::objects::same;
use serde_json::{Value, json};

/// A recorded status, with everything that differs from run to run made equal.
fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/recorded/{name}.json", env!("CARGO_MANIFEST_DIR"));
    normal(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
}

/// Without all that differs from run to run.
pub(crate) fn normal(mut status: Value) -> Value {
    if let Some(passed) = status["phaseTransitionTimestamps"].as_array_mut() {
        // Running was recorded twice, because virt-handler was simulated by hand.
        passed.dedup_by_key(|passed| passed["phase"].clone());
    }
    if status["phaseTransitionTimestamps"].is_null() {
        status
            .as_object_mut()
            .unwrap()
            .remove("phaseTransitionTimestamps");
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        // Set by hand, too, and at some other moment in each recording.
        conditions.retain(|condition| condition["type"] != "AgentConnected");
    }
    if status["conditions"].is_null() {
        status.as_object_mut().unwrap().remove("conditions");
    }
    if let Some(pods) = status.get("activePods").and_then(Value::as_object) {
        status["activePods"] = json!(pods.values().collect::<Vec<_>>());
    }
    blur(&mut status);
    status
}

/// Times, UIDs, addresses and the names of the recorded namespace and claims.
fn blur(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match key.as_str() {
                    "ipAddress" | "mac" | "lastFailedVMIUID" => *value = json!("*"),
                    "ipAddresses" => *value = json!(["*"]),
                    "virtualMachineRevisionName" => {
                        assert!(value.as_str().unwrap().starts_with("revision-start-vm-"));
                        *value = json!("*");
                    }
                    _ => blur(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blur),
        Value::String(text) => {
            if text.len() == 20 && text.ends_with('Z') && text.starts_with("20") {
                "*".clone_into(text);
            }
            for (from, to) in [
                ("PVC x is", "PVC once is"),
                ("g-pvc-r2/", "NS/"),
                ("seq-pvc/", "NS/"),
            ] {
                *text = text.replace(from, to);
            }
        }
        _ => {}
    }
}

/// The status equals the one that was recorded under this name.
pub(crate) fn assert_recorded(seen: &Value, name: &str) {
    let (seen, expected) = (normal(seen.clone()), recorded(name));
    assert!(
        same(&seen, &expected),
        "{name}\nseen: {seen:#}\nrecorded: {expected:#}"
    );
}
