//! The chart without an installation: what it renders, which values it refuses, and whether a real API server and Machinist's
//! servers accept the result.

mod applied;
mod named_controllers;
mod rendered;
mod rights;
mod values;

use std::collections::BTreeMap;

use serde_json::Value;

const NAMESPACE: &str = "machinist-system";
const EVERYTHING: &str = "ci/everything-values.yaml";
const HOST_NETWORK: &str = "ci/host-network-values.yaml";
const NAMED: &str = "ci/named-values.yaml";
const CONTROLLER: &str = "Deployment/machinist-controller";
const WEBHOOK: &str = "Deployment/machinist-webhook";

/// Objects by `Kind/name`.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
    };
    objects
        .into_iter()
        .map(|object| (name(&object), object))
        .collect()
}
