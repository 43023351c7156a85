//! Credentials that are rotated while Machines use them, and invalid credentials.

use std::time::Instant;

use anyhow::{Context as _, Result};
use e2e::{Case, case::WAIT_TIMEOUT, infra, manifest, objects, wait};
use kube::{ResourceExt as _, api::DeleteParams};
use machinist_shared::api::names::{annotation::INITIALIZERS, condition};
use serde_json::{Value, json};
use testbed::{
    bed::MACHINES,
    seed::{INFRA_ACCOUNT, INFRA_NAMESPACE, INFRA_SECRET},
};

#[tokio::test]
async fn a_kubeconfig_in_a_secret_is_rotated_under_running_machines() -> Result<()> {
    let case = Case::start().await?;
    let (user, proxy) = (case.bed.user(), case.bed.infra().proxy());
    case.apply(&manifest::machine("running")).await?;
    case.node_ready("running").await?;
    let before = infra::reachable(&case, "running", "Reachable").await?;

    // The new credential is stored first, then the old one is revoked, and watches end, as they do within five minutes.
    let old = infra::kubeconfig_of(&case, INFRA_ACCOUNT, MACHINES).await?;
    let second = infra::account(&case, "second", MACHINES).await?;
    infra::store(user.client(), INFRA_SECRET, &second).await?;
    infra::revoke(&case, INFRA_ACCOUNT, &old).await?;
    proxy.cut_watches(MACHINES);
    let begun = Instant::now();
    case.apply(&manifest::machine("second")).await?;
    case.node_ready("second").await?;
    println!(
        "a Machine had its Node {:.1} s after the old token was revoked",
        begun.elapsed().as_secs_f64()
    );
    let after = infra::reachable(&case, "running", "Reachable").await?;
    assert_eq!(after.since, before.since, "the rotation is visible");

    // The old credential is revoked before there is a new one.
    infra::revoke(&case, "second", &second).await?;
    proxy.cut_watches(MACHINES);
    let refused = infra::reachable(&case, "running", "Unreachable").await?;
    assert!(refused.message.contains("Unauthorized"), "{}", refused.message);
    let third = infra::account(&case, "third", MACHINES).await?;
    infra::store(user.client(), INFRA_SECRET, &third).await?;
    let begun = Instant::now();
    for name in ["running", "second"] {
        infra::reachable(&case, name, "Reachable").await?;
    }
    println!(
        "reachable again {:.1} s after the new token came",
        begun.elapsed().as_secs_f64()
    );
    // Only the watches detect this.
    case.vms().delete("running", &DeleteParams::default()).await?;
    case.condition("running", "VMVanished").await?;
    assert_eq!(
        case.vm_history.uids("second").len(),
        1,
        "one VM in a Machine's life"
    );
    for name in ["running", "second"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

#[tokio::test]
async fn a_machine_with_a_rejected_kubeconfig_uses_a_newer_one_of_its_deployment() -> Result<()> {
    let case = Case::start().await?;
    let first = infra::account(&case, "first", MACHINES).await?;
    let deployment = created(&case, &of_template("MachineDeployment", "pool", &first, None)).await?;
    let old_set = created(
        &case,
        &of_template("MachineSet", "pool-1", &first, Some(&deployment)),
    )
    .await?;
    let foreign = created(&case, &of_template("MachineSet", "lonely", &first, None)).await?;
    for (name, set) in [("pooled", &old_set), ("lonely", &foreign)] {
        let mut machine = manifest::machine(name);
        *infra::kubeconfig_in(&mut machine) = json!(base64(&first));
        machine["metadata"]["ownerReferences"] = json!([owner(set)]);
        machine["metadata"]["labels"] = json!({"set": set["metadata"]["name"]});
        case.apply(&machine).await?;
        case.node_ready(name).await?;
        case.settled().await;
    }

    // Admission would check its credential later, so it is admitted now, and waits.
    let mut claimant = manifest::machine("claimant");
    *infra::kubeconfig_in(&mut claimant) = json!(base64(&first));
    claimant["metadata"]["ownerReferences"] = json!([owner(&old_set)]);
    claimant["metadata"]["labels"] = json!({"set": "pool-1"});
    claimant["metadata"]["annotations"] = json!({INITIALIZERS: "test"});
    case.apply(&claimant).await?;

    infra::revoke(&case, "first", &first).await?;
    case.bed.infra().proxy().cut_watches(MACHINES);
    for name in ["pooled", "lonely"] {
        let refused = infra::reachable(&case, name, "Unreachable").await?;
        assert!(refused.message.contains("Unauthorized"), "{}", refused.message);
    }
    let second = infra::account(&case, "second", MACHINES).await?;
    let new_set = created(
        &case,
        &of_template("MachineSet", "pool-2", &second, Some(&deployment)),
    )
    .await?;
    infra::reachable(&case, "pooled", "Reachable").await?;
    // A Machine without a VM gets none by an owner reference to another user's set.
    begin(&case, "claimant").await?;
    infra::reachable(&case, "claimant", "Unreachable").await?;
    assert_eq!(case.vm_history.uids("claimant"), Vec::<String>::new());
    case.delete_machine("claimant").await?;

    case.delete_machine("pooled").await?;
    assert_eq!(case.vm_history.uids("pooled").len(), 1);
    // The other Machine stays unchanged, and reports what it waits for.
    case.begin_deletion("lonely").await?;
    let blocked = case.condition("lonely", "DeletionBlocked").await?;
    assert!(blocked.contains("Unauthorized"), "{blocked}");
    let uid = case.vm_history.uids("lonely").pop().context("no VM")?;
    let annotation = format!("machinist.dev/abandon-vm-uid={uid}");
    let annotate = [
        "annotate",
        "machine",
        "lonely",
        "--namespace",
        manifest::NAMESPACE,
        &annotation,
    ];
    case.bed.user().kubectl_ok(&annotate, "").await?;
    wait::for_absence(&case.machines(), "lonely", WAIT_TIMEOUT).await?;
    case.vms().delete("lonely", &DeleteParams::default()).await?;
    for (kind, name) in [
        ("machineset", "pool-1"),
        ("machineset", "pool-2"),
        ("machineset", "lonely"),
        ("machinedeployment", "pool"),
    ] {
        let delete = [
            "delete",
            kind,
            name,
            "--namespace",
            manifest::NAMESPACE,
            "--ignore-not-found",
        ];
        case.bed.user().kubectl_ok(&delete, "").await?;
    }
    drop(new_set);
    case.finish(&[]).await
}

#[tokio::test]
async fn an_invalid_token_for_a_server_in_use_gets_neither_vm_nor_information() -> Result<()> {
    let case = Case::start().await?;
    // A server that other Machines use: its stores are filled, and a VM of the requested name exists.
    case.apply(&manifest::machine("honest")).await?;
    case.node_ready("honest").await?;
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "coveted"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}, "memory": {"guest": "1Gi"}}}}},
    });
    let create = ["create", "--namespace", INFRA_NAMESPACE, "-f", "-"];
    case.bed.infra().kubectl_ok(&create, &vm.to_string()).await?;
    let genuine = infra::kubeconfig_of(&case, INFRA_ACCOUNT, MACHINES).await?;
    let token = genuine
        .lines()
        .find_map(|line| line.trim().strip_prefix("token: "))
        .map(|token| token.trim_matches('"').to_owned())
        .context("a kubeconfig without a token")?;
    let junk = genuine.replace(&token, "junk");
    infra::service_account(&case, "powerless").await?;
    let powerless = infra::kubeconfig_of(&case, "powerless", MACHINES).await?;

    let user = case.bed.user().client();
    for (kubeconfig, words) in [(junk, "Unauthorized"), (powerless, "is forbidden")] {
        for name in ["coveted", "new"] {
            // Admission uses the credential, too, so it becomes invalid only afterwards.
            infra::store(user.clone(), "thief", &genuine).await?;
            let mut machine = infra::machine(name, "thief");
            machine["metadata"]["annotations"] = json!({INITIALIZERS: "test"});
            case.apply(&machine).await?;
            infra::store(user.clone(), "thief", &kubeconfig).await?;
            begin(&case, name).await?;
            let said = infra::reachable(&case, name, "Unreachable").await?;
            assert!(said.message.contains(words), "{}", said.message);
            assert!(said.message.len() < 2048, "{}", said.message.len());
            // Long enough for a controller that would wrongly continue.
            case.settled().await;
            let machine = case.machines().get(name).await?;
            let status = serde_json::to_value(&machine.status)?;
            assert_eq!(status.get("providerStatus"), None, "{status:#}");
            assert_eq!(status.get("addresses"), None, "{status:#}");
            assert_eq!(
                infra::condition_of(&machine, condition::INFRASTRUCTURE_READY).reason,
                "",
                "{status:#}"
            );
            assert_eq!(machine.finalizers(), &[] as &[String], "nothing was begun");
            case.delete_machine(name).await?;
        }
    }
    assert_eq!(case.vm_history.uids("new"), Vec::<String>::new());
    let coveted = objects::infra(case.bed.infra().client(), &objects::virtual_machine());
    coveted.get("coveted").await?;
    case.delete_machine("honest").await?;
    case.finish(&["VirtualMachine/coveted"]).await
}

