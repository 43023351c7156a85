//! An installation over machine-controller's manifests, with a real Helm, as docs/moving.md describes it: the chart adopts the
//! CRDs, and the Machines stay.

use anyhow::{Result, ensure};
use e2e::{
    Case,
    helm::{self, Helm},
    manifest,
};
use k8s_openapi::{
    api::admissionregistration::v1::MutatingWebhookConfiguration,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use testbed::bed::{Machinist, Options};

const CONFIGURATION: &str = "machinedeployments.machine-controller.kubermatic.io";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

#[tokio::test]
async fn crds_are_adopted_and_machines_stay() -> Result<()> {
    let case = Case::start_with(Options {
        machinist: Machinist::Absent,
        boot: None,
        ..Options::default()
    })
    .await?;
    for definition in definitions() {
        case.apply(&definition).await?;
    }
    case.kubectl(&["wait", "--for=condition=Established", "crd", "--all"])
        .await?;
    case.apply(&manifest::machine("survivor")).await?;
    let machine = case.machines().get("survivor").await?;
    case.apply(&configuration()).await?;
    let said = case.refused(&manifest::machine("refused")).await?;
    assert!(
        said.contains("failed calling webhook"),
        "its webhook has no pods: {said}"
    );

    let helm = Helm::of(case.bed.user());
    let chart = helm::chart();
    let install = [
        "install",
        "machinist",
        &*chart,
        "--namespace",
        "machinist-system",
        "--create-namespace",
        // The pods of the chart do not run here, so no webhook answers for Machines.
        "--set",
        "webhook.failurePolicy=Ignore",
    ];
    let output = helm.run(&install).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("invalid ownership metadata"),
        "{said}"
    );

    let client = case.bed.user().client();
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    configurations
        .delete(CONFIGURATION, &DeleteParams::default())
        .await?;
    let notes = helm.ok(&[&install[..], &["--take-ownership"]].concat()).await?;
    ensure!(
        notes.contains("Machinist continues with those that exist")
            && !notes.contains("Create a first Machine"),
        "{notes}"
    );

    let ours: Api<CustomResourceDefinition> = Api::all(client);
    let ours = ours.list(&ListParams::default()).await?.items;
    let ours: Vec<_> = ours
        .iter()
        .filter(|crd| crd.spec.group == "cluster.k8s.io")
        .collect();
    assert_eq!(ours.len(), 3);
    for crd in ours {
        let by = crd.labels().get(MANAGED_BY).map(String::as_str);
        assert_eq!(by, Some("Helm"), "{}", crd.name_any());
        assert_eq!(
            crd.annotations()
                .get("helm.sh/resource-policy")
                .map(String::as_str),
            Some("keep"),
            "{}",
            crd.name_any()
        );
        let schema = crd.spec.versions[0]
            .schema
            .as_ref()
            .and_then(|schema| schema.open_api_v3_schema.as_ref());
        let properties = schema.and_then(|schema| schema.properties.as_ref());
        assert!(
            properties.is_some_and(|properties| properties.contains_key("spec")),
            "{} has our schema",
            crd.name_any()
        );
    }
    let names: Vec<_> = configurations
        .list(&ListParams::default())
        .await?
        .iter()
        .map(kube::ResourceExt::name_any)
        .collect();
    assert_eq!(names, ["machinist"]);
    let stays = case.machines().get("survivor").await?;
    assert_eq!((stays.uid(), &stays.spec), (machine.uid(), &machine.spec));
    case.apply(&manifest::machine("new")).await?;

    for name in ["survivor", "new"] {
        case.machines().delete(name, &DeleteParams::default()).await?;
    }
    case.finish(&[]).await
}

/// Without a schema, as machine-controller has them.
fn definitions() -> [Value; 3] {
    [
        ("Machine", "ma", json!({})),
        ("MachineSet", "ms", json!({"status": {}})),
        (
            "MachineDeployment",
            "md",
            json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}),
        ),
    ]
    .map(|(kind, short, subresources)| {
        let singular = kind.to_lowercase();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{singular}s.cluster.k8s.io"), "labels": {"local-testing": "true"},
                "annotations": {"api-approved.kubernetes.io": "unapproved, legacy API"},
            },
            "spec": {
                "group": "cluster.k8s.io", "scope": "Namespaced",
                "names": {
                    "kind": kind, "listKind": format!("{kind}List"), "plural": format!("{singular}s"), "singular": singular,
                    "shortNames": [short],
                },
                "versions": [{
                    "name": "v1alpha1", "served": true, "storage": true, "subresources": subresources,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        })
    })
}

/// As machine-controller registers it.
fn configuration() -> Value {
    let webhooks = ["machinedeployments", "machines"].map(|resource| {
        json!({
            "name": format!("{resource}.machine-controller.kubermatic.io"),
            "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1", "v1beta1"],
            "rules": [{
                "apiGroups": ["cluster.k8s.io"], "apiVersions": ["v1alpha1"], "operations": ["CREATE", "UPDATE"],
                "resources": [resource],
            }],
            "clientConfig": {"service": {
                "namespace": "kube-system", "name": "machine-controller-webhook", "path": format!("/{resource}"),
            }},
        })
    });
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": CONFIGURATION}, "webhooks": webhooks,
    })
}
