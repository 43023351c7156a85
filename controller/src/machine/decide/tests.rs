//! The decisions of a Machine's life, as tables of snapshots and what follows from them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::kubevirt::instance;
use machinist_infra::provider::Instance;
use rstest::rstest;
use serde_json::{Value, json};

use super::super::creations::Creation;
use super::super::drain::watch::{Pods, Seen};
use super::super::evacuation::Room;
use super::super::observed::{
    Bootstrap, Brake, ClusterName, Concern, Disk, Eviction, Facts, Failure, GuestView, Guests, Infra,
    Observed, Open, Refuge, Settings, Spec, Unwatched, Usable, VmState,
};
use super::super::plan::{Plan, Step, UserDataSource};
use super::super::record::{FailureDomain, Infrastructure};
use super::decide;
use crate::bootstrap::Mode;
use crate::bootstrap::token::TokenView;
use crate::user::{Node, StoredMachine};

const NOW: &str = "2026-01-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn machine(extra: &Value) -> StoredMachine {
    let mut machine = json!({
        "metadata": {"name": "web-1", "namespace": "kube-system", "uid": "m1", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T11:59:00Z"},
        "spec": {"versions": {"kubelet": "1.33.4"}},
    });
    json_patch::merge(&mut machine, extra);
    serde_json::from_value(machine).unwrap()
}

fn infrastructure() -> Infrastructure {
    Infrastructure {
        namespace: "vms".into(),
        namespace_uid: Some("n1".into()),
        server: "https://infra".into(),
        ca_digest: "ca".into(),
    }
}

fn placed(extra: &Value) -> Value {
    let mut placed = json!({
        "metadata": {"finalizers": ["machine-delete-finalizer", "machine-node-delete-finalizer"]},
        "status": {"providerStatus": {"infrastructure": {"namespace": "vms", "namespaceUID": "n1", "server": "https://infra", "caDigest": "ca"}}},
    });
    json_patch::merge(&mut placed, extra);
    placed
}

fn recorded() -> Value {
    placed(&json!({"status": {"providerStatus": {"vmUID": "v1", "tokenID": "abcdef"}}}))
}

fn open() -> Open {
    Open {
        infrastructure: infrastructure(),
        unwatched: None,
        brake: Brake::Released,
        vm: None,
        may_label: true,
        labelled_machine_exists: false,
        recorded_by: None,
        guest: None,
        eviction: Eviction::None,
        firmware_uuid: None,
        addresses: Vec::new(),
        contested: Vec::new(),
        state: VmState {
            progress: true,
            reason: "VMStarting".into(),
            ..VmState::default()
        },
        disks: Vec::new(),
        facts: Facts::Known(FailureDomain::default()),
    }
}

fn vm(extra: &Value) -> Arc<Instance> {
    let mut vm = json!({
        "metadata": {"name": "web-1", "namespace": "vms", "uid": "v1", "creationTimestamp": NOW, "resourceVersion": "1",
            "labels": {"machinist.dev/machine-uid": "m1", "machinist.dev/cluster-uid": "c1"}},
        "spec": {"template": {"spec": {"volumes": [{"cloudInitNoCloud": {"secretRef": {"name": "userdata-m1-abcdef"}}}]}}},
    });
    json_patch::merge(&mut vm, extra);
    Arc::new(instance(&serde_json::from_value(vm).unwrap(), None, &[]))
}

fn running() -> Open {
    Open {
        vm: Some(vm(&json!({}))),
        guest: Some(GuestView {
            started: true,
            instance: None,
        }),
        addresses: vec!["10.0.0.7".into()],
        state: VmState {
            ready: true,
            reason: "VMRunning".into(),
            ..VmState::default()
        },
        facts: Facts::NotNeeded,
        ..open()
    }
}

fn token() -> TokenView {
    TokenView::for_test("abcdef", "m1", "2026-01-01T12:30:00Z".parse().unwrap())
}

fn node(extra: &Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": "web-1", "uid": "node-1", "resourceVersion": "3"},
        "spec": {"providerID": "kubermatic://kubevirt/m1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.33.4"}},
    });
    json_patch::merge(&mut node, extra);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn observed(machine: StoredMachine, open: Open) -> Observed {
    Observed {
        machine: Arc::new(machine),
        settings: Arc::new(Settings {
            name: String::new(),
            join_timeout: None,
            external_cloud_provider: false,
            cluster_uid: "c1".into(),
            look_every: Duration::from_secs(30),
            provisioning_timeout: None,
            approves_serving: true,
            bootstrap: Mode::Auto,
            skip_eviction_after: Some(Duration::from_hours(2)),
        }),
        name_winner: None,
        spec: Spec::Usable(Box::new(Usable {
            cluster_name: "c".into(),
            disks: vec!["web-1".into()],
            ..Usable::default()
        })),
        cluster_name: ClusterName::Known("c".into()),
        infra: Infra::Open(Box::new(open)),
        node: None,
        bootstrap: Bootstrap::Builtin,
        creation: Creation::Settled,
        token: None,
        has_spare_tokens: false,
        requests: Vec::new(),
        room: Room::Alone,
        guests: Guests {
            pods: Seen::Pods(Pods::default()),
            volumes: Vec::new(),
            refuge: Refuge::Some,
            turn: None,
        },
        leading_since: "2026-01-01T00:00:00Z".parse().unwrap(),
        failure: None,
    }
}

fn verbs(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(Step::verb).collect()
}

fn patch(plan: &Plan) -> &Value {
    plan.steps
        .iter()
        .find_map(|s| {
            if let Step::PatchMachine(p) = s {
                Some(p)
            } else {
                None
            }
        })
        .expect("a Machine patch")
}

fn condition<'a>(plan: &'a Plan, kind: &str) -> &'a Value {
    let conditions = patch(plan)["status"]["conditions"].as_array().unwrap();
    conditions
        .iter()
        .find(|c| c["type"] == kind)
        .unwrap_or_else(|| panic!("no {kind}"))
}

