//! The requests that the cluster-autoscaler makes through its provider `clusterapi`, one by one and with exactly the rights
//! that its document grants. The autoscaler itself does not run here.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::{Case, case::WAIT_TIMEOUT, manifest, rollout::deployment, wait};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject},
};
use machinist_shared::api::{
    Machine, MachineDeployment, MachineSet,
    names::{annotation, autoscaler},
};
use serde_json::{Value, json};
use testbed::{bed::CONTROLLER, kubeconfig, paths};

const ACCOUNT: &str = "cluster-autoscaler";

#[tokio::test]
async fn a_pool_is_scaled_from_zero_and_back_with_the_rights_of_the_document() -> Result<()> {
    let case = Case::start().await?;
    let client = autoscaler(&case).await?;
    let pools: Api<MachineDeployment> = Api::namespaced(client.clone(), manifest::NAMESPACE);
    let sets: Api<MachineSet> = Api::all(client.clone());
    let machines: Api<Machine> = Api::namespaced(client.clone(), manifest::NAMESPACE);
    let sizes = |min: &str, max: &str| {
        let mut pool = deployment("workers", 0);
        pool["metadata"]["annotations"] = json!({
            autoscaler::MIN_SIZE: min, autoscaler::MAX_SIZE: max,
        });
        pool
    };
    let refused = case.refused(&sizes("zero", "3")).await?;
    ensure!(refused.contains(autoscaler::MIN_SIZE), "{refused}");
    case.apply(&sizes("0", "3")).await?;

    // A node group has minimum and maximum size, and the capacity of a node.
    let pool = pools.get("workers").await?;
    let capacity = |name: &str| {
        let key = format!("capacity.cluster-autoscaler.kubernetes.io/{name}");
        pool.annotations().get(&key).cloned()
    };
    assert_eq!(
        (capacity("cpu").as_deref(), capacity("memory").as_deref()),
        (Some("2"), Some("4Gi"))
    );

    scale(&pools, 0, 1).await?;
    let first = joined(&case, &machines, &[]).await?;
    scale(&pools, 1, 2).await?;
    let second = joined(&case, &machines, &[&first]).await?;
    let owned = sets.list(&ListParams::default()).await?;
    ensure!(owned.items.len() == 1, "{} MachineSets", owned.items.len());

    // Scale down: it annotates the Machine of the node to remove, by an update of the whole object, and lowers the size. It
    // chooses the older one, which the set would keep by default.
    let newest = json!({"spec": {"deletePolicy": "Newest"}});
    let set = owned.items[0].name_any();
    case.machine_sets()
        .patch(&set, &PatchParams::default(), &Patch::Merge(&newest))
        .await?;
    let resource = ApiResource::erase::<Machine>(&());
    let untyped: Api<DynamicObject> = Api::namespaced_with(client, manifest::NAMESPACE, &resource);
    let mut marked = untyped.get(&first).await?;
    let time = "2026-11-24 12:00:00 +0000 UTC".to_owned();
    marked
        .annotations_mut()
        .insert(annotation::DELETE_MACHINE.to_owned(), time);
    let proxy = case.bed.user().proxy();
    proxy.freeze_watches_of(CONTROLLER, "machines");
    untyped.replace(&first, &PostParams::default(), &marked).await?;
    // The controller receives the new size before the annotation.
    scale(&pools, 2, 1).await?;
    let smaller = |set: &MachineSet| set.spec.replicas == Some(1);
    wait::for_state(&case.machine_sets(), &set, "scaled down", WAIT_TIMEOUT, smaller).await?;
    case.settled().await;
    let all = machines.list(&ListParams::default()).await?;
    ensure!(
        all.iter()
            .all(|machine| machine.metadata.deletion_timestamp.is_none()),
        "none goes before it is known which"
    );
    proxy.heal(CONTROLLER);
    wait::for_absence(&case.machines(), &first, WAIT_TIMEOUT).await?;
    wait::for_absence(&case.nodes(), &first, WAIT_TIMEOUT).await?;
    ensure!(
        machines.get(&second).await?.metadata.deletion_timestamp.is_none(),
        "{second} stays"
    );

    // The account has no further rights.
    let denied = machines.delete(&second, &DeleteParams::default()).await;
    ensure!(
        matches!(&denied, Err(kube::Error::Api(status)) if status.code == 403),
        "{denied:?}"
    );
    scale(&pools, 1, 0).await?;
    wait::for_absence(&case.machines(), &second, WAIT_TIMEOUT).await?;
    case.delete_deployment("workers").await?;
    case.finish(&[]).await
}

/// As the autoscaler writes it: it reads `/scale`, and patches it.
async fn scale(pools: &Api<MachineDeployment>, from: i32, to: i32) -> Result<()> {
    let scale = pools.get_scale("workers").await?;
    assert_eq!(
        scale.spec.and_then(|spec| spec.replicas).unwrap_or_default(),
        from
    );
    let patch = json!({"spec": {"replicas": to}});
    pools
        .patch_scale("workers", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .context("patching /scale")?;
    Ok(())
}

/// Waits until a Machine other than `known` has its Node, and checks the fields by which the autoscaler matches them.
async fn joined(case: &Case, machines: &Api<Machine>, known: &[&str]) -> Result<String> {
    let new = |machine: &Machine| !known.contains(&machine.name_any().as_str());
    wait::any(machines, "another Machine", WAIT_TIMEOUT, new).await?;
    let all = machines.list(&ListParams::default()).await?;
    let name = all
        .iter()
        .find(|machine| new(machine))
        .context("it is gone")?
        .name_any();
    let has_id = |machine: &Machine| machine.spec.provider_id.is_some();
    let machine = wait::for_state(machines, &name, "given its providerID", WAIT_TIMEOUT, has_id).await?;
    case.node_ready(&name).await?;
    let id = machine.spec.provider_id.clone();
    let same = |node: &k8s_openapi::api::core::v1::Node| {
        node.spec.as_ref().and_then(|spec| spec.provider_id.clone()) == id
    };
    wait::for_state(
        &case.nodes(),
        &name,
        "known by the Machine's providerID",
        WAIT_TIMEOUT,
        same,
    )
    .await?;
    Ok(name)
}

/// A client with what `docs/autoscaler.md` grants to the autoscaler.
async fn autoscaler(case: &Case) -> Result<Client> {
    let document = fs::read_to_string(paths::workspace().join("docs/autoscaler.md"))?;
    let role = document
        .split("```yaml\n")
        .filter_map(|block| block.split("```").next())
        .find(|block| block.contains("kind: ClusterRole\n"))
        .context("docs/autoscaler.md has no ClusterRole")?;
    let user = case.bed.user();
    user.kubectl_ok(&["apply", "-f", "-"], role).await?;
    let subject = json!({"kind": "ServiceAccount", "name": ACCOUNT, "namespace": manifest::NAMESPACE});
    let objects = [
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": manifest::NAMESPACE},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ACCOUNT},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-autoscaler-machinist",
            },
            "subjects": [subject],
        }),
    ];
    let list = json!({"apiVersion": "v1", "kind": "List", "items": Value::from(objects.to_vec())});
    user.kubectl_ok(&["apply", "-f", "-"], &list.to_string()).await?;
    let kubeconfig = user
        .service_account_kubeconfig(manifest::NAMESPACE, ACCOUNT, user.server())
        .await?;
    kubeconfig::client(&kubeconfig).await
}
