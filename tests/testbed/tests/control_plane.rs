//! The control planes are real: with KubeVirt's schemas, CSR signing and garbage collection, and stopped when their owner is
//! dropped.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::wait::{await_condition, conditions},
};
use serde_json::json;
use testbed::{ControlPlane, control_plane::Options, process::is_running};

fn vm(spec: &serde_json::Value) -> String {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "vm-1", "namespace": "default"},
        "spec": spec,
    })
    .to_string()
}

#[tokio::test]
async fn an_infra_cluster_knows_kubevirts_schema_and_collects_what_a_vm_owned() -> Result<()> {
    let infra = ControlPlane::start(Options::infra()).await?;
    assert_eq!(infra.client().apiserver_version().await?.git_version, "v1.36.3");

    // Strict: unknown fields are refused by name.
    let template = json!({"spec": {"domain": {"devices": {}}, "nodeSelektor": {}}});
    let misspelled = vm(&json!({"runStrategy": "Once", "template": template}));
    let refused = infra
        .kubectl(&["create", "--validate=strict", "-f", "-"], &misspelled)
        .await?;
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "a misspelled field was taken");
    assert!(
        stderr.contains(r#"unknown field "spec.template.spec.nodeSelektor""#),
        "{stderr}"
    );

    let template = json!({"spec": {"domain": {"devices": {}}}});
    let good = vm(&json!({"runStrategy": "Once", "template": template}));
    infra
        .kubectl_ok(&["create", "--validate=strict", "-f", "-"], &good)
        .await?;
    let listed = infra.kubectl_ok(&["get", "vm"], "").await?;
    assert!(
        listed.starts_with("NAME   AGE   STATUS   READY"),
        "KubeVirt's short name and columns: {listed}"
    );

    // The garbage collector knows the CRDs from its start on.
    let gvk = GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachine");
    let vms: Api<DynamicObject> =
        Api::namespaced_with(infra.client(), "default", &ApiResource::from_gvk(&gvk));
    let uid = vms.get("vm-1").await?.metadata.uid.context("no UID")?;
    let owned: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "owned", "ownerReferences": [
            {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm-1", "uid": uid},
        ]},
    }))?;
    let config_maps: Api<ConfigMap> = Api::namespaced(infra.client(), "default");
    let owned = config_maps
        .create(&PostParams::default(), &owned)
        .await?
        .metadata
        .uid
        .context("no UID")?;
    vms.delete("vm-1", &DeleteParams::default()).await?;
    let gone = await_condition(config_maps, "owned", conditions::is_deleted(&owned));
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .context("still there")??;
    Ok(())
}

#[tokio::test]
async fn a_token_of_a_service_account_has_its_rights_and_no_more() -> Result<()> {
    let user = ControlPlane::start(Options {
        controller_manager: false,
        ..Options::user()
    })
    .await?;
    user.ensure_namespace("somewhere").await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(user.client(), "somewhere");
    let account = serde_json::from_value(json!({"metadata": {"name": "robot"}}))?;
    accounts.create(&PostParams::default(), &account).await?;
    let kubeconfig = user
        .service_account_kubeconfig("somewhere", "robot", user.server())
        .await?;
    let robot = testbed::kubeconfig::client(&kubeconfig).await?;

    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(robot.clone(), "somewhere");
    let error = secrets
        .list(&ListParams::default())
        .await
        .expect_err("it was given no rights");
    assert!(
        error
            .to_string()
            .contains("system:serviceaccount:somewhere:robot"),
        "{error}"
    );

    // The ConfigMap that joining nodes and machine controllers read, even without credentials.
    let info = user
        .kubectl_ok(
            &["get", "cm", "-n", "kube-public", "cluster-info", "-o", "yaml"],
            "",
        )
        .await?;
    assert!(info.contains(user.server()), "{info}");
    Ok(())
}

#[tokio::test]
async fn the_api_server_comes_back_with_its_data_after_sigkill_and_nothing_runs_after_a_drop() -> Result<()> {
    let plane = ControlPlane::start(Options {
        audit: true,
        ..Options::user()
    })
    .await?;
    plane.ensure_namespace("kept").await?;
    plane.restart_apiserver().await?;
    let found = plane
        .kubectl_ok(&["get", "namespace", "kept", "-o", "name"], "")
        .await?;
    assert_eq!(found.trim(), "namespace/kept");
    let audit = std::fs::read_to_string(plane.audit_log())?;
    assert!(
        audit.contains(r#""resource":"namespaces","name":"kept""#),
        "the audit log records requests"
    );

    let dir = plane.dir().to_path_buf();
    let pids: Vec<u32> = std::fs::read_dir(&dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "pid"))
        .map(|path| Ok(std::fs::read_to_string(path)?.trim().parse()?))
        .collect::<Result<_>>()?;
    assert_eq!(pids.len(), 3, "etcd, kube-apiserver, kube-controller-manager");
    assert!(pids.iter().all(|pid| is_running(*pid)));
    drop(plane);
    assert!(!pids.iter().any(|pid| is_running(*pid)));
    assert!(dir.join("kube-apiserver.log").is_file(), "logs are kept");
    assert!(!dir.join("data").exists(), "data is not");
    Ok(())
}