/// Removes the annotation that pauses the Machine.
async fn begin(case: &Case, machine: &str) -> Result<()> {
    let annotation = format!("{INITIALIZERS}-");
    let annotate = [
        "annotate",
        "machine",
        machine,
        "--namespace",
        manifest::NAMESPACE,
        &annotation,
    ];
    case.bed.user().kubectl_ok(&annotate, "").await?;
    Ok(())
}

/// A MachineSet or MachineDeployment without Machines of its own, with that kubeconfig in its template.
fn of_template(kind: &str, name: &str, kubeconfig: &str, owned_by: Option<&Value>) -> Value {
    let mut machine = manifest::machine(name);
    *infra::kubeconfig_in(&mut machine) = json!(base64(kubeconfig));
    let labels = json!({"set": name});
    let mut object = json!({
        "apiVersion": "cluster.k8s.io/v1alpha1", "kind": kind,
        // The test creates the Machines; the set must neither create nor delete any.
        "metadata": {"name": name, "namespace": manifest::NAMESPACE, "annotations": {"cluster.x-k8s.io/paused": "true"}},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": machine["spec"]},
        },
    });
    if let Some(owned_by) = owned_by {
        object["metadata"]["ownerReferences"] = json!([owner(owned_by)]);
    }
    object
}

/// Creates an object, and returns it as stored.
async fn created(case: &Case, object: &Value) -> Result<Value> {
    let create = ["create", "-o", "json", "-f", "-"];
    let stored = case.bed.user().kubectl_ok(&create, &object.to_string()).await?;
    Ok(serde_json::from_str(&stored)?)
}

fn owner(object: &Value) -> Value {
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "controller": true,
        "name": object["metadata"]["name"], "uid": object["metadata"]["uid"],
    })
}

fn base64(text: &str) -> String {
    let quoted = serde_json::to_value(k8s_openapi::ByteString(text.into()));
    quoted
        .ok()
        .and_then(|text| text.as_str().map(str::to_owned))
        .unwrap_or_default()
}
