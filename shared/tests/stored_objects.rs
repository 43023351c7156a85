//! Objects as machine-controller and other Go clients stored them are read, and lose nothing that has a type.

use machinist_shared::api::{Machine, MachineDeployment, MachineSet};
use rstest::rstest;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn round_trip<T: DeserializeOwned + Serialize>(stored: &Value) -> Value {
    let object: T = serde_json::from_value(stored.clone()).expect("stored objects are read");
    serde_json::to_value(object).expect("our types are JSON")
}

fn machine_controllers_spec() -> Value {
    json!({
        "metadata": {"labels": {"a": "b"}},
        "taints": [{"key": "k", "effect": "NoSchedule"}],
        "providerSpec": {"value": {"sshPublicKeys": null, "caPublicKey": "", "cloudProvider": "kubevirt", "x": [1, null]}},
        "versions": {"kubelet": "1.33.4"},
        "providerID": "kubermatic://kubevirt/uid",
    })
}

#[test]
fn a_machine_keeps_everything() {
    let stored = json!({
        "metadata": {"name": "m", "namespace": "n", "finalizers": ["machine-delete-finalizer"]},
        "spec": machine_controllers_spec(),
        "status": {
            "nodeRef": {"kind": "Node", "apiVersion": "v1", "name": "m", "uid": "u", "resourceVersion": "1"},
            "versions": {"kubelet": "v1.33.4"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "errorReason": "CreateError", "errorMessage": "text",
            "providerStatus": {"any": [1]}, "phase": "Running",
        },
    });
    assert_eq!(round_trip::<Machine>(&stored), stored);
}

#[test]
fn sets_and_deployments_keep_everything() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": machine_controllers_spec()});
    let set = json!({
        "metadata": {"name": "s"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template, "deletePolicy": "Newest"},
        "status": {"replicas": 0},
    });
    assert_eq!(round_trip::<MachineSet>(&set), set);
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template, "paused": true,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
        },
        "status": {"observedGeneration": 1, "replicas": 2},
    });
    assert_eq!(round_trip::<MachineDeployment>(&deployment), deployment);
}

#[rstest]
#[case::everything_null(json!({"metadata": null, "spec": null, "status": null}))]
#[case::nulls_in_the_spec(json!({"spec": {"metadata": null, "taints": null, "providerSpec": null, "versions": null, "providerID": null}}))]
#[case::nulls_deeper(json!({"spec": {"metadata": {"creationTimestamp": null, "labels": {"a": null}}, "providerSpec": {"value": null}, "versions": {"kubelet": null}}}))]
#[case::nulls_in_lists(json!({"spec": {"taints": [null]}, "status": {"addresses": [null]}}))]
#[case::unset_times(json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}]}}))]
#[case::empty_objects(json!({"metadata": {}, "spec": {"metadata": {}, "providerSpec": {}, "versions": {"kubelet": ""}}, "status": {}}))]
fn a_machine_may_hold_nulls(#[case] stored: Value) {
    round_trip::<Machine>(&stored);
}

#[rstest]
#[case(json!({"spec": null}))]
#[case(json!({"spec": {"template": null, "selector": null, "replicas": null, "strategy": null}}))]
#[case(json!({"spec": {"template": {"metadata": {"creationTimestamp": null}, "spec": null}, "selector": {"matchLabels": null}}}))]
#[case(json!({"spec": {"strategy": {"type": null, "rollingUpdate": {"maxSurge": null}}}, "status": {"replicas": null}}))]
fn sets_and_deployments_may_hold_nulls(#[case] stored: Value) {
    round_trip::<MachineSet>(&stored);
    round_trip::<MachineDeployment>(&stored);
}
