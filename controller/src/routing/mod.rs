//! Which objects an event in the user cluster concerns.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use machinist_infra::store::Key;
use machinist_shared::names::{condition, label};

use crate::cache::overlap;
use crate::cache::owner;
use crate::cache::{Node, StoredMachine, StoredMachineDeployment, StoredMachineSet, VolumeAttachment};
use crate::cache::{Queues, Stores};
use crate::csr::request::{NODE_USER, StoredRequest};
use crate::machine::conditions::Reason::VMVanished;
use crate::machine::drain::turns;
use crate::machine::evacuation;
use crate::machine_deployment::conditions::{self, PROGRESSING, Reason, SELECTOR_OVERLAP};

/// A Machine, before and after: its namesakes, one of which may now win or lose the name; its set; and the requests that
/// came with its tokens.
pub fn machine(machine: &StoredMachine, stores: &Stores, queues: &Queues) {
    for namesake in stores.machines.by_index(machine.name()) {
        queues.machines.add(Key::of(namesake.as_ref()));
    }
    queues.machines.add(Key::of(machine));
    sets_of(machine, stores, queues);
    if let Some(deployment) = stores.deployment_of(machine) {
        // Its counts say nothing of this: one of a template that fails is enough to stop a rollout, and what holds one up
        // is told as it is now.
        let stuck = deployment.status.conditions.as_deref().unwrap_or_default();
        let stuck = conditions::has_reason(stuck, PROGRESSING, Reason::ProgressDeadlineExceeded);
        if stuck || machine.status.phase.as_deref() == Some("Failed") {
            queues.deployments.add(Key::of(deployment.as_ref()));
        }
        if machine.is_deleting() {
            next_drains(&deployment, stores, queues);
        }
    }
    requests_of(machine, stores, queues);
}

/// Machines that wait for others of their MachineDeployment to be drained.
fn next_drains(deployment: &StoredMachineDeployment, stores: &Stores, queues: &Queues) {
    let Some(limit) = turns::limit(deployment) else {
        return;
    };
    let waiting = stores.machines_of_deployment(deployment);
    let mut waiting: Vec<_> = waiting
        .into_iter()
        .filter(|machine| turns::is_waiting(machine))
        .collect();
    waiting.sort_by_key(|machine| {
        let deleted = machine.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        (deleted, machine.name().to_owned())
    });
    for machine in waiting.iter().take(limit) {
        queues.machines.add(Key::of(machine.as_ref()));
    }
}

/// Pending requests that came with a Machine's tokens.
fn requests_of(machine: &StoredMachine, stores: &Stores, queues: &Queues) {
    for token in stores.tokens.by_index(machine.uid()) {
        requests_with(&token, stores, queues);
    }
    for request in stores.requests_with_recorded_token(machine) {
        queues.requests.add(Key::of(request.as_ref()));
    }
}

fn requests_with(token: &Secret, stores: &Stores, queues: &Queues) {
    for request in stores.requests_with(token) {
        queues.requests.add(Key::of(request.as_ref()));
    }
}

/// The set that controls a Machine; every set that may adopt it, if nobody does.
fn sets_of(machine: &StoredMachine, stores: &Stores, queues: &Queues) {
    match owner::controller(&machine.metadata) {
        Some(owner) if owner.kind == "MachineSet" => {
            queues.sets.add(Key::new(machine.namespace(), &owner.name));
        }
        Some(_) => {}
        None => {
            let labels = machine.metadata.labels.as_ref();
            for set in stores.machine_sets_in(machine.namespace()) {
                if set.selector.matches(labels) {
                    queues.sets.add(Key::of(set.as_ref()));
                }
            }
        }
    }
}

/// A Node: the Machines of its name, their sets, and the requests that came with their tokens.
pub fn node(node: &Node, stores: &Stores, queues: &Queues) {
    for machine in stores.machines.by_index(node.name()) {
        queues.machines.add(Key::of(machine.as_ref()));
        requests_of(&machine, stores, queues);
        if machine.controller_uid().is_some() {
            sets_of(&machine, stores, queues);
        }
    }
}