const CREATE: [&str; 4] = [
    "patch the Machine",
    "create the bootstrap token",
    "render the user data",
    "create the VirtualMachine",
];

/// Steps that would make, change or remove something of value.
fn touches_nothing(plan: &Plan) -> bool {
    plan.steps
        .iter()
        .all(|s| matches!(s, Step::PatchMachine(_) | Step::Event(_)))
}

#[test]
fn where_the_vm_goes_is_recorded_before_it_is_made() {
    let plan = decide(&observed(machine(&json!({})), open()), now());
    assert_eq!(verbs(&plan), CREATE);
    let patch = patch(&plan);
    assert_eq!(
        patch["status"]["providerStatus"]["infrastructure"]["server"],
        "https://infra"
    );
    assert_eq!(
        patch["metadata"]["finalizers"],
        json!(["machine-delete-finalizer", "machine-node-delete-finalizer"])
    );
}

#[test]
fn a_token_that_is_there_is_used() {
    let mut o = observed(machine(&placed(&json!({}))), open());
    o.token = Some(token());
    assert!(!verbs(&decide(&o, now())).contains(&"create the bootstrap token"));
}

#[test]
fn the_user_data_follows_the_vm_and_then_its_uid_is_recorded() {
    let mut o = observed(
        machine(&placed(&json!({}))),
        Open {
            vm: Some(vm(&json!({}))),
            ..open()
        },
    );
    o.token = Some(token());
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan),
        [
            "render the user data",
            "create the user-data Secret",
            "patch the Machine",
            "record an Event"
        ]
    );
    assert_eq!(patch(&plan)["status"]["providerStatus"]["vmUID"], "v1");
}

#[test]
fn a_node_that_joined_before_its_vm_was_recorded_keeps_both() {
    let mut o = observed(machine(&placed(&json!({}))), running());
    o.token = Some(token());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(patch(&plan)["status"]["providerStatus"]["vmUID"], "v1");
    assert!(
        !verbs(&plan).contains(&"delete the bootstrap token"),
        "without it and a record, nobody would know that the guest was started"
    );
    // Somebody else has deleted it.
    o.token = None;
    let plan = decide(&o, now());
    assert_eq!(patch(&plan)["status"]["providerStatus"]["vmUID"], "v1");
    assert_eq!(patch(&plan)["status"]["nodeRef"]["uid"], "node-1");
    o.node = None;
    let plan = decide(&o, now());
    assert_eq!(patch(&plan)["status"]["providerStatus"]["vmUID"], Value::Null);
    assert_eq!(patch(&plan)["status"]["providerStatus"]["former"]["uid"], "v1");
}

#[test]
fn a_vm_that_was_given_up_and_has_become_a_node_after_all_is_kept() {
    let former = json!({"former": {"uid": "v1", "why": "its token is gone"}});
    let former = placed(&json!({"status": {"providerStatus": former}}));
    let mut o = observed(machine(&former), running());
    o.node = Some(node(&json!({})));
    // Whether or not there is another token by now.
    for other in [
        None,
        Some(TokenView::for_test(
            "zzzzzz",
            "m1",
            now() + Duration::from_hours(1),
        )),
    ] {
        o.token = other;
        let plan = decide(&o, now());
        assert!(!verbs(&plan).contains(&"delete the VirtualMachine"));
        assert_eq!(patch(&plan)["status"]["providerStatus"]["vmUID"], "v1");
        assert_eq!(patch(&plan)["status"]["providerStatus"]["former"], Value::Null);
    }
    o.node = None;
    assert!(verbs(&decide(&o, now())).contains(&"delete the VirtualMachine"));
}

#[test]
fn the_volumes_of_a_vm_that_vanished_are_detached_before_its_node_goes() {
    let mut o = observed(machine(&recorded()), open());
    o.node = Some(node(&json!({})));
    o.guests.volumes = vec!["pv-1".into()];
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan),
        ["patch the Machine", "patch the Node", "record an Event"]
    );
    let ready = condition(&plan, "InfrastructureReady");
    assert_eq!(ready["reason"], "VMVanished");
    assert!(
        ready["message"].as_str().unwrap().contains("out of service"),
        "{ready}"
    );
    assert_eq!(
        patch(&plan)["status"]["providerStatus"],
        Value::Null,
        "it is still on record"
    );
    // The Node may not let itself be marked, or nobody detaches them.
    for (since, goes) in [("2026-01-01T11:58:01Z", false), ("2026-01-01T11:58:00Z", true)] {
        let mut waiting = recorded();
        json_patch::merge(
            &mut waiting,
            &json!({"status": {"conditions": [{"type": "InfrastructureReady", "status": "False",
            "reason": "VMVanished", "lastTransitionTime": since}]}}),
        );
        o.machine = Arc::new(machine(&waiting));
        assert_eq!(
            verbs(&decide(&o, now())).contains(&"delete the Node"),
            goes,
            "{since}"
        );
    }
    o.guests.volumes.clear();
    o.machine = Arc::new(machine(&recorded()));
    assert!(verbs(&decide(&o, now())).contains(&"delete the Node"));
}

#[test]
fn a_guest_that_outlives_a_vm_that_vanished_keeps_its_volumes() {
    let guest = Some(GuestView {
        started: true,
        instance: Some("v1".to_owned()),
    });
    let mut o = observed(machine(&recorded()), Open { guest, ..open() });
    o.node = Some(node(&json!({})));
    o.guests.volumes = vec!["pv-1".into()];
    assert_eq!(
        verbs(&decide(&o, now())),
        ["patch the Machine", "record an Event"]
    );
}

#[test]
fn a_former_vms_node_goes_before_a_vm_is_made_anew() {
    let former = placed(&json!({"status": {"providerStatus": {"former": {"uid": "v0", "why": "gone"}}}}));
    let mut o = observed(machine(&former), open());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["delete the Node", "patch the Machine"]);
    o.node = None;
    assert_eq!(verbs(&decide(&o, now())), CREATE);
}

