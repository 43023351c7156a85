//! What the chart grants is what the servers use: a missing rule shows as a 403, an excessive one here.

use std::collections::BTreeSet;

use anyhow::Result;
use e2e::{Case, case::PATIENCE, drain, manifest, rollout::deployment, wait};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use machinist_shared::api::MachineSet;
use serde_json::json;
use testbed::{
    bed::{CONTROLLER, MACHINES, WEBHOOK},
    proxy::Request,
};

/// Granted for what one undisturbed life does not need: verb, resource, and when it is used.
const RARE: &[(&str, &str, &str)] = &[
    (
        "create",
        "machinesets.cluster.k8s.io",
        "of rollouts, which tests/rollout.rs drives",
    ),
    (
        "delete",
        "machinesets.cluster.k8s.io",
        "of rollouts, which tests/rollout.rs drives",
    ),
    (
        "patch",
        "machinedeployments.cluster.k8s.io",
        "of rollouts, which tests/rollout.rs drives",
    ),
    (
        "patch",
        "machinedeployments/status.cluster.k8s.io",
        "of rollouts, which tests/rollout.rs drives",
    ),
    (
        "update",
        "machinedeployments/finalizers.cluster.k8s.io",
        "of rollouts, which tests/rollout.rs drives",
    ),
    (
        "delete",
        "machines.cluster.k8s.io",
        "a set's Machine whose VM vanished is deleted, and so replaced",
    ),
    (
        "delete",
        "nodes",
        "the Node of a vanished VM; else the Node is gone with its Machine's deletion",
    ),
    (
        "get",
        "persistentvolumes",
        "volumes of pods that stay on a drained Node are told from others by their claims",
    ),
    (
        "patch",
        "secrets",
        "a token that is half-way to its expiry is extended",
    ),
    (
        "patch",
        "events.events.k8s.io",
        "an Event that is repeated becomes a series",
    ),
    (
        "approve",
        "signers.certificates.k8s.io",
        "asked by the API server at an approval, no request of its own",
    ),
    (
        "patch",
        "virtualmachines.kubevirt.io",
        "a VM of machine-controller's making gets our label",
    ),
    (
        "update",
        "machinedeployments/finalizers.cluster.k8s.io",
        "asked by an admission plugin at a write of an owner reference, no request of its own",
    ),
    (
        "update",
        "machinesets/finalizers.cluster.k8s.io",
        "asked by an admission plugin at a write of an owner reference, no request of its own",
    ),
    (
        "create",
        "leases.coordination.k8s.io",
        "the first start in a cluster only",
    ),
    (
        "get",
        "namespaces",
        "the identities of both clusters, read once at the start",
    ),
];

/// Asked for where it is not granted, too, and done without: whose, verb, resource, and for what.
const OPTIONAL: &[(&str, &str, &str, &str)] = &[(
    "machinist",
    "list",
    "nodes",
    "whether any infra node is large enough, a hint at admission of a MachineDeployment",
)];