/// An attached volume: the Machine of the Node's name, which waits for it only while it is being deleted or its VM is gone.
pub fn attachment(attachment: &VolumeAttachment, stores: &Stores, queues: &Queues) {
    for machine in stores.machines.by_index(&attachment.node) {
        if machine.is_deleting() || machine.says(condition::INFRASTRUCTURE_READY, VMVanished) {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
}

/// A set: itself and its deployment; every deployment that may adopt it, if nobody controls it; and its Machines that
/// wait for their user data.
pub fn machine_set(set: &StoredMachineSet, stores: &Stores, queues: &Queues) {
    queues.sets.add(Key::of(set));
    waiting_machines(set, stores, queues);
    match owner::controller(&set.metadata) {
        Some(owner) if owner.kind == "MachineDeployment" => {
            queues.deployments.add(Key::new(set.namespace(), &owner.name));
        }
        Some(_) => {}
        None => {
            let labels = set.metadata.labels.as_ref();
            for deployment in stores.machine_deployments_in(set.namespace()) {
                if deployment.selector.matches(labels) {
                    queues.deployments.add(Key::of(deployment.as_ref()));
                }
            }
        }
    }
}

/// Machines of a set that have no VM yet: the set's revision and the deployment's operating system profile say where
/// their user data comes from. And those that wait to be replaced, which the set's pause may hold up.
fn waiting_machines(set: &StoredMachineSet, stores: &Stores, queues: &Queues) {
    for machine in stores.machines_of(set.uid()) {
        if machine
            .record
            .as_ref()
            .is_none_or(|record| record.vm_uid.is_none())
            || evacuation::is_waiting(&machine)
        {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
}

/// A deployment: itself, the Machines of its sets that wait for their user data, and others that select its Machines, or
/// that are told that somebody does.
pub fn machine_deployment(deployment: &StoredMachineDeployment, stores: &Stores, queues: &Queues) {
    queues.deployments.add(Key::of(deployment));
    // The limit may be gone, or higher; or there may be room to replace one.
    for machine in stores.machines_of_deployment(deployment) {
        if turns::is_waiting(&machine) || evacuation::is_waiting(&machine) {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
    for set in stores.machine_sets_of(deployment.uid()) {
        waiting_machines(&set, stores, queues);
    }
    for other in stores.machine_deployments_in(deployment.namespace()) {
        let conditions = other.status.conditions.iter().flatten();
        let told = conditions
            .into_iter()
            .any(|condition| condition.type_ == SELECTOR_OVERLAP);
        if told || (other.uid() != deployment.uid() && overlap::is_mutual(other.as_ref(), deployment)) {
            queues.deployments.add(Key::of(other.as_ref()));
        }
    }
}

/// A bootstrap token: its Machine, and the requests that came with it.
pub fn token(token: &Secret, stores: &Stores, queues: &Queues) {
    requests_with(token, stores, queues);
    if let Some(uid) = token.labels().get(label::MACHINE_UID) {
        for machine in stores.machines.by_index(uid) {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
}

/// A request for a client certificate: itself.
pub fn request(request: &StoredRequest, _: &Stores, queues: &Queues) {
    queues.requests.add(Key::of(request));
}

/// A request for a serving certificate: the Machine whose node asks. It is decided with that, so that whatever happens to
/// VM, Node or Machine decides it, too.
pub fn serving_request(request: &StoredRequest, stores: &Stores, queues: &Queues) {
    if let Some(node) = request.username().strip_prefix(NODE_USER) {
        for machine in stores.machines.by_index(node) {
            queues.machines.add(Key::of(machine.as_ref()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinist_infra::watch::Event;
    use rstest::rstest;
    use serde_json::{Value, json};

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

    async fn drained(queue: &crate::runtime::queue::Queue<Key>) -> Vec<String> {
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
    #[case::a_controlled_one_concerns_its_set(owned_by("MachineSet"), &["owner"])]
    #[case::one_that_something_else_controls_concerns_none(owned_by("Other"), &[])]
    #[case::an_orphan_concerns_every_set_that_selects_it(json!({"labels": {"app": "a"}}), &["fits"])]
    #[case::an_orphan_without_the_labels_concerns_none(json!({"labels": {"app": "b"}}), &[])]
    #[tokio::test]
    async fn a_machine(#[case] metadata: Value, #[case] sets: &[&str]) {
        let (stores, queues) = (stores(), Queues::default());
        machine(&object("m", &metadata, &json!({})), &stores, &queues);
        assert_eq!(drained(&queues.sets).await, sets);
        assert_eq!(drained(&queues.machines).await, ["m"]);
    }

    #[rstest]
    #[case::a_controlled_one_concerns_its_deployment(owned_by("MachineDeployment"), &["owner"])]
    #[case::an_orphan_concerns_every_deployment_that_selects_it(json!({"labels": {"app": "a"}}), &["fits"])]
    #[case::an_orphan_without_the_labels_concerns_none(json!({}), &[])]
    #[tokio::test]
    async fn a_set(#[case] metadata: Value, #[case] deployments: &[&str]) {
        let (stores, queues) = (stores(), Queues::default());
        machine_set(&object("s", &metadata, &json!({})), &stores, &queues);
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
        let of_machine =
            json!({"namespace": "kube-system", "labels": {"machinist.dev/machine-uid": "uid-m"}});
        let secret = object::<Secret>("bootstrap-token-abcdef", &of_machine, &Value::Null);
        token(&secret, &stores, &queues);
        assert_eq!(drained(&queues.requests).await, ["csr"], "its token");
        queues.requests.done(&Key::new("", "csr"));
        stores.tokens.apply(Event::Apply(secret));
        let its: StoredMachine = object("m", &json!({}), &json!({}));
        machine(&its, &stores, &queues);
        assert_eq!(drained(&queues.requests).await, ["csr"], "its Machine");
        queues.requests.done(&Key::new("", "csr"));
        stores.machines.apply(Event::Apply(its));
        node(
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
        machine(&object("m", &json!({}), &json!({})), &stores, &queues);
        assert_eq!(drained(&queues.requests).await, [""; 0]);
        machine(&recorded("m", "abcdef"), &stores, &queues);
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
                .machine_with_token(&token)
                .map(|machine| machine.name().to_owned())
        };
        // Whoever calls a Machine as a token is called has not got it.
        stores.machines.apply(Event::Apply(recorded("abcdef", "ghijkl")));
        assert_eq!(found(), None);
        stores.machines.apply(Event::Apply(recorded("m", "abcdef")));
        assert_eq!(found().as_deref(), Some("m"));
        stores.machines.apply(Event::Apply(recorded("n", "abcdef")));
        assert_eq!(found(), None);
    }

    #[tokio::test]
    async fn a_request_for_a_serving_certificate_concerns_the_machine_of_the_node() {
        let (stores, queues) = (stores(), Queues::default());
        stores
            .machines
            .apply(Event::Apply(object("m", &json!({}), &json!({}))));
        serving_request(&request_of("system:node:m"), &stores, &queues);
        assert_eq!(drained(&queues.machines).await, ["m"]);
        serving_request(&request_of("m"), &stores, &queues);
        assert_eq!(drained(&queues.machines).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_node_concerns_its_machine_and_the_set_of_that() {
        let (stores, queues) = (stores(), Queues::default());
        stores
            .machines
            .apply(Event::Apply(object("m", &owned_by("MachineSet"), &json!({}))));
        let ready: Node = serde_json::from_value(json!({"metadata": {"name": "m"}})).unwrap();
        node(&ready, &stores, &queues);
        assert_eq!(drained(&queues.sets).await, ["owner"]);
        assert_eq!(drained(&queues.machines).await, ["m"]);
    }

    #[tokio::test]
    async fn an_attached_volume_concerns_the_machine_that_is_being_deleted() {
        let (stores, queues) = (stores(), Queues::default());
        let deleting = json!({"deletionTimestamp": "2026-01-01T12:00:00Z"});
        for (name, metadata) in [("gone", deleting), ("alive", json!({}))] {
            stores
                .machines
                .apply(Event::Apply(object(name, &metadata, &json!({}))));
            let spec = json!({"nodeName": name, "source": {"persistentVolumeName": "pv"}});
            attachment(&object("a", &json!({"namespace": null}), &spec), &stores, &queues);
        }
        assert_eq!(drained(&queues.machines).await, ["gone"]);
    }

    #[tokio::test]
    async fn a_set_and_a_deployment_concern_the_machines_that_have_no_vm_yet() {
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
        machine_set(&set, &stores, &queues);
        assert_eq!(drained(&queues.machines).await, ["waiting"]);
        let deployment = object("d", &json!({"uid": "uid-owner"}), &json!({}));
        let queues = Queues::default();
        machine_deployment(&deployment, &stores, &queues);
        assert_eq!(drained(&queues.machines).await, ["waiting"]);
    }
}