#[test]
fn tokens_that_no_guest_has_are_deleted_once_it_is_known_which_one_has() {
    const SPARE: &str = "delete spare bootstrap tokens";
    let mut o = observed(machine(&recorded()), running());
    o.token = Some(token());
    assert!(!verbs(&decide(&o, now())).contains(&SPARE));
    o.has_spare_tokens = true;
    assert!(verbs(&decide(&o, now())).contains(&SPARE));
    // None of them is the VM's.
    o.token = Some(TokenView::for_test(
        "zzzzzz",
        "m1",
        now() + Duration::from_hours(1),
    ));
    assert!(!verbs(&decide(&o, now())).contains(&SPARE));
}

#[test]
fn a_recorded_vm_that_runs_needs_no_write_twice() {
    let mut o = observed(machine(&recorded()), running());
    o.token = Some(token());
    let plan = decide(&o, now());
    assert_eq!(
        patch(&plan)["status"]["addresses"],
        json!([{"type": "InternalIP", "address": "10.0.0.7"}])
    );
    assert_eq!(patch(&plan)["spec"]["providerID"], "kubermatic://kubevirt/m1");
    let mut written = recorded();
    json_patch::merge(&mut written, patch(&plan));
    o.machine = Arc::new(machine(&written));
    let again = decide(&o, now());
    assert_eq!(again.steps, [], "nothing changed");
    assert!(
        again.again.is_some_and(|d| d <= Duration::from_mins(15)),
        "the token's half-life"
    );
}

#[test]
fn a_node_that_joined_is_decorated_then_linked_and_its_token_deleted() {
    let mut o = observed(machine(&recorded()), running());
    o.token = Some(token());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan),
        [
            "patch the Node",
            "delete the bootstrap token",
            "patch the Machine"
        ]
    );
    assert_eq!(patch(&plan)["status"]["nodeRef"]["uid"], "node-1");
    assert_eq!(patch(&plan)["status"]["phase"], "Running");
    assert_eq!(condition(&plan, "Ready")["status"], "True");
}

#[rstest]
#[case::a_stranger_of_the_machines_name(json!({"spec": {"providerID": "other://x"}}))]
#[case::a_control_plane_node(json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"providerID": null}}))]
#[case::another_machines_node(json!({"metadata": {"annotations": {"cluster.k8s.io/machine": "other/web-1"}}}))]
fn a_strangers_node_gets_no_vm_and_is_left_alone(#[case] extra: Value) {
    let mut o = observed(machine(&json!({})), open());
    o.node = Some(node(&extra));
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], "NodeNameTaken");
}

#[test]
fn a_node_ref_written_by_hand_deletes_no_node() {
    let deleting = json!({
        "metadata": {"deletionTimestamp": NOW, "finalizers": ["machine-node-delete-finalizer", "machine-delete-finalizer"]},
        "status": {"nodeRef": {"kind": "Node", "name": "web-1", "uid": "node-1"}},
    });
    let mut o = observed(machine(&deleting), open());
    o.node = Some(node(&json!({"spec": {"providerID": "other://x"}})));
    assert_eq!(verbs(&decide(&o, now())), ["patch the Machine"]);
}

#[test]
fn the_node_of_a_strangers_vm_is_left_alone_with_it() {
    // A Machine out of a backup, which has another UID: the VM and its Node are those of the Machine that it was.
    let theirs = vm(&json!({"metadata": {"labels": {"machinist.dev/machine-uid": "m0"}}}));
    let deleting = machine(&json!({"metadata": {"deletionTimestamp": NOW,
        "finalizers": ["machine-delete-finalizer", "machine-node-delete-finalizer"]}}));
    let stranger = Open {
        vm: Some(theirs),
        firmware_uuid: Some("abc-1".into()),
        ..running()
    };
    let mut o = observed(deleting, stranger);
    o.node = Some(node(&json!({
        "metadata": {"annotations": {"cluster.k8s.io/machine": "kube-system/web-1"}},
        "spec": {"providerID": "kubermatic://kubevirt/m0"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}], "nodeInfo": {"systemUUID": "abc-1"}},
    })));
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(patch(&plan)["metadata"]["finalizers"], json!([]));
}

#[test]
fn a_strangers_vm_is_reported_and_left_alone() {
    let theirs = vm(&json!({"metadata": {"labels": null, "creationTimestamp": "2020-01-01T00:00:00Z"}}));
    let plan = decide(
        &observed(
            machine(&json!({})),
            Open {
                vm: Some(theirs.clone()),
                ..open()
            },
        ),
        now(),
    );
    assert!(touches_nothing(&plan));
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], "VMNameTaken");
    let deleting = placed(&json!({"metadata": {"deletionTimestamp": NOW}}));
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
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(patch(&plan)["metadata"]["finalizers"], json!([]));
}

#[test]
fn a_strangers_disk_keeps_the_vm_from_being_made() {
    let disk = Disk {
        kind: "DataVolume",
        metadata: serde_json::from_value(json!({"name": "web-1", "uid": "d1"})).unwrap(),
    };
    let plan = decide(
        &observed(
            machine(&json!({})),
            Open {
                disks: vec![disk],
                ..open()
            },
        ),
        now(),
    );
    assert!(touches_nothing(&plan));
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], "DiskNameTaken");
}

#[test]
fn the_former_vms_disk_is_waited_for() {
    let owned = json!({"name": "web-1", "uid": "d1", "deletionTimestamp": NOW, "ownerReferences": [
        {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "web-1", "uid": "v0", "controller": true}]});
    let disk = Disk {
        kind: "DataVolume",
        metadata: serde_json::from_value(owned).unwrap(),
    };
    let former = placed(&json!({"status": {"providerStatus": {"former": {"uid": "v0", "why": "gone"}}}}));
    let plan = decide(
        &observed(
            machine(&former),
            Open {
                disks: vec![disk],
                ..open()
            },
        ),
        now(),
    );
    assert!(touches_nothing(&plan));
    assert_eq!(
        condition(&plan, "InfrastructureReady")["reason"],
        "WaitingForDisks"
    );
}

