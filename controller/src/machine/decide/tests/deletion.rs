//! The deletion: VM, Node, token, finalizers; what was adopted while deleting, and what is given up.

use super::*;

#[test]
fn a_deletion_goes_vm_then_node_then_token_then_finalizers() {
    let mut deleting = recorded();
    json_patch::merge(&mut deleting, &json!({"metadata": {"deletionTimestamp": NOW}}));
    let mut o = observed(machine(&deleting), running());
    o.node = Some(node(&being_drained()));
    o.token = Some(token());
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine", "delete the VirtualMachine"]);
    o.infra = Infra::Open(Box::new(Open {
        vm: Some(vm(&json!({"metadata": {"deletionTimestamp": NOW}}))),
        ..running()
    }));
    assert!(touches_nothing(&decide(&o, now())), "it is on its way out");
    o.infra = Infra::Open(Box::new(open()));
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan),
        [
            "delete the user-data Secret",
            "delete the Node",
            "delete the bootstrap token",
            "patch the Machine"
        ]
    );
    assert_eq!(patch(&plan)["metadata"]["finalizers"], json!([]));
}

#[test]
fn machine_controllers_vm_is_recorded_before_it_is_deleted() {
    let deleting =
        json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["machine-delete-finalizer"]}});
    let theirs = vm(
        &json!({"metadata": {"labels": {"machinist.dev/machine-uid": null, "machinist.dev/cluster-uid": null,
        "kubevirt.io/vm": "web-1", "cluster.x-k8s.io/role": "worker", "cluster.x-k8s.io/cluster-name": "c"}}}),
    );
    let plan = decide(
        &observed(
            machine(&deleting),
            Open {
                vm: Some(theirs),
                ..open()
            },
        ),
        now(),
    );
    assert_eq!(verbs(&plan), ["patch the Machine", "record an Event"]);
    assert_eq!(patch(&plan)["status"]["providerStatus"]["vmUID"], "v1");
}

#[test]
fn an_undecodable_machine_goes_by_its_record_or_at_once_if_it_never_had_a_vm() {
    let mut deleting = recorded();
    json_patch::merge(&mut deleting, &json!({"metadata": {"deletionTimestamp": NOW}}));
    let mut o = observed(machine(&deleting), running());
    o.spec = Spec::Invalid("broken".into());
    assert!(verbs(&decide(&o, now())).contains(&"delete the VirtualMachine"));
    let never = json!({"metadata": {"deletionTimestamp": NOW}});
    let mut o = observed(machine(&never), open());
    o.spec = Spec::Invalid("broken".into());
    o.infra = Infra::NoCredential("none".into());
    assert!(touches_nothing(&decide(&o, now())));
}

#[test]
fn an_admin_may_give_up_on_a_vm_by_naming_it() {
    let mut deleting = recorded();
    json_patch::merge(
        &mut deleting,
        &json!({"metadata": {"deletionTimestamp": NOW, "annotations": {"machinist.dev/abandon-vm-uid": "v1"}}}),
    );
    let mut o = observed(machine(&deleting), open());
    o.infra = Infra::Unreachable("gone for good".into());
    assert_eq!(patch(&decide(&o, now()))["metadata"]["finalizers"], json!([]));
    json_patch::merge(
        &mut deleting,
        &json!({"metadata": {"annotations": {"machinist.dev/abandon-vm-uid": "v9"}}}),
    );
    o.machine = Arc::new(machine(&deleting));
    assert!(
        patch(&decide(&o, now()))["metadata"].is_null(),
        "another VM's UID"
    );
}

#[test]
fn a_node_is_recorded_before_the_vm_that_ties_it_is_deleted() {
    let mut deleting = recorded();
    json_patch::merge(&mut deleting, &json!({"metadata": {"deletionTimestamp": NOW}}));
    let mut o = observed(machine(&deleting), running());
    let mut found = being_drained();
    json_patch::merge(
        &mut found,
        &json!({"spec": {"providerID": "kubevirt://web-1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}),
    );
    o.node = Some(node(&found));
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine", "delete the VirtualMachine"]);
    assert_eq!(patch(&plan)["status"]["providerStatus"]["nodeUID"], "node-1");
}

/// A deleting Machine as machine-controller leaves it: its finalizers, and no record.
fn adopted_deleting() -> StoredMachine {
    machine(&json!({"metadata": {
        "deletionTimestamp": NOW,
        "finalizers": ["machine-node-delete-finalizer", "machine-delete-finalizer"],
    }}))
}

fn peers_vm() -> Arc<Instance> {
    let labels = json!({"machinist.dev/machine-uid": null, "machinist.dev/cluster-uid": null,
        "kubevirt.io/vm": "web-1", "cluster.x-k8s.io/role": "worker", "cluster.x-k8s.io/cluster-name": "c"});
    vm(&json!({"metadata": {"labels": labels}}))
}

fn with_peers_vm() -> Open {
    Open {
        vm: Some(peers_vm()),
        ..running()
    }
}

#[test]
fn a_vm_adopted_while_deleting_is_recorded_with_its_node_before_it_is_deleted() {
    let mut o = observed(adopted_deleting(), with_peers_vm());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine", "record an Event"]);
    let record = &patch(&plan)["status"]["providerStatus"];
    assert_eq!(
        (&record["vmUID"], &record["nodeUID"]),
        (&json!("v1"), &json!("node-1"))
    );
}

#[rstest]
#[case::its_reference_is_being_read(ClusterName::Pending, "WaitingForReference")]
#[case::its_reference_is_gone(ClusterName::Unreadable("there is no Secret".into()), "DeletionBlocked")]
fn a_vm_that_may_be_the_machines_is_not_forgotten(#[case] name: ClusterName, #[case] reason: &str) {
    let mut o = observed(adopted_deleting(), with_peers_vm());
    (o.spec, o.cluster_name) = (Spec::Invalid("unreadable".into()), name);
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine"]);
    assert_eq!(patch(&plan).pointer("/metadata/finalizers"), None);
    assert_eq!(condition(&plan, "Deleting")["reason"], reason);
}

#[rstest]
#[case::that_wins_the_name(Some("other/web-1"), None)]
#[case::that_has_the_vm_on_record(None, Some("other/web-1"))]
fn a_deleting_namesake_leaves_the_vm_to_the_machine(
    #[case] winner: Option<&str>,
    #[case] recorded: Option<&str>,
) {
    let mut open = with_peers_vm();
    open.recorded_by = recorded.map(str::to_owned);
    let mut o = observed(adopted_deleting(), open);
    o.name_winner = winner.map(str::to_owned);
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(patch(&plan)["metadata"]["finalizers"], json!([]));
}

#[test]
fn a_vm_that_runs_somewhere_unknown_is_not_taken_for_gone() {
    let mut o = observed(adopted_deleting(), open());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine"]);
    assert_eq!(condition(&plan, "Deleting")["reason"], "DeletionBlocked");

    let mut given_up = adopted_deleting();
    let annotations = [("machinist.dev/abandon-vm-uid".to_owned(), "unknown".to_owned())];
    given_up.metadata.annotations = Some(annotations.into());
    o.machine = Arc::new(given_up);
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan),
        ["delete the Node", "patch the Machine", "record an Event"]
    );
}
