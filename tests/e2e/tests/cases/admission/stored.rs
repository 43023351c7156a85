//! Objects as other programs have stored them: they can be read, labeled and written back unchanged.

use anyhow::{Context as _, Result, ensure};
use e2e::{
    manifest::NAMESPACE,
    rules::{Writer, collection},
};
use http::Method;
use serde_json::{Value, json};

use super::Admission;

#[tokio::test]
async fn objects_that_go_programs_have_stored_stay_as_they_are() -> Result<()> {
    let admission = Admission::start().await?;
    for (plural, object) in stored_objects() {
        round_trip(&admission, plural, &object)
            .await
            .with_context(|| format!("{plural}: {object}"))?;
    }
    admission.end().await
}

/// Stores an object with strict field validation, and writes it back as it was read.
async fn round_trip(admission: &Admission, plural: &str, object: &Value) -> Result<()> {
    let all = collection(plural);
    let post = format!("{all}?fieldValidation=Strict");
    let mut stored = admission
        .api
        .send(Method::POST, &post, object, Writer::Exempt)
        .await?
        .ok()?;
    let name = stored["metadata"]["name"].as_str().context("no name")?.to_owned();
    let one = format!("{all}/{name}");
    if plural != "machines" && object.get("status").is_some() {
        stored["status"] = object["status"].clone();
        let put = format!("{one}/status?fieldValidation=Strict");
        admission
            .api
            .send(Method::PUT, &put, &stored, Writer::Exempt)
            .await?
            .ok()?;
    }
    let read = admission.get(plural, &name).await?;
    same(object, &read)?;

    let put = format!("{one}?fieldValidation=Strict");
    let written = admission
        .api
        .send(Method::PUT, &put, &read, Writer::Exempt)
        .await?
        .ok()?;
    ensure!(
        written["metadata"]["resourceVersion"] == read["metadata"]["resourceVersion"],
        "writing it back was a change: {written}"
    );
    // A user may label it, even if it is invalid.
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    admission
        .api
        .send(Method::PATCH, &put, &label, Writer::Admin)
        .await?
        .ok()?;
    same(object, &admission.get(plural, &name).await?)?;
    let gone = admission
        .api
        .send(Method::DELETE, &one, &json!({}), Writer::Admin)
        .await?;
    gone.ok().map(drop)
}

/// Everything except the metadata is unchanged.
fn same(want: &Value, got: &Value) -> Result<()> {
    let fields = want.as_object().into_iter().flatten();
    for (key, want) in fields.filter(|(key, _)| *key != "metadata") {
        let got = got.get(key).unwrap_or(&Value::Null);
        ensure!(got == want, "{key} became {got}");
    }
    Ok(())
}

/// Objects as machine-controller and others have stored them, with fields that the current types do not have.
fn stored_objects() -> Vec<(&'static str, Value)> {
    let machines = [
        json!({"spec": machine_controllers_spec(), "status": {
            "nodeRef": {"kind": "Node", "apiVersion": "v1", "name": "m", "uid": "u", "resourceVersion": "1"},
            "versions": {"kubelet": "v1.33.4"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}],
            "errorReason": "CreateError", "errorMessage": "text",
            "lastUpdated": "2020-01-01T00:00:00Z", "phase": "Running",
            "providerStatus": {"any": [1, null]},
            "lastOperation": {"description": "d", "lastUpdated": null, "state": "s", "type": "t"},
        }}),
        json!({"spec": machine_controllers_spec(), "status": {}}),
        json!({"spec": null, "status": null}),
        json!({}),
        json!({"spec": {"metadata": {}, "providerSpec": {}, "versions": {"kubelet": ""}}, "status": {}}),
        json!({
            "spec": {
                "metadata": null, "taints": null, "providerSpec": null, "versions": null, "configSource": null,
                "providerID": null,
            },
            "status": {"nodeRef": null, "addresses": null, "conditions": null, "phase": null, "providerStatus": null},
        }),
        json!({
            "spec": {
                "metadata": {"creationTimestamp": null, "labels": null, "annotations": {"a": null}, "finalizers": []},
                "taints": [null, {}, {"key": null, "timeAdded": null, "x": 1}],
                "providerSpec": {"value": null, "valueFrom": {"machineClass": {"provider": null, "x": 1}}, "x": 1},
                "versions": {"kubelet": null, "x": 1},
                "configSource": {"configMap": {"name": "x"}, "x": null},
                "unknown": {"x": [1, null, {"y": 1.5}]},
                "Taints": "x",
            },
            "status": {"addresses": [null], "conditions": [null, {"x": 1}], "unknown": null, "versions": {"x": 1}},
            "unknown": [{}],
        }),
        json!({"spec": {"providerSpec": {"value": {"a": [1, {"b": null}]}}}, "status": {"providerStatus": "text"}}),
        json!({"spec": {"providerSpec": {"value": {}}}, "status": {"providerStatus": [1]}}),
    ];
    let template = json!({
        "metadata": {"creationTimestamp": null, "labels": {"a": "b"}, "x": 1},
        "spec": machine_controllers_spec(),
    });
    let sets = [
        json!({
            "spec": {
                "replicas": 2, "minReadySeconds": 0, "deletePolicy": "", "x": 1,
                "selector": {"matchLabels": {"a": "b"}}, "template": template,
            },
            "status": {"replicas": 0, "observedGeneration": 1, "x": 1},
        }),
        json!({"spec": {"selector": {}, "template": {"metadata": {}, "spec": {"metadata": {}, "providerSpec": {}, "versions": {"kubelet": ""}}}}}),
        // Replicas have a scale subresource, for which the API server refuses null; Go leaves them out.
        json!({"spec": {"minReadySeconds": null, "selector": null, "template": null, "deletePolicy": null}}),
    ];
    let deployments = [
        json!({
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists", "values": null}]},
                "template": template, "paused": true, "minReadySeconds": 0, "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0, "x": 1}},
            },
            "status": {"observedGeneration": 1, "replicas": 2, "unavailableReplicas": 1},
        }),
        json!({"spec": {"minReadySeconds": null, "strategy": {"type": null, "rollingUpdate": null}, "template": {"metadata": null, "spec": null}}}),
        json!({"spec": {"strategy": null, "selector": null, "paused": null}}),
    ];
    let of = |plural, kind: &str, objects: &[Value]| {
        let objects = objects.iter().cloned().map(|mut object| {
            object["apiVersion"] = json!("cluster.k8s.io/v1alpha1");
            object["kind"] = json!(kind);
            object["metadata"] = json!({"name": "m", "namespace": NAMESPACE});
            (plural, object)
        });
        objects.collect::<Vec<_>>()
    };
    [
        of("machines", "Machine", &machines),
        of("machinesets", "MachineSet", &sets),
        of("machinedeployments", "MachineDeployment", &deployments),
    ]
    .concat()
}

fn machine_controllers_spec() -> Value {
    json!({
        "metadata": {"creationTimestamp": null, "name": "m", "labels": {"a": "b"}},
        "taints": [{"key": "k", "effect": "NoSchedule"}],
        "providerSpec": {"value": {
            "sshPublicKeys": null, "caPublicKey": "", "cloudProvider": "kubevirt",
            "cloudProviderSpec": {"auth": {"kubeconfig": {"value": "x", "secretKeyRef": {"key": ""}}}, "clusterName": "c"},
            "operatingSystem": "ubuntu", "operatingSystemSpec": {"distUpgradeOnBoot": false},
            "network": {"cidr": "", "gateway": "", "dns": {"servers": null}},
        }},
        "versions": {"kubelet": "1.33.4"},
        "providerID": "kubevirt://m",
    })
}