#[test]
fn a_vanished_vm_of_a_standalone_machine_is_made_anew_with_its_cause_on_record() {
    let mut o = observed(machine(&recorded()), open());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan),
        ["delete the Node", "patch the Machine", "record an Event"]
    );
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], "VMVanished");
    assert_eq!(patch(&plan)["status"]["providerStatus"]["vmUID"], Value::Null);
    assert_eq!(patch(&plan)["status"]["providerStatus"]["former"]["uid"], "v1");
    let mut written = recorded();
    json_patch::merge(&mut written, patch(&plan));
    let again = decide(&observed(machine(&written), open()), now());
    assert_eq!(verbs(&again), CREATE);
    assert!(
        condition(&again, "InfrastructureReady")["message"]
            .as_str()
            .unwrap()
            .contains("without our doing")
    );
}

#[test]
fn a_vanished_vm_of_a_set_is_replaced_with_its_machine() {
    let mut owned = recorded();
    json_patch::merge(
        &mut owned,
        &json!({"metadata": {"ownerReferences": [
        {"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": "web", "uid": "s1", "controller": true}]}}),
    );
    let plan = decide(&observed(machine(&owned), open()), now());
    assert!(verbs(&plan).contains(&"delete the Machine"));
}

#[rstest]
#[case::unreachable(Infra::Unreachable("no answer within 3s".into()))]
#[case::refused(Infra::Refused("401".into()))]
#[case::connecting(Infra::Connecting)]
#[case::no_credential(Infra::NoCredential("no key".into()))]
fn an_infra_cluster_that_does_not_answer_loses_nothing(#[case] infra: Infra) {
    for extra in [recorded(), placed(&json!({})), json!({})] {
        for deleting in [json!({}), json!({"metadata": {"deletionTimestamp": NOW}})] {
            let mut extra = extra.clone();
            json_patch::merge(&mut extra, &deleting);
            let had_finalizers = extra["metadata"]["finalizers"].is_array();
            let mut o = observed(machine(&extra), open());
            o.infra = infra.clone();
            o.node = Some(node(&json!({})));
            let plan = decide(&o, now());
            assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
            let released = plan
                .steps
                .iter()
                .any(|s| matches!(s, Step::PatchMachine(p) if p["metadata"]["finalizers"].is_array()));
            assert!(!(had_finalizers && released), "the finalizers stay");
        }
    }
}

#[test]
fn another_infra_cluster_than_recorded_gets_nothing_and_loses_nothing() {
    let moved = Infrastructure {
        namespace_uid: Some("n2".into()),
        ..infrastructure()
    };
    for deleting in [json!({}), json!({"metadata": {"deletionTimestamp": NOW}})] {
        let mut extra = recorded();
        json_patch::merge(&mut extra, &deleting);
        let plan = decide(
            &observed(
                machine(&extra),
                Open {
                    infrastructure: moved.clone(),
                    ..open()
                },
            ),
            now(),
        );
        assert!(touches_nothing(&plan));
        assert!(patch(&plan)["metadata"].is_null());
    }
    let mut accepted = recorded();
    json_patch::merge(
        &mut accepted,
        &json!({"metadata": {"annotations": {"machinist.dev/accept-infrastructure": "n2"}}}),
    );
    let plan = decide(
        &observed(
            machine(&accepted),
            Open {
                infrastructure: moved,
                ..open()
            },
        ),
        now(),
    );
    assert_eq!(verbs(&plan), CREATE);
}

#[test]
fn a_lost_record_makes_no_second_vm() {
    let lost = json!({"metadata": {"finalizers": ["machine-delete-finalizer"]}});
    let mut o = observed(machine(&lost), open());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan));
    assert_eq!(
        condition(&plan, "InfrastructureReady")["reason"],
        "PlacementUnknown"
    );
}

