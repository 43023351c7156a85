use k8s_openapi::api::core::v1::Secret;
use machinist_infra::cache::store::Key;
use machinist_infra::cache::watch::Event;
use rstest::rstest;
use serde_json::{Value, json};

use super::{machine, machine_deployment, machine_set, node, request, token};
use crate::cache::{Node, StoredMachine, StoredMachineSet, StoredRequest, Stores};
use crate::runtime::queue::{Queue, Queues};

fn object<K: serde::de::DeserializeOwned>(name: &str, metadata: &Value, spec: &Value) -> K {
    let mut object = json!({"metadata": {
        "namespace": "ns", "name": name, "uid": format!("uid-{name}"), "resourceVersion": "1"}, "spec": spec});
    json_patch::merge(&mut object["metadata"], metadata);
    serde_json::from_value(object).unwrap()
}

fn spec() -> Value {
    let labels = json!({"app": "a"});
    json!({"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}})
}

fn stores() -> Stores {
    let stores = Stores::default();
    for (name, spec) in [("fits", spec()), ("other", json!({}))] {
        stores
            .machine_sets
            .apply(Event::Apply(object(name, &json!({}), &spec)));
        stores
            .machine_deployments
            .apply(Event::Apply(object(name, &json!({}), &spec)));
    }
    stores
}

async fn drained(queue: &Queue<Key>) -> Vec<String> {
    let mut keys = Vec::new();
    while queue.depth() > 0 {
        keys.extend(queue.next().await.map(|key| key.name));
    }
    keys.sort();
    keys
}

fn owned_by(kind: &str) -> Value {
    json!({"labels": {"app": "a"}, "ownerReferences": [
        {"apiVersion": "v1", "kind": kind, "name": "owner", "uid": "uid-owner", "controller": true}]})
}

#[rstest]
#[case::a_controlled_one_is_about_its_set(owned_by("MachineSet"), &["owner"])]
#[case::one_that_something_else_controls_is_about_none(owned_by("Other"), &[])]
#[case::an_orphan_is_about_every_set_that_selects_it(json!({"labels": {"app": "a"}}), &["fits"])]
#[case::an_orphan_without_the_labels_is_about_none(json!({"labels": {"app": "b"}}), &[])]
#[tokio::test]
async fn a_machine(#[case] metadata: Value, #[case] sets: &[&str]) {
    let (stores, queues) = (stores(), Queues::default());
    machine::enqueue(&object("m", &metadata, &json!({})), &stores, &queues);
    assert_eq!(drained(&queues.sets).await, sets);
    assert_eq!(drained(&queues.machines).await, ["m"]);
}

#[rstest]
#[case::a_controlled_one_is_about_its_deployment(owned_by("MachineDeployment"), &["owner"])]
#[case::an_orphan_is_about_every_deployment_that_selects_it(json!({"labels": {"app": "a"}}), &["fits"])]
#[case::an_orphan_without_the_labels_is_about_none(json!({}), &[])]
#[tokio::test]
async fn a_set(#[case] metadata: Value, #[case] deployments: &[&str]) {
    let (stores, queues) = (stores(), Queues::default());
    machine_set::enqueue(&object("s", &metadata, &json!({})), &stores, &queues);
    assert_eq!(drained(&queues.deployments).await, deployments);
    assert_eq!(drained(&queues.sets).await, ["s"]);
}

fn request_of(user: &str) -> StoredRequest {
    let spec = json!({"request": "AAAA", "signerName": "s", "username": user});
    object("csr", &json!({"namespace": null}), &spec)
}

#[tokio::test]
async fn a_request_waits_for_whatever_its_judgement_hangs_on() {
    let (stores, queues) = (stores(), Queues::default());
    stores
        .requests
        .apply(Event::Apply(request_of("system:bootstrap:abcdef")));
    let of_machine = json!({"namespace": "kube-system", "labels": {"machinist.dev/machine-uid": "uid-m"}});
    let secret = object::<Secret>("bootstrap-token-abcdef", &of_machine, &Value::Null);
    token::enqueue(&secret, &stores, &queues);
    assert_eq!(drained(&queues.requests).await, ["csr"], "its token");
    queues.requests.done(&Key::new("", "csr"));
    stores.tokens.apply(Event::Apply(secret));
    let its: StoredMachine = object("m", &json!({}), &json!({}));
    machine::enqueue(&its, &stores, &queues);
    assert_eq!(drained(&queues.requests).await, ["csr"], "its Machine");
    queues.requests.done(&Key::new("", "csr"));
    stores.machines.apply(Event::Apply(its));
    node::enqueue(
        &serde_json::from_value(json!({"metadata": {"name": "m"}})).unwrap(),
        &stores,
        &queues,
    );
    assert_eq!(
        drained(&queues.requests).await,
        ["csr"],
        "a Node of its Machine's name"
    );
}

#[tokio::test]
async fn a_request_waits_for_the_record_of_the_machine_that_it_was_made_for() {
    let (stores, queues) = (stores(), Queues::default());
    stores
        .requests
        .apply(Event::Apply(request_of("system:bootstrap:abcdef")));
    machine::enqueue(&object("m", &json!({}), &json!({})), &stores, &queues);
    assert_eq!(drained(&queues.requests).await, [""; 0]);
    machine::enqueue(&recorded("m", "abcdef"), &stores, &queues);
    assert_eq!(drained(&queues.requests).await, ["csr"]);
}

/// A Machine whose VM has that bootstrap token.
fn recorded(name: &str, token: &str) -> StoredMachine {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
        "status": {"providerStatus": {"infrastructure": {"namespace": "n", "server": "s"}, "tokenID": token}},
    }))
    .unwrap()
}

