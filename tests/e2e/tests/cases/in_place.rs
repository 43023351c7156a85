//! Labels and taints of Nodes change in place, without another VM, where an annotation of the MachineDeployment allows it.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, rollout::deployment, wait};
use k8s_openapi::api::core::v1::Node;
use kube::{ResourceExt as _, api::ListParams};
use machinist_shared::api::names::annotation;
use serde_json::{Value, json};

const POOL: &str = "pool";
const NODES: usize = 2;

#[tokio::test]
async fn labels_and_taints_change_in_place_where_the_annotation_allows_it() -> Result<()> {
    let case = Case::start().await?;
    let mut pool = deployment(POOL, 2);
    let spec = |pool: &mut Value| pool["spec"]["template"]["spec"].take();
    let mut before = spec(&mut pool);
    before["metadata"] = json!({"labels": {"tier": "one", "gone": "soon"}, "annotations": {"note": "one"}});
    before["taints"] = json!([taint("kept", ""), taint("dedicated", "one")]);
    pool["spec"]["template"]["spec"] = before.clone();
    pool["metadata"]["annotations"] = json!({annotation::IN_PLACE: "true"});
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    for_nodes(&case, "decorated", |node| label(node, "tier") == Some("one")).await?;
    let made = case.machine_uids().await?;
    // Labels of other clients on a Node stay.
    let first = made.keys().next().cloned().unwrap_or_default();
    case.kubectl(&["label", "node", &first, "rack=7", "gone=never", "--overwrite"])
        .await?;

    let mut after = before.clone();
    after["metadata"] = json!({"labels": {"tier": "two"}, "annotations": {"more": "x"}});
    after["taints"] = json!([taint("kept", ""), taint("dedicated", "two")]);
    pool["spec"]["template"]["spec"] = after.clone();
    let annotations = json!({annotation::PROVISIONING_TIMEOUT: "40m"});
    pool["spec"]["template"]["metadata"]["annotations"] = annotations;
    case.apply(&pool).await?;
    for_nodes(&case, "changed in place", |node| {
        label(node, "tier") == Some("two")
            && taints(node) == ["dedicated=two", "kept="]
            && !node.annotations().contains_key("note")
            && node.annotations().get("more").map(String::as_str) == Some("x")
            && (node.name_any() == first || label(node, "gone").is_none())
    })
    .await?;
    let node = case.nodes().get(&first).await?;
    assert_eq!(
        (label(&node, "gone"), label(&node, "rack")),
        (Some("never"), Some("7"))
    );
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.settled().await;
    assert_eq!(case.machine_uids().await?, made, "no Machine is another");
    assert_eq!(sets(&case).await?, 1);
    for (name, uid) in &made {
        assert_eq!(
            case.vm_history.uids(name).len(),
            1,
            "{name} has one virtual machine"
        );
        let machine = case.machines().get(name).await?;
        assert_eq!(machine.uid().as_ref(), Some(uid));
        let status = serde_json::to_value(&machine.status)?;
        assert_eq!(
            status["providerStatus"].get("retired"),
            None,
            "what went is forgotten"
        );
        let timeout = machine.annotations().get(annotation::PROVISIONING_TIMEOUT);
        assert_eq!(timeout.map(String::as_str), Some("40m"));
    }
    let events = case.kubectl(&["describe", "md", POOL]).await?;
    assert!(events.contains("ChangedInPlace"), "{events}");

    // A user may still not do that.
    let patch = json!({"spec": {"metadata": {"labels": {"tier": "three"}}}}).to_string();
    let refused = case
        .kubectl(&["patch", "machine", &first, "--type=merge", "--patch", &patch])
        .await;
    let said = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(said.contains("immutable"), "{said}");

    // A new Machine of the set is like the others.
    case.kubectl(&["scale", "md", POOL, "--replicas=3"]).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    for_nodes(&case, "as the new template says", |node| {
        taints(node) == ["dedicated=two", "kept="]
    })
    .await?;
    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

#[tokio::test]
async fn labels_change_by_a_rollout_once_the_annotation_is_removed() -> Result<()> {
    let case = Case::start().await?;
    let mut pool = deployment(POOL, 2);
    pool["spec"]["template"]["spec"]["metadata"] = json!({"labels": {"tier": "one"}});
    pool["metadata"]["annotations"] = json!({annotation::IN_PLACE: "true"});
    case.apply(&pool).await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.settled().await;

    let before = case.machine_uids().await?;
    case.kubectl(&["annotate", "md", POOL, &format!("{}-", annotation::IN_PLACE)])
        .await?;
    let patch =
        json!({"spec": {"template": {"spec": {"metadata": {"labels": {"tier": "four"}}}}}}).to_string();
    case.kubectl(&["patch", "md", POOL, "--type=merge", "--patch", &patch])
        .await?;
    case.rollout(POOL, "NewMachineSetAvailable").await?;
    case.settled().await;
    let after = case.machine_uids().await?;
    assert!(
        after.len() == NODES && after.keys().all(|name| !before.contains_key(name)),
        "{after:?}"
    );
    assert_eq!(sets(&case).await?, 2);

    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

fn taint(key: &str, value: &str) -> Value {
    json!({"key": key, "value": value, "effect": "NoSchedule"})
}

fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.labels().get(key).map(String::as_str)
}

/// `key=value`, sorted, without the taints of the node lifecycle controller.
fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut taints: Vec<String> = taints
        .filter(|taint| !taint.key.starts_with("node."))
        .map(|taint| format!("{}={}", taint.key, taint.value.as_deref().unwrap_or_default()))
        .collect();
    taints.sort();
    taints
}

/// Waits until that is true of each Node.
async fn for_nodes(case: &Case, what: &str, fits: impl Fn(&Node) -> bool) -> Result<()> {
    for name in case.machine_uids().await?.keys() {
        wait::for_state(&case.nodes(), name, what, WAIT_TIMEOUT, &fits).await?;
    }
    Ok(())
}

async fn sets(case: &Case) -> Result<usize> {
    let sets = case.machine_sets().list(&ListParams::default()).await?;
    Ok(sets.items.len())
}
