//! Updates of stored Machines.

use anyhow::{Result, ensure};
use e2e::{
    manifest::NAMESPACE,
    rules::{Writer, collection, machine},
};
use http::{Method, StatusCode};
use serde_json::json;

use super::Admission;

const BYPASS: &str = "kubermatic.io/bypass-no-spec-mutation-requirement";

#[tokio::test]
async fn the_bypass_annotation_allows_one_change_of_the_spec() -> Result<()> {
    let admission = Admission::start().await?;
    let made = admission
        .kubectl(&["create", "-f", "-"], &machine().to_string())
        .await?;
    ensure!(made.success, "{}", made.err);
    let change = |version: &str| json!({"spec": {"versions": {"kubelet": version}}});

    let refused = admission.patch(&change("1.34.0")).await?;
    ensure!(
        !refused.success
            && refused
                .err
                .contains("spec.versions.kubelet: a Machine's spec is immutable"),
        "{}",
        refused.err
    );
    let mut open = change("1.34.0");
    open["metadata"] = json!({"annotations": {BYPASS: "true"}});
    let opened = admission.patch(&open).await?;
    ensure!(opened.success, "{}", opened.err);
    let stored = admission.get("machines", "m").await?;
    ensure!(stored["spec"]["versions"]["kubelet"] == "1.34.0", "{stored}");
    ensure!(
        stored["metadata"]["annotations"].get(BYPASS).is_none(),
        "{stored}"
    );

    for version in ["1.33.4", "1.35.0"] {
        let again = admission.patch(&change(version)).await?;
        ensure!(!again.success, "the bypass stayed open for {version}");
    }
    admission.end().await
}

/// Labels, finalizers, status, a providerID and unknown fields can be written, however invalid the stored object is.
#[tokio::test]
async fn a_stored_machine_that_is_invalid_can_be_changed_except_for_its_spec() -> Result<()> {
    let admission = Admission::start().await?;
    let mut broken = machine();
    broken["spec"] = json!({
        "providerSpec": {"value": {"cloudProvider": "aws", "foo": 1, "sshPublicKeys": ["x"]}},
        "configSource": {},
        "metadata": {"name": "other", "labels": {"a b": "c"}},
    });
    let post = collection("machines");
    admission
        .api
        .send(Method::POST, &post, &broken, Writer::Exempt)
        .await?
        .ok()?;
    for patch in [
        json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["a/b"]}}),
        json!({"metadata": {"finalizers": []}}),
        json!({"status": {"phase": "Failed"}}),
        json!({"spec": {"unknown": {"x": 1}}}),
        json!({"spec": {"providerID": "kubevirt://m"}}),
    ] {
        let printed = admission.patch(&patch).await?;
        ensure!(printed.success, "{patch}: {}", printed.err);
    }
    for (patch, field) in [
        (
            json!({"spec": {"versions": {"kubelet": "1.33.4"}}}),
            "spec.versions.kubelet: ",
        ),
        (
            json!({"spec": {"providerID": "kubevirt://n"}}),
            "spec.providerID: ",
        ),
    ] {
        let printed = admission.patch(&patch).await?;
        ensure!(
            !printed.success && printed.err.contains(field),
            "{patch}: {}",
            printed.err
        );
        let others = printed.err.matches("spec.").count();
        ensure!(others == 1, "only the change is reported: {}", printed.err);
    }
    admission.end().await
}

#[tokio::test]
async fn a_machine_that_is_being_deleted_can_lose_its_finalizers() -> Result<()> {
    let admission = Admission::start().await?;
    let mut held = machine();
    held["metadata"]["finalizers"] = json!(["a/b"]);
    // Admission would refuse to create it.
    held["spec"]["versions"] = json!({});
    let post = collection("machines");
    admission
        .api
        .send(Method::POST, &post, &held, Writer::Exempt)
        .await?
        .ok()?;
    let args = ["delete", "machine", "m", "-n", NAMESPACE, "--wait=false"];
    ensure!(admission.kubectl(&args, "").await?.success);

    let refused = admission
        .patch(&json!({"spec": {"versions": {"kubelet": "1.34.0"}}}))
        .await?;
    ensure!(
        !refused.success
            && refused
                .err
                .contains("spec.versions.kubelet: a Machine's spec is immutable"),
        "{}",
        refused.err
    );
    for patch in [
        json!({"status": {"phase": "Deleting"}}),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        json!({"metadata": {"finalizers": []}}),
    ] {
        let printed = admission.patch(&patch).await?;
        ensure!(printed.success, "{patch}: {}", printed.err);
    }
    let path = format!("{post}/m");
    let gone = admission
        .api
        .send(Method::GET, &path, &json!({}), Writer::Admin)
        .await?;
    ensure!(
        gone.code == StatusCode::NOT_FOUND,
        "it is still there: {}",
        gone.body
    );
    admission.end().await
}

#[tokio::test]
async fn only_changes_of_the_spec_need_the_webhook() -> Result<()> {
    let admission = Admission::start().await?;
    let made = admission
        .kubectl(&["create", "-f", "-"], &machine().to_string())
        .await?;
    ensure!(made.success, "{}", made.err);
    admission.case.bed.webhook().kill();
    for patch in [
        json!({"status": {"phase": "Running"}}),
        json!({"metadata": {"finalizers": ["a/b"], "labels": {"a": "b"}}}),
        json!({"spec": {"providerID": "x"}, "status": {"phase": "Provisioning"}}),
    ] {
        let printed = admission.patch(&patch).await?;
        ensure!(printed.success, "{patch}: {}", printed.err);
    }
    let others = [
        json!({"spec": {"providerID": "y"}}),
        json!({"spec": {"providerID": null}}),
        json!({"spec": {"versions": {"kubelet": "1.34.1"}}}),
        json!({"metadata": {"annotations": {"kubermatic.io/bypass-no-spec-mutation-requirement": "true"}}}),
    ];
    for patch in &others {
        let printed = admission.patch(patch).await?;
        ensure!(
            !printed.success && printed.err.contains("failed calling webhook"),
            "{patch}: {}",
            printed.err
        );
    }
    admission.case.bed.webhook().start().await?;
    admission.case.bed.webhook().ready().await?;
    let spec = admission.patch(&others[0]).await?;
    ensure!(
        !spec.success && spec.err.contains("is immutable once set"),
        "{}",
        spec.err
    );
    admission.end().await
}