#[test]
fn a_deletion_goes_vm_then_node_then_token_then_finalizers() {
    let mut deleting = recorded();
    json_patch::merge(&mut deleting, &json!({"metadata": {"deletionTimestamp": NOW}}));
    let mut o = observed(machine(&deleting), running());
    o.node = Some(node(&json!({"spec": {"unschedulable": true}})));
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

#[rstest]
#[case::of_the_cluster(Infra::Unreachable("no answer within 3s".into()), false)]
#[case::of_the_credential(Infra::Refused("401".into()), true)]
fn an_outage_is_no_event_of_each_machine(#[case] infra: Infra, #[case] is_event: bool) {
    let mut o = observed(machine(&recorded()), running());
    o.infra = infra;
    let plan = decide(&o, now());
    assert_eq!(
        condition(&plan, "InfrastructureReachable")["reason"],
        "Unreachable"
    );
    assert_eq!(verbs(&plan).contains(&"record an Event"), is_event);
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
fn a_token_that_is_gone_remakes_a_vm_that_never_started_and_is_reported_of_one_that_did() {
    let late: Timestamp = "2026-01-01T13:00:00Z".parse().unwrap();
    let mut o = observed(
        machine(&recorded()),
        Open {
            guest: None,
            state: VmState::default(),
            ..running()
        },
    );
    o.token = Some(token());
    let plan = decide(&o, late);
    assert!(
        verbs(&plan).contains(&"extend the bootstrap token"),
        "what is still there is good for a guest that never had it"
    );
    assert!(patch(&plan)["status"]["providerStatus"].is_null());
    o.token = None;
    let plan = decide(&o, late);
    assert_eq!(patch(&plan)["status"]["providerStatus"]["former"]["uid"], "v1");
    let mut written = recorded();
    json_patch::merge(&mut written, patch(&plan));
    o.machine = Arc::new(machine(&written));
    assert!(verbs(&decide(&o, late)).contains(&"delete the VirtualMachine"));

    let started = observed(machine(&recorded()), running());
    let plan = decide(&started, late);
    assert!(touches_nothing(&plan));
    assert_eq!(
        condition(&plan, "BootstrapReady")["reason"],
        "BootstrapTokenExpired"
    );
}

#[test]
fn the_log_is_told_why_something_is_written() {
    let plan = decide(&observed(machine(&recorded()), open()), now());
    assert!(!plan.steps.is_empty());
    let ready = condition(&plan, "Ready");
    let said = |key: &str| ready[key].as_str().unwrap();
    assert_eq!(plan.why, format!("{}: {}", said("reason"), said("message")));
    let mut deleting = recorded();
    json_patch::merge(&mut deleting, &json!({"metadata": {"deletionTimestamp": NOW}}));
    let plan = decide(&observed(machine(&deleting), running()), now());
    let reason = condition(&plan, "Deleting")["reason"].as_str().unwrap();
    assert!(plan.why.starts_with(reason), "{}", plan.why);
}

#[test]
fn a_token_is_extended_at_half_life() {
    let mut o = observed(machine(&recorded()), running());
    o.token = Some(token());
    assert!(!verbs(&decide(&o, now())).contains(&"extend the bootstrap token"));
    let half: Timestamp = "2026-01-01T12:15:01Z".parse().unwrap();
    assert!(verbs(&decide(&o, half)).contains(&"extend the bootstrap token"));
}

/// What keeps a Machine's VM from being seen.
#[rstest]
#[case::its_infra_cluster_does_not_answer(|o: &mut Observed| o.infra = Infra::Unreachable("refused".into()))]
#[case::its_infra_cluster_is_being_connected_to(|o: &mut Observed| o.infra = Infra::Connecting)]
#[case::its_credential_is_gone(|o: &mut Observed| o.infra = Infra::NoCredential("no key".into()))]
#[case::another_cluster_answers(|o: &mut Observed| {
    o.infra = Infra::Open(Box::new(Open {
        infrastructure: Infrastructure { namespace_uid: Some("n2".into()), ..infrastructure() },
        ..open()
    }));
})]
#[case::the_brake(|o: &mut Observed| o.infra = Infra::Open(Box::new(Open { brake: ENGAGED, ..open() })))]
#[case::its_spec_refers_to_nothing(|o: &mut Observed| o.spec = Spec::ReferenceNotFound("no Secret".into()))]
#[case::its_spec_is_being_read(|o: &mut Observed| o.spec = Spec::Waiting("a Secret".into()))]
#[case::its_spec_cannot_be_rendered(|o: &mut Observed| o.spec = Spec::Invalid("no".into()))]
fn a_token_outlives_what_keeps_its_vm_from_being_seen(#[case] unseen: fn(&mut Observed)) {
    const EXTEND: &str = "extend the bootstrap token";
    let half: Timestamp = "2026-01-01T12:15:01Z".parse().unwrap();
    let mut o = observed(machine(&recorded()), running());
    o.token = Some(token());
    unseen(&mut o);
    let plan = decide(&o, now());
    assert!(!verbs(&plan).contains(&EXTEND));
    assert!(plan.again.is_some_and(|again| again <= Duration::from_mins(15)));
    assert_eq!(
        verbs(&decide(&o, half))
            .iter()
            .filter(|verb| **verb == EXTEND)
            .count(),
        1
    );
    o.settings = Arc::new(Settings {
        join_timeout: Some(Duration::from_mins(1)),
        ..o.settings.as_ref().clone()
    });
    assert!(
        verbs(&decide(&o, half)).contains(&EXTEND),
        "nobody can judge that"
    );

    // Another token is not the VM's; one that was used is not needed; and who is being deleted joins no more.
    let mut another = o.clone();
    another.token = Some(TokenView::for_test(
        "ghijkl",
        "m1",
        "2026-01-01T12:30:00Z".parse().unwrap(),
    ));
    assert!(!verbs(&decide(&another, half)).contains(&EXTEND));
    let mut joined = o.clone();
    joined.node = Some(node(
        &json!({"metadata": {"creationTimestamp": "2026-01-01T12:01:00Z"}}),
    ));
    assert!(!verbs(&decide(&joined, half)).contains(&EXTEND));
    joined.node = Some(node(
        &json!({"metadata": {"creationTimestamp": "2026-01-01T11:59:00Z"}}),
    ));
    assert!(verbs(&decide(&joined, half)).contains(&EXTEND), "a former VM's");
    let mut deleting = recorded();
    json_patch::merge(&mut deleting, &json!({"metadata": {"deletionTimestamp": NOW}}));
    o.machine = Arc::new(machine(&deleting));
    assert!(!verbs(&decide(&o, half)).contains(&EXTEND));
}

#[test]
fn a_failed_write_is_shown_and_holds_the_next_try_back() {
    let mut o = observed(machine(&json!({})), open());
    let until = "2026-01-01T12:00:04Z".parse().unwrap();
    o.failure = Some(Failure {
        concerns: Concern::Infrastructure,
        message: "cannot create: quota".into(),
        until,
        is_news: true,
    });
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(plan.again, Some(Duration::from_secs(4)));
    assert_eq!(
        condition(&plan, "InfrastructureReady")["message"],
        "cannot create: quota"
    );
    assert!(
        patch(&plan)["metadata"].is_null(),
        "finalizers and record wait for the write that they belong to"
    );
}

#[test]
fn two_machines_of_one_name_get_one_vm() {
    let mut o = observed(machine(&json!({})), open());
    o.name_winner = Some("other/web-1".into());
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan));
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], "NameTaken");
}

#[rstest]
#[case::another_controllers(json!({"metadata": {"labels": {"machine.k8s.io/controller": "other"}}}))]
#[case::initializers(json!({"metadata": {"annotations": {"machine-controller.kubermatic.io/initializers": "x"}}}))]
fn a_machine_that_is_not_for_us_is_not_touched(#[case] extra: Value) {
    assert_eq!(decide(&observed(machine(&extra), open()), now()), Plan::default());
}

