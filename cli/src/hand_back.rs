//! Removes from the status of Machines what machine-controller does not write, before it continues with them: it would leave a
//! stale `phase`, and write its condition `Ready` beside ours.

use anyhow::{Context as _, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt as _};
use machinist_infra::kube::error::RemoteError;
use machinist_shared::api;
use machinist_shared::api::names::condition;
use serde_json::{Value, json};

/// A Lease that was renewed this recently is held.
const HELD: SignedDuration = SignedDuration::from_mins(1);

/// Fails while a controller leads: it would write the status again.
pub async fn check_stopped(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let found = leases
        .get_opt("machine-controller")
        .await
        .map_err(RemoteError::from);
    let lease = found.with_context(|| format!("cannot get the Lease {namespace}/machine-controller"))?;
    match lease.and_then(|lease| holder(&lease, Timestamp::now())) {
        Some(holder) => bail!(
            "{holder} holds the Lease {namespace}/machine-controller and would write the status again: stop it first, and \
             wait for a minute"
        ),
        None => Ok(()),
    }
}

/// Who holds the Lease.
fn holder(lease: &Lease, now: Timestamp) -> Option<String> {
    let spec = lease.spec.as_ref()?;
    let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty())?;
    let renewed = spec.renew_time.as_ref()?.0;
    (now.duration_since(renewed) < HELD).then_some(holder)
}

/// The patch of a Machine's status, if that has any of it. Of the conditions, `Ready` stays as machine-controller writes it: True,
/// or not at all.
pub fn patch(machine: &DynamicObject) -> Option<Value> {
    let status = &machine.data["status"];
    let conditions = || status["conditions"].as_array().into_iter().flatten();
    // machine-controller gives no reasons.
    let is_ours = conditions().any(|condition| {
        condition["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty())
    });
    if !is_ours && status["phase"].is_null() && status["failureMessage"].is_null() {
        return None;
    }
    let is_ready = conditions().any(|c| c["type"] == condition::READY && c["status"] == "True");
    let ready = is_ready.then(|| json!([{"type": condition::READY, "status": "True"}]));
    Some(json!({
        "metadata": {"uid": machine.metadata.uid, "resourceVersion": machine.metadata.resource_version},
        "status": {"conditions": ready, "phase": null, "failureMessage": null},
    }))
}

/// Writes it, if the Machine has not changed since.
pub async fn write(client: &Client, machine: &DynamicObject, patch: &Value) -> Result<(), RemoteError> {
    let resource = ApiResource::erase::<api::Machine>(&());
    let (namespace, name) = (machine.namespace().unwrap_or_default(), machine.name_any());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn ready(status: &str) -> Value {
        json!([{"type": "InfrastructureReady", "status": "True", "reason": "VMRunning"},
            {"type": "Ready", "status": status, "reason": "NodeReady"}])
    }

    #[rstest]
    #[case::one_that_is_ready(json!({"conditions": ready("True"), "phase": "Running"}), Some(json!([{"type": "Ready", "status": "True"}])))]
    #[case::one_that_is_not(json!({"conditions": ready("False"), "phase": "Failed", "failureMessage": "x"}), Some(Value::Null))]
    #[case::one_with_both(json!({"conditions": [{"type": "Ready", "status": "False", "reason": "VMStarting"},
        {"type": "Ready", "status": "True"}]}), Some(json!([{"type": "Ready", "status": "True"}])))]
    #[case::only_a_phase(json!({"phase": "Running"}), Some(Value::Null))]
    #[case::machine_controllers_own(json!({"conditions": [{"type": "Ready", "status": "True"}]}), None)]
    #[case::none(Value::Null, None)]
    fn what_is_left_of_a_status(#[case] status: Value, #[case] conditions: Option<Value>) {
        let machine = json!({"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "Machine",
            "metadata": {"name": "a", "uid": "m", "resourceVersion": "7"}, "status": status});
        let patch = patch(&serde_json::from_value(machine).unwrap());
        assert_eq!(
            patch.as_ref().map(|patch| patch["status"]["conditions"].clone()),
            conditions
        );
        if let Some(patch) = patch {
            assert_eq!(patch["status"]["phase"], Value::Null);
            assert_eq!(patch["metadata"]["resourceVersion"], "7");
            assert!(
                patch["status"]
                    .as_object()
                    .unwrap()
                    .contains_key("failureMessage")
            );
        }
    }

    #[rstest]
    #[case::renewed("a", 10, true)]
    #[case::given_up("", 10, false)]
    #[case::expired("a", 61, false)]
    fn a_controller_leads(#[case] holder: &str, #[case] seconds: i64, #[case] leads: bool) {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let renewed = now - SignedDuration::from_secs(seconds);
        let lease =
            json!({"metadata": {}, "spec": {"holderIdentity": holder, "renewTime": format!("{renewed:.6}")}});
        assert_eq!(
            super::holder(&serde_json::from_value(lease).unwrap(), now).is_some(),
            leads
        );
    }
}
