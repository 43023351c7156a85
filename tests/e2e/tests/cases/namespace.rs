//! A namespace is deleted with its Machines and the Secret with their kubeconfig: everything is removed, in any order of the
//! namespace controller.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use e2e::{Case, case::WAIT_TIMEOUT, infra, manifest, rollout::deployment, wait};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Namespace, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
    core::ObjectMeta,
};
use machinist_shared::api::{Machine, MachineDeployment};
use rstest::rstest;
use serde_json::json;
use testbed::{
    bed::{CONTROLLER, SYSTEM_NAMESPACE},
    proxy::Request,
    seed::INFRA_SECRET,
};

const TEAM: &str = "team-a";

#[rstest]
#[case::whose_kubeconfig_is_elsewhere(false)]
#[case::with_its_kubeconfig(true)]
#[tokio::test]
async fn a_namespace_that_is_deleted_leaves_nothing(#[case] with_kubeconfig: bool) -> Result<()> {
    let case = Case::start().await?;
    let user = case.bed.user();
    user.kubectl_ok(&["create", "namespace", TEAM], "").await?;
    let mut machine = manifest::machine("pool");
    if with_kubeconfig {
        copy_kubeconfig(&case).await?;
        infra::kubeconfig_in(&mut machine)["secretKeyRef"]["namespace"] = json!(TEAM);
    }
    let mut pool = deployment("pool", 2);
    pool["metadata"]["namespace"] = json!(TEAM);
    pool["spec"]["template"]["spec"] = machine["spec"].clone();
    case.apply(&pool).await?;
    let deployments: Api<MachineDeployment> = Api::namespaced(user.client(), TEAM);
    let whole = |deployment: &MachineDeployment| {
        let status = deployment.status.as_ref();
        status.is_some_and(|status| status.available_replicas == Some(2))
    };
    wait::for_state(&deployments, "pool", "available", WAIT_TIMEOUT, whole).await?;

    let namespaces: Api<Namespace> = Api::all(user.client());
    namespaces.delete(TEAM, &DeleteParams::default()).await?;
    let gone = wait::for_absence(&namespaces, TEAM, WAIT_TIMEOUT * 2).await;
    if gone.is_err() {
        let machines: Api<Machine> = Api::namespaced(user.client(), TEAM);
        let left = machines.list(&ListParams::default()).await?.items;
        gone.with_context(|| format!("{left:#?}"))?;
    }
    case.finish(&[]).await
}

/// Machinist is deleted first, and the deletion of Machines waits for it. No object is left once it is installed again.
#[tokio::test]
async fn machinists_own_namespace_may_be_deleted_first() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&deployment("pool", 2)).await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    let vms: HashSet<_> = case.machine_uids().await?.into_keys().collect();

    let user = case.bed.user();
    user.kubectl_ok(&["delete", "namespace", SYSTEM_NAMESPACE], "")
        .await?;
    // The API server accepts its token for some more seconds.
    let refused = |request: &Request| request.client == CONTROLLER && request.status == 401;
    user.proxy().seen(refused).await;
    case.kubectl(&["delete", "machinedeployment", "pool", "--wait=false"])
        .await?;
    case.kubectl(&["delete", "machines", "--all", "--wait=false"])
        .await?;
    let left: HashSet<_> = case.machine_uids().await?.into_keys().collect();
    assert_eq!(left, vms, "its finalizers hold the Machines");
    for vm in &vms {
        let vm = case.vms().get(vm).await?;
        assert!(vm.metadata.deletion_timestamp.is_none());
    }

    case.bed.controller().kill();
    case.bed.upgrade_chart(&json!({})).await?;
    let again = case.bed.new_controller("again", &[]).await?;
    again.launch()?;
    for machine in &vms {
        wait::for_absence(&case.machines(), machine, WAIT_TIMEOUT).await?;
    }
    wait::for_absence(&case.deployments(), "pool", WAIT_TIMEOUT).await?;
    again.terminate().await?;
    case.finish(&[]).await
}

async fn copy_kubeconfig(case: &Case) -> Result<()> {
    let user = case.bed.user().client();
    let theirs: Api<Secret> = Api::namespaced(user.clone(), manifest::NAMESPACE);
    let data = theirs.get(INFRA_SECRET).await?.data.unwrap_or_default();
    let copied: Vec<(String, ByteString)> = data.into_iter().collect();
    let copy = Secret {
        metadata: ObjectMeta {
            name: Some(INFRA_SECRET.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(copied.into_iter().collect()),
        ..Secret::default()
    };
    Api::<Secret>::namespaced(user, TEAM)
        .create(&PostParams::default(), &copy)
        .await?;
    Ok(())
}