#[test]
fn taints_and_labels_that_are_there_are_never_overwritten() {
    let mut o = observed(machine(&recorded()), running());
    let usable = Usable {
        node_metadata: serde_json::from_value(json!({"labels": {"a": "new", "b": "new"}, "annotations": {"c": "d"}})).unwrap(),
        taints: serde_json::from_value(json!([{"key": "k", "value": "new", "effect": "NoSchedule"}, {"key": "k", "effect": "NoExecute"}])).unwrap(),
        ..Usable::default()
    };
    o.spec = Spec::Usable(Box::new(usable));
    o.node = Some(node(
        &json!({"metadata": {"labels": {"a": "old"}}, "spec": {"taints": [{"key": "k", "value": "old", "effect": "NoSchedule"}]}}),
    ));
    let plan = decide(&o, now());
    let Some(Step::PatchNode { patch, .. }) = plan.steps.first() else {
        panic!("{:?}", verbs(&plan))
    };
    assert_eq!(
        patch["metadata"]["labels"],
        json!({"b": "new", "machine-controller/owned-by": "m1"})
    );
    assert_eq!(
        patch["metadata"]["annotations"],
        json!({"c": "d", "cluster.k8s.io/machine": "kube-system/web-1"})
    );
    assert_eq!(patch["spec"]["taints"].as_array().unwrap().len(), 2);
    assert_eq!(patch["spec"]["taints"][0]["value"], "old");
    assert_eq!(
        (
            patch["metadata"]["uid"].as_str(),
            patch["metadata"]["resourceVersion"].as_str()
        ),
        (Some("node-1"), Some("3"))
    );
}

const ENGAGED: Brake = Brake::Engaged {
    vanished: 6,
    recorded: 10,
};

#[rstest]
#[case::braked(ENGAGED)]
#[case::settling(Brake::Settling)]
fn vms_that_vanish_all_at_once_are_not_believed_to_be_gone(#[case] brake: Brake) {
    for extra in [
        recorded(),
        placed(&json!({})),
        json!({}),
        json!({"metadata": {"ownerReferences": [{"kind": "MachineSet", "name": "s", "uid": "s1", "apiVersion": "v"}]}}),
    ] {
        let empty = Open { brake, ..open() };
        let mut o = observed(machine(&extra), empty);
        o.node = Some(node(&json!({})));
        let plan = decide(&o, now());
        assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
        assert_eq!(
            condition(&plan, "InfrastructureReady")["reason"],
            "InfrastructureChanged"
        );
        assert!(plan.again.is_some(), "it is looked at again");

        let mut deleting = extra.clone();
        json_patch::merge(
            &mut deleting,
            &json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["machine-delete-finalizer"]}}),
        );
        let plan = decide(&observed(machine(&deleting), Open { brake, ..open() }), now());
        assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
        assert_eq!(condition(&plan, "Deleting")["reason"], "DeletionBlocked");
        assert_eq!(patch(&plan)["metadata"]["finalizers"], Value::Null, "they stay");
    }
}

#[rstest]
#[case::by_the_namespaces_uid("n1")]
#[case::by_its_server("https://infra")]
fn an_admin_can_say_that_they_are_gone(#[case] accepted: &str) {
    let mut extra = placed(&json!({}));
    json_patch::merge(
        &mut extra,
        &json!({"metadata": {"annotations": {"machinist.dev/accept-infrastructure": accepted}}}),
    );
    let braked = Open {
        brake: ENGAGED,
        ..open()
    };
    assert_eq!(
        verbs(&decide(&observed(machine(&extra), braked), now()))[1..],
        CREATE[1..]
    );
}

#[test]
fn a_vm_that_is_there_lives_on_under_the_brake() {
    let o = observed(
        machine(&recorded()),
        Open {
            brake: ENGAGED,
            ..running()
        },
    );
    let plan = decide(&o, now());
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], "VMRunning");
}

#[test]
fn what_may_not_be_watched_is_named_and_changes_nothing_else() {
    let unwatched = Some(Unwatched {
        missing: "list, watch virtualmachines.kubevirt.io".into(),
        unseen_disks: Vec::new(),
    });
    let plan = decide(
        &observed(
            machine(&recorded()),
            Open {
                unwatched: unwatched.clone(),
                ..running()
            },
        ),
        now(),
    );
    let reachable = condition(&plan, "InfrastructureReachable");
    assert_eq!(
        (&reachable["status"], &reachable["reason"]),
        (&json!("True"), &json!("WatchForbidden"))
    );
    assert!(
        reachable["message"]
            .as_str()
            .unwrap()
            .contains("list, watch virtualmachines")
    );
    assert!(verbs(&plan).contains(&"record an Event"), "a person is told");
    let plan = decide(
        &observed(machine(&json!({})), Open { unwatched, ..open() }),
        now(),
    );
    assert_eq!(verbs(&plan)[1..4], CREATE[1..]);
}