#[tokio::test]
async fn nothing_is_refused_and_nothing_is_granted_for_nothing() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&manifest::machine("worker")).await?;
    case.node_ready("worker").await?;
    let images = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "images", "namespace": manifest::NAMESPACE},
        "data": {"ubuntu": "https://images.example.com/ubuntu-24.04.img"},
    });
    case.bed
        .user()
        .kubectl_ok(&["create", "-f", "-"], &images.to_string())
        .await?;
    let mut machine = manifest::machine("referring");
    manifest::virtual_machine(&mut machine)["template"]["primaryDisk"]["osImage"] =
        json!({"configMapKeyRef": {"namespace": manifest::NAMESPACE, "name": "images", "key": "ubuntu"}});
    // Whose kind is to be found out.
    manifest::virtual_machine(&mut machine)["instancetype"] = json!({"name": "standard-2"});
    case.apply(&machine).await?;
    case.node_ready("referring").await?;
    // Which has to be evicted.
    case.runs(drain::pod("guest", "guest", "referring")).await?;
    case.delete_machine("referring").await?;
    // What is there instead of what is not.
    for kind in ["Cluster", ""] {
        let mut machine = manifest::machine("mistaken");
        let vm = manifest::virtual_machine(&mut machine);
        vm["instancetype"] = json!({"name": "none", "kind": format!("VirtualMachine{kind}Instancetype")});
        vm["preference"] = json!({"name": "none", "kind": format!("VirtualMachine{kind}Preference")});
        vm["template"]["primaryDisk"]["storageClassName"] = json!("none");
        case.refused(&machine).await?;
    }
    case.delete_machine("worker").await?;
    // Whose Machine is made, and whose status is told.
    case.apply(&manifest::machine_set("set", 1)).await?;
    let sets: Api<MachineSet> = Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let ready = |set: &MachineSet| {
        set.status
            .as_ref()
            .is_some_and(|status| status.ready_replicas == Some(1))
    };
    wait::for_state(&sets, "set", "ready", PATIENCE, ready).await?;
    sets.delete("set", &DeleteParams::default()).await?;
    wait::for_absence(&sets, "set", PATIENCE).await?;
    // Whose set is made, rolled and not kept.
    let mut pool = deployment("pool", 1);
    pool["spec"]["revisionHistoryLimit"] = json!(0);
    case.apply(&pool).await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    pool["spec"]["template"]["spec"]["versions"]["kubelet"] = json!("1.35.2");
    case.apply(&pool).await?;
    case.rollout("pool", "NewMachineSetAvailable").await?;
    case.settled().await;
    case.delete_deployment("pool").await?;
    case.bed.controller().terminate().await?;

    let user = case.bed.user().client();
    let mut wrong = Vec::new();
    for (prefix, client, requests) in [
        (
            "machinist-controller",
            user.clone(),
            case.bed.user().proxy().requests_of(CONTROLLER),
        ),
        (
            "machinist-webhook",
            user,
            case.bed.user().proxy().requests_of(WEBHOOK),
        ),
        (
            "machinist",
            case.bed.infra().client(),
            case.bed.infra().proxy().requests_of(MACHINES),
        ),
    ] {
        let refused = requests
            .iter()
            .filter(|request| request.status == 403 && !is_optional(prefix, &right(request)));
        wrong.extend(refused.map(|request| format!("{prefix} was refused {:?}", request.target)));
        let exercised: BTreeSet<_> = requests.iter().map(right).collect();
        for granted in rights_of(client, prefix).await? {
            let rare = RARE
                .iter()
                .any(|(verb, resource, _)| (*verb, *resource) == (&granted.0, &granted.1));
            if !exercised.contains(&granted) && !rare {
                wrong.push(format!("{prefix} may {} {} and never does", granted.0, granted.1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    case.finish(&[]).await
}

/// Verb and resource.
type Right = (String, String);

fn right(request: &Request) -> Right {
    let target = &request.target;
    let resource = [target.resource.as_str(), target.subresource.as_str()];
    let resource = resource
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/");
    (target.verb.to_owned(), full_name(&resource, &target.group))
}

fn is_optional(whose: &str, (verb, resource): &Right) -> bool {
    OPTIONAL
        .iter()
        .any(|optional| (optional.0, optional.1, optional.2) == (whose, verb, resource))
}

fn full_name(resource: &str, group: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

/// By all roles whose name begins like this and which the chart, or the example for infra clusters, made.
async fn rights_of(client: Client, prefix: &str) -> Result<BTreeSet<Right>> {
    let all = ListParams::default();
    let mut rules = Vec::new();
    for role in Api::<ClusterRole>::all(client.clone()).list(&all).await? {
        if role.name_any().starts_with(prefix) {
            rules.extend(role.rules.unwrap_or_default());
        }
    }
    for role in Api::<Role>::all(client).list(&all).await? {
        if role.name_any().starts_with(prefix) {
            rules.extend(role.rules.unwrap_or_default());
        }
    }
    anyhow::ensure!(!rules.is_empty(), "there is no role {prefix}");
    Ok(rules.iter().flat_map(rights).collect())
}

fn rights(rule: &PolicyRule) -> Vec<Right> {
    let mut rights = Vec::new();
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                rights.push((verb.clone(), full_name(resource, group)));
            }
        }
    }
    rights
}