#[test]
fn a_token_on_the_records_of_two_machines_is_no_machines() {
    let stores = stores();
    let token = crate::bootstrap::token::TokenId::parse("abcdef").unwrap();
    let found = || {
        stores
            .machine_with_token(token.as_str())
            .map(|machine| machine.name().to_owned())
    };
    // Who calls a Machine as a token is called has not got it.
    stores.machines.apply(Event::Apply(recorded("abcdef", "ghijkl")));
    assert_eq!(found(), None);
    stores.machines.apply(Event::Apply(recorded("m", "abcdef")));
    assert_eq!(found().as_deref(), Some("m"));
    stores.machines.apply(Event::Apply(recorded("n", "abcdef")));
    assert_eq!(found(), None);
}

#[tokio::test]
async fn a_request_for_a_serving_certificate_is_about_the_machine_of_the_node() {
    let (stores, queues) = (stores(), Queues::default());
    stores
        .machines
        .apply(Event::Apply(object("m", &json!({}), &json!({}))));
    request::enqueue_serving(&request_of("system:node:m"), &stores, &queues);
    assert_eq!(drained(&queues.machines).await, ["m"]);
    request::enqueue_serving(&request_of("m"), &stores, &queues);
    assert_eq!(drained(&queues.machines).await, [""; 0]);
}

#[tokio::test]
async fn a_node_is_about_its_machine_and_the_set_of_that() {
    let (stores, queues) = (stores(), Queues::default());
    stores
        .machines
        .apply(Event::Apply(object("m", &owned_by("MachineSet"), &json!({}))));
    let ready: Node = serde_json::from_value(json!({"metadata": {"name": "m"}})).unwrap();
    node::enqueue(&ready, &stores, &queues);
    assert_eq!(drained(&queues.sets).await, ["owner"]);
    assert_eq!(drained(&queues.machines).await, ["m"]);
}

#[tokio::test]
async fn an_attached_volume_is_about_the_machine_that_is_being_deleted() {
    let (stores, queues) = (stores(), Queues::default());
    let deleting = json!({"deletionTimestamp": "2026-01-01T12:00:00Z"});
    for (name, metadata) in [("gone", deleting), ("alive", json!({}))] {
        stores
            .machines
            .apply(Event::Apply(object(name, &metadata, &json!({}))));
        let spec = json!({"nodeName": name, "source": {"persistentVolumeName": "pv"}});
        node::enqueue_attached(&object("a", &json!({"namespace": null}), &spec), &stores, &queues);
    }
    assert_eq!(drained(&queues.machines).await, ["gone"]);
}

#[tokio::test]
async fn a_set_and_a_deployment_are_about_the_machines_that_have_no_vm_yet() {
    let (stores, queues) = (stores(), Queues::default());
    let owned = owned_by("MachineSet");
    let mut placed = serde_json::to_value(json!({"metadata": {"namespace": "ns", "name": "placed", "uid": "uid-placed"},
        "status": {"providerStatus": {"infrastructure": {"server": "https://a", "namespace": "n"}, "vmUID": "v"}}}))
    .unwrap();
    json_patch::merge(&mut placed["metadata"], &owned);
    stores
        .machines
        .apply(Event::Apply(serde_json::from_value(placed).unwrap()));
    stores
        .machines
        .apply(Event::Apply(object("waiting", &owned, &json!({}))));
    // The one that owns them.
    let mut set = owned_by("MachineDeployment");
    set["uid"] = json!("uid-owner");
    let set: StoredMachineSet = object("s", &set, &json!({}));
    stores.machine_sets.apply(Event::Apply(set.clone()));
    machine_set::enqueue(&set, &stores, &queues);
    assert_eq!(drained(&queues.machines).await, ["waiting"]);
    let deployment = object("d", &json!({"uid": "uid-owner"}), &json!({}));
    let queues = Queues::default();
    machine_deployment::enqueue(&deployment, &stores, &queues);
    assert_eq!(drained(&queues.machines).await, ["waiting"]);
}