#[test]
fn no_vm_is_made_where_nobody_can_tell_whose_the_disks_are() {
    let blind = Open {
        unwatched: Some(Unwatched {
            missing: "list, watch datavolumes.cdi.kubevirt.io".into(),
            unseen_disks: vec!["datavolumes.cdi.kubevirt.io"],
        }),
        ..open()
    };
    let plan = decide(&observed(machine(&json!({})), blind), now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    let ready = condition(&plan, "InfrastructureReady");
    assert_eq!(ready["reason"], "WatchForbidden");
    assert!(ready["message"].as_str().unwrap().contains("datavolumes.cdi"));
}

#[test]
fn connecting_anew_unsays_nothing() {
    let connecting = |machine| {
        let mut o = observed(machine, open());
        o.infra = Infra::Connecting;
        decide(&o, now())
    };
    let first = connecting(machine(&json!({})));
    assert_eq!(
        condition(&first, "InfrastructureReachable")["reason"],
        "Connecting"
    );
    // One that has joined: conditions, phase and all.
    let mut o = observed(machine(&recorded()), running());
    o.node = Some(node(&json!({})));
    let known = patch(&decide(&o, now()))["status"].clone();
    assert_eq!(known["phase"], "Running");
    let mut extra = recorded();
    json_patch::merge(&mut extra, &json!({"status": known}));
    let later = now() + Duration::from_hours(1);
    let mut o = observed(machine(&extra), open());
    o.infra = Infra::Connecting;
    assert_eq!(verbs(&decide(&o, later)), Vec::<&str>::new());
    o.spec = Spec::Waiting("a referenced Secret".into());
    assert_eq!(
        verbs(&decide(&o, later)),
        Vec::<&str>::new(),
        "nor does a reference that is read anew"
    );

    // What does not answer is told, and changes nothing of what was known.
    let mut o = observed(machine(&extra), open());
    o.infra = Infra::Unreachable("timed out".into());
    let plan = decide(&o, later);
    assert_eq!(condition(&plan, "InfrastructureReachable")["status"], "False");
    assert_eq!(condition(&plan, "NodeReady")["status"], "True");
    assert_eq!(patch(&plan)["status"].get("phase"), None);
}

#[test]
fn a_failure_is_not_forgotten_while_its_infra_cluster_is_away() {
    let failed = json!({"status": {"phase": "Failed", "errorReason": "CreateError", "errorMessage": "GuestEnded", "failureMessage": "GuestEnded"}});
    let mut extra = recorded();
    json_patch::merge(&mut extra, &failed);
    let mut o = observed(machine(&extra), open());
    o.infra = Infra::Unreachable("timed out".into());
    let plan = decide(&o, now());
    let status = &patch(&plan)["status"];
    assert_eq!(
        [
            status.get("phase"),
            status.get("errorReason"),
            status.get("failureMessage")
        ],
        [None; 3]
    );
}

#[rstest]
#[case::before_there_is_a_vm(placed(&json!({})), "ReferenceNotFound")]
#[case::of_a_machine_with_a_vm(recorded(), "VMRunning")]
fn a_missing_credential_is_an_error_only_where_it_keeps_a_vm_from_being_made(
    #[case] extra: Value,
    #[case] reason: &str,
) {
    let mut known = extra;
    json_patch::merge(
        &mut known,
        &json!({"status": {"conditions": [
        {"type": "InfrastructureReady", "status": "True", "reason": "VMRunning", "message": ""}]}}),
    );
    let mut o = observed(machine(&known), open());
    o.infra = Infra::NoCredential("there is no Secret".into());
    let plan = decide(&o, now());
    assert_eq!(
        condition(&plan, "InfrastructureReachable")["reason"],
        "ReferenceNotFound"
    );
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], reason);
    let errs = patch(&plan)["status"]["errorReason"] == "CreateError";
    assert_eq!(errs, reason == "ReferenceNotFound");
}

#[test]
fn a_node_is_recorded_before_the_vm_that_ties_it_is_deleted() {
    let mut deleting = recorded();
    json_patch::merge(&mut deleting, &json!({"metadata": {"deletionTimestamp": NOW}}));
    let mut o = observed(machine(&deleting), running());
    o.node = Some(node(
        &json!({"spec": {"providerID": "kubevirt://web-1", "unschedulable": true},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}),
    ));
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine", "delete the VirtualMachine"]);
    assert_eq!(patch(&plan)["status"]["providerStatus"]["nodeUID"], "node-1");
}

/// A deleting Machine as machine-controller leaves it: its finalizers, and no record.
fn taken_over_deleting() -> StoredMachine {
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
fn a_vm_taken_over_while_deleting_is_recorded_with_its_node_before_it_is_deleted() {
    let mut o = observed(taken_over_deleting(), with_peers_vm());
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
    let mut o = observed(taken_over_deleting(), with_peers_vm());
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
    let mut o = observed(taken_over_deleting(), open);
    o.name_winner = winner.map(str::to_owned);
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(patch(&plan)["metadata"]["finalizers"], json!([]));
}

#[test]
fn a_vm_that_runs_somewhere_unknown_is_not_taken_for_gone() {
    let mut o = observed(taken_over_deleting(), open());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine"]);
    assert_eq!(condition(&plan, "Deleting")["reason"], "DeletionBlocked");

    let mut given_up = taken_over_deleting();
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

#[rstest]
#[case::that_is_missing(Facts::Missing("StorageClass a does not exist".into()), json!("CreateError"))]
#[case::that_cannot_be_asked_for(Facts::Unavailable("timed out".into()), Value::Null)]
fn a_fact_is_asked_for_again_and_an_outage_is_no_error(#[case] facts: Facts, #[case] error: Value) {
    let plan = decide(&observed(machine(&json!({})), Open { facts, ..open() }), now());
    assert_eq!(
        condition(&plan, "InfrastructureReady")["reason"],
        "FactsUnavailable"
    );
    assert!(
        plan.again.is_some_and(|again| again <= Duration::from_secs(30)),
        "nothing tells of it"
    );
    assert_eq!(
        patch(&plan)["status"].get("errorReason").unwrap_or(&Value::Null),
        &error
    );
}

/// The record of a VM whose user data is operating-system-manager's.
fn osm_record(revision: &str) -> Value {
    placed(&json!({"status": {"providerStatus": {"bootstrapSecret": {"revision": revision, "id": "osm-1"}}}}))
}

/// The VM that was made with it, and is not recorded yet.
fn osm_vm() -> Open {
    let volume = json!([{"cloudInitNoCloud": {"secretRef": {"name": "userdata-m1-osm-1"}}}]);
    Open {
        vm: Some(vm(&json!({"spec": {"template": {"spec": {"volumes": volume}}}}))),
        facts: Facts::NotNeeded,
        ..open()
    }
}

#[test]
fn with_user_data_of_operating_system_manager_no_token_is_made() {
    let mut o = observed(machine(&json!({})), open());
    o.bootstrap = Bootstrap::Osm("3".into());
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan),
        [
            "patch the Machine",
            "render the user data",
            "create the VirtualMachine"
        ]
    );
    let id = format!("osm-{:x}", now().as_millisecond());
    assert_eq!(
        patch(&plan)["status"]["providerStatus"]["bootstrapSecret"],
        json!({"revision": "3", "id": id})
    );
    assert!(
        plan.steps
            .contains(&Step::RenderUserData(UserDataSource::BootstrapSecret(id)))
    );
}

#[rstest]
#[case::the_same_revision("3", "osm-1")]
#[case::another_one("4", "osm-19b796dd600")]
fn what_was_begun_goes_on_under_its_name(#[case] revision: &str, #[case] id: &str) {
    let mut o = observed(machine(&osm_record("3")), open());
    o.bootstrap = Bootstrap::Osm(revision.into());
    let plan = decide(&o, now());
    let source = UserDataSource::BootstrapSecret(id.into());
    assert!(
        plan.steps.contains(&Step::RenderUserData(source)),
        "{:?}",
        plan.steps
    );
}

#[rstest]
#[case::not_there(Bootstrap::Waiting("not there".into()), "WaitingForBootstrapSecret")]
#[case::of_another_revision(Bootstrap::OtherRevision("old".into()), "BootstrapSecretRevision")]
#[case::never(Bootstrap::Invalid("no mode".into()), "BootstrapFailed")]
fn without_user_data_no_vm_is_made(#[case] bootstrap: Bootstrap, #[case] reason: &str) {
    let mut o = observed(machine(&json!({})), open());
    o.bootstrap = bootstrap;
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", plan.steps);
    for kind in ["BootstrapReady", "InfrastructureReady", "Ready"] {
        assert_eq!(condition(&plan, kind)["reason"], reason);
    }
    assert_eq!(patch(&plan)["status"].get("providerStatus"), None);
}

#[test]
fn the_vm_gets_the_user_data_of_the_revision_that_it_was_made_for() {
    let mut o = observed(machine(&osm_record("3")), osm_vm());
    o.bootstrap = Bootstrap::Osm("3".into());
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan)[..2],
        ["render the user data", "create the user-data Secret"]
    );
    let record = &patch(&plan)["status"]["providerStatus"];
    assert_eq!(record["vmUID"], "v1");
    assert_eq!(record.get("tokenID"), None);
}

#[rstest]
#[case::remade_for_a_newer_one(Bootstrap::Osm("4".into()))]
#[case::the_mode_was_changed(Bootstrap::Builtin)]
fn a_vm_whose_user_data_was_replaced_before_its_guest_got_it_is_made_anew(#[case] bootstrap: Bootstrap) {
    let mut o = observed(machine(&osm_record("3")), osm_vm());
    o.bootstrap = bootstrap;
    let plan = decide(&o, now());
    let record = &patch(&plan)["status"]["providerStatus"];
    assert_eq!(record["former"]["uid"], "v1");
    assert_eq!(record["bootstrapSecret"], Value::Null);
    assert!(!verbs(&plan).contains(&"create the user-data Secret"));
}

#[rstest]
#[case::remade_right_now(Bootstrap::Waiting("not there".into()), "WaitingForBootstrapSecret")]
#[case::of_another_revision(Bootstrap::OtherRevision("old".into()), "BootstrapSecretRevision")]
fn a_vm_waits_for_user_data_that_may_come_back(#[case] bootstrap: Bootstrap, #[case] reason: &str) {
    let mut o = observed(machine(&osm_record("3")), osm_vm());
    o.bootstrap = bootstrap;
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", plan.steps);
    assert_eq!(condition(&plan, "BootstrapReady")["reason"], reason);
    assert_eq!(patch(&plan)["status"].get("providerStatus"), None);
}

#[test]
fn a_guest_of_operating_system_manager_needs_no_token_of_ours() {
    let mut record = osm_record("3");
    json_patch::merge(
        &mut record,
        &json!({"status": {"providerStatus": {"vmUID": "v1"}}}),
    );
    let plan = decide(&observed(machine(&record), running()), now());
    let bootstrap = condition(&plan, "BootstrapReady");
    assert_eq!(bootstrap["reason"], "DataReady");
    assert!(bootstrap["message"].as_str().unwrap().contains("revision 3"));
    assert!(!verbs(&plan).iter().any(|verb| verb.contains("token")));
}

#[rstest]
#[case::the_guest("GuestEnded", "the guest has shut itself down, and nothing starts it again")]
#[case::a_disk("DiskFailed", "DataVolume web-1: checksum mismatch")]
fn what_cannot_heal_fails_the_machine_and_is_told_once_and_is_taken_back_when_it_is_gone(
    #[case] reason: &str,
    #[case] message: &str,
) {
    let ended = Open {
        state: VmState {
            terminal: true,
            reason: reason.into(),
            message: message.into(),
            ..VmState::default()
        },
        addresses: Vec::new(),
        ..running()
    };
    let events = |plan: &Plan| {
        plan.steps
            .iter()
            .filter(|step| matches!(step, Step::Event(_)))
            .count()
    };
    let mut o = observed(machine(&recorded()), ended);
    o.token = Some(token());
    let failed = decide(&o, now());
    let (status, text) = (&patch(&failed)["status"], format!("{reason}: {message}"));
    assert_eq!(
        (
            &status["phase"],
            &status["errorReason"],
            &status["errorMessage"],
            &status["failureMessage"]
        ),
        (
            &json!("Failed"),
            &json!("CreateError"),
            &json!(text),
            &json!(text)
        )
    );
    assert_eq!(condition(&failed, "InfrastructureReady")["reason"], reason);
    assert_eq!(events(&failed), 1);
    assert!(touches_nothing(&failed), "{:?}", verbs(&failed));

    let mut written = recorded();
    json_patch::merge(&mut written, patch(&failed));
    o.machine = Arc::new(machine(&written));
    assert_eq!(decide(&o, now()).steps, [], "told once");

    // Somebody started it again, or mended the disk.
    o.infra = Infra::Open(Box::new(running()));
    let healed = decide(&o, now());
    let status = &patch(&healed)["status"];
    for gone in ["errorReason", "errorMessage", "failureMessage"] {
        assert_eq!(status.get(gone), Some(&Value::Null), "{gone}");
    }
    assert_eq!(status["phase"], "Provisioning");
    assert_eq!(events(&healed), 0);
}

mod evacuation;
mod goodbye;
mod joining;
mod on_node;
mod serving;
