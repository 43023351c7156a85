//! The decisions of a Machine's life, as tables of snapshots and what follows from them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use machinist_infra::kube::clock::Skew;
use machinist_infra::kubevirt::instance;
use machinist_infra::provider::Instance;
use rstest::rstest;
use serde_json::{Value, json};

use super::super::conditions::ProgressInterval;
use super::super::disruption_budget::DisruptionBudget;
use super::super::drain::watch::{Pods, Seen};
use super::super::node_conflicts::{Item, Waits};
use super::super::plan::{Plan, Step, UserDataSource};
use super::super::record::{FailureDomain, Infrastructure};
use super::super::replacement_pace::Pace;
use super::super::snapshot::types::{
    Bootstrap, ClusterName, Disk, Eviction, Facts, Failure, FailureScope, GuestView, Infra, Losses, MassLoss,
    NodeWorkload, NotWatched, Open, RequestToJoin, SchedulableTargets, Settings, Snapshot, Spec, Unwatched,
    Usable, VmState,
};
use super::super::start_limiter::Start;
use super::super::vm_creations::Creation;
use super::decide;
use crate::bootstrap::Mode;
use crate::bootstrap::token::TokenView;
use crate::cache::{Node, StoredMachine};
use crate::runtime::recreation::Recreation;

fn engaged() -> MassLoss {
    MassLoss::Engaged(Arc::new(Losses {
        missing: 6,
        recorded: 10,
        holders: ["a", "b", "c", "d", "e"].map(|name| format!("ns/{name}")).into(),
    }))
}

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
        mass_loss: MassLoss::Released,
        vm: None,
        may_label: true,
        labeled_machine_exists: false,
        recorded_by: None,
        guest: None,
        eviction: Eviction::None,
        firmware_uuid: None,
        addresses: Vec::new(),
        proven_addresses: Vec::new(),
        address_conflicts: Vec::new(),
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
            ..GuestView::default()
        }),
        addresses: vec!["10.0.0.7".into()],
        proven_addresses: vec!["10.0.0.7".into()],
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

/// What a Node has that is being drained because its Machine is being deleted.
fn being_drained() -> Value {
    let remnant = json!({"namespace": "kube-system", "uid": "m1", "providerStatus": {"infrastructure": {
        "namespace": "vms", "server": "https://infra"}}});
    json!({
        "metadata": {"annotations": {"machinist.dev/deleting": remnant.to_string()}},
        "spec": {"unschedulable": true},
    })
}

fn observed(machine: StoredMachine, open: Open) -> Snapshot {
    Snapshot {
        machine: Arc::new(machine),
        settings: Arc::new(Settings {
            name: String::new(),
            join_timeout: None,
            external_cloud_provider: false,
            cluster_uid: "c1".into(),
            poll_interval: Duration::from_secs(30),
            progress: ProgressInterval::new(Duration::from_secs(3)),
            provisioning_timeout: None,
            approves_serving: true,
            client_approver: crate::csr::ClientApprover::Here,
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
        waits: Waits::new(),
        bootstrap: Bootstrap::Builtin,
        creation: Creation::Settled,
        token: None,
        has_spare_tokens: false,
        request_to_join: None,
        requests: Vec::new(),
        start: Start::Free,
        recreation: None,
        disruption_budget: DisruptionBudget::Alone,
        replacement_pace: Pace::Free,
        workload: NodeWorkload {
            pods: Seen::Pods(Pods::default()),
            volumes: Vec::new(),
            schedulable_targets: SchedulableTargets::Some,
            drain_slot: None,
        },
        leading_since: "2026-01-01T00:00:00Z".parse().unwrap(),
        skew: Skew::Small,
        unconfirmed_since: now(),
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
        "without it and a record, it would not be known that the guest was started"
    );
    // Another client has deleted it.
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
    o.workload.volumes = vec!["pv-1".into()];
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
        json!({"vmLoss": {"vmUID": "v1", "missedAt": NOW}}),
        "it is still on record"
    );
    // The Node may not let itself be marked, or no controller detaches them.
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
    o.workload.volumes.clear();
    o.machine = Arc::new(machine(&recorded()));
    assert!(verbs(&decide(&o, now())).contains(&"delete the Node"));
}

#[test]
fn a_guest_that_outlives_a_vm_that_vanished_keeps_its_volumes() {
    let guest = Some(GuestView {
        started: true,
        instance: Some("v1".to_owned()),
        ..GuestView::default()
    });
    let mut o = observed(machine(&recorded()), Open { guest, ..open() });
    o.node = Some(node(&json!({})));
    o.workload.volumes = vec!["pv-1".into()];
    assert_eq!(
        verbs(&decide(&o, now())),
        ["patch the Machine", "record an Event"]
    );
}

#[test]
fn a_former_vms_node_goes_before_a_vm_is_recreated() {
    let former = placed(&json!({"status": {"providerStatus": {"former": {"uid": "v0", "why": "gone"}}}}));
    let mut o = observed(machine(&former), open());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["delete the Node", "patch the Machine"]);
    o.node = None;
    assert_eq!(verbs(&decide(&o, now())), CREATE);
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
#[case::a_foreign_of_the_machines_name(json!({"spec": {"providerID": "other://x"}}))]
#[case::a_control_plane_node(json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"providerID": null}}))]
#[case::another_machines_node(json!({"metadata": {"annotations": {"cluster.k8s.io/machine": "other/web-1"}}}))]
fn a_foreign_node_gets_no_vm_and_is_left_alone(#[case] extra: Value) {
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
fn the_node_of_a_foreign_vm_is_left_alone_with_it() {
    // A Machine out of a backup, which has another UID: the VM and its Node are those of the Machine that it was.
    let theirs = vm(&json!({"metadata": {"labels": {"machinist.dev/machine-uid": "m0"}}}));
    let deleting = machine(&json!({"metadata": {"deletionTimestamp": NOW,
        "finalizers": ["machine-delete-finalizer", "machine-node-delete-finalizer"]}}));
    let foreign = Open {
        vm: Some(theirs),
        firmware_uuid: Some("abc-1".into()),
        ..running()
    };
    let mut o = observed(deleting, foreign);
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
fn a_foreign_vm_is_reported_and_left_alone() {
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
fn a_foreign_disk_keeps_the_vm_from_being_made() {
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

/// The previous VM's DataVolume goes before its claim does.
#[test]
fn the_claim_of_the_former_vm_is_waited_for_after_its_data_volume_went() {
    let owned = json!({"name": "web-1", "uid": "p1", "deletionTimestamp": NOW, "labels": {"kubevirt.io/created-by": "v0"},
        "ownerReferences": [{"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "name": "web-1", "uid": "d0", "controller": true}]});
    let disk = Disk {
        kind: "PersistentVolumeClaim",
        metadata: serde_json::from_value(owned).unwrap(),
    };
    let former = placed(&json!({"status": {"providerStatus": {"former": {"uid": "v0", "why": "gone"}}}}));
    let left = Open {
        disks: vec![disk],
        ..open()
    };
    let plan = decide(&observed(machine(&former), left.clone()), now());
    assert!(touches_nothing(&plan));
    let waits = condition(&plan, "InfrastructureReady");
    assert_eq!(waits["reason"], "WaitingForDisks", "{waits}");

    let mut deleted = former;
    deleted["metadata"]["deletionTimestamp"] = json!(NOW);
    let plan = decide(&observed(machine(&deleted), left), now());
    assert_eq!(condition(&plan, "Deleting")["reason"], "WaitingForDisks");
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], "VMDeleted");
}

#[rstest]
#[case::that_failed_before(Some("DiskImportFailing"), true, ("DiskImportFailing", "404"))]
#[case::that_copies(Some("DiskImportFailing"), false, ("ImportingDisk", "again"))]
#[case::of_which_nothing_was_reported(None, true, ("ImportingDisk", "again"))]
#[case::of_another_trouble(Some("Unschedulable"), true, ("ImportingDisk", "again"))]
fn an_import_keeps_its_cause_while_it_is_tried_again(
    #[case] stored: Option<&str>,
    #[case] is_retry: bool,
    #[case] shown: (&str, &str),
) {
    let stored = stored.map_or(json!([]), |reason| {
        json!([{"type": "InfrastructureReady", "status": "False", "reason": reason, "message": "404", "lastTransitionTime": NOW}])
    });
    let importing = Open {
        state: VmState {
            progress: true,
            is_retry,
            reason: "ImportingDisk".into(),
            message: "again".into(),
            ..VmState::default()
        },
        ..running()
    };
    let mut failing = recorded();
    failing["status"]["conditions"] = stored;
    let machine = machine(&failing);
    let view = crate::machine::phases::run(&observed(machine, importing), now());
    let condition = view
        .conditions
        .iter()
        .find(|c| c.kind == "InfrastructureReady")
        .unwrap();
    assert_eq!((condition.reason.as_str(), condition.message.as_str()), shown);
}

/// Its kubelet is not missed yet, and its pods stand still.
#[rstest]
#[case::paused("VMPaused", "Provisioning")]
#[case::that_runs("VMRunning", "Running")]
fn a_machine_with_a_ready_node_and_a_vm(#[case] reason: &str, #[case] phase: &str) {
    let on_host = Open {
        state: VmState {
            ready: reason == "VMRunning",
            reason: reason.into(),
            ..VmState::default()
        },
        ..running()
    };
    let mut o = observed(machine(&recorded()), on_host);
    o.node = Some(node(&json!({})));
    assert_eq!(patch(&decide(&o, now()))["status"]["phase"], phase);
}

/// The host is for people: it costs a write of its own only where the VM has moved to another.
#[test]
fn the_host_of_a_vm_is_recorded_and_followed() {
    let patch_on = |stored: &Value, host: &str| {
        let mut open = running();
        open.guest.as_mut().unwrap().host = Some(host.to_owned());
        let mut o = observed(machine(stored), open);
        o.node = Some(node(&json!({})));
        let plan = decide(&o, now());
        plan.steps.into_iter().find_map(|step| match step {
            Step::PatchMachine(patch) => Some(patch),
            _ => None,
        })
    };
    let mut stored = recorded();
    while let Some(patch) = patch_on(&stored, "kv-1") {
        json_patch::merge(&mut stored, &patch);
    }
    assert_eq!(stored["status"]["providerStatus"]["host"], "kv-1");
    assert_eq!(
        patch_on(&stored, "kv-2"),
        Some(json!({"status": {"providerStatus": {"host": "kv-2"}}}))
    );
    stored["status"]["phase"] = "Provisioning".into();
    assert_ne!(
        patch_on(&stored, "kv-2").unwrap(),
        json!({"status": {"providerStatus": {"host": "kv-2"}}})
    );
}

/// CDI says for a moment that it could not create a pod when its cache does not show yet that it just did.
#[rstest]
#[case::that_is_new(NOW, false)]
#[case::that_lasts("2026-01-01T11:59:55Z", true)]
fn a_cause_that_may_pass_is_reported_once_it_has_lasted(#[case] since: &str, #[case] is_reported: bool) {
    let mut starting = recorded();
    starting["status"]["conditions"] = json!([
        {"type": "InfrastructureReady", "status": "False", "reason": "VMStarting", "message": "m", "lastTransitionTime": NOW}
    ]);
    let failing = Open {
        state: VmState {
            is_unconfirmed: true,
            reason: "DiskImportFailing".into(),
            message: "ErrStartingPod".into(),
            ..VmState::default()
        },
        ..running()
    };
    let mut o = observed(machine(&starting), failing);
    o.unconfirmed_since = since.parse().unwrap();
    let plan = decide(&o, now());
    let tells = |step: &Step| match step {
        Step::PatchMachine(patch) => patch.to_string().contains("ErrStartingPod"),
        Step::Event(event) => format!("{event:?}").contains("ErrStartingPod"),
        _ => false,
    };
    assert_eq!(
        plan.steps.iter().filter(|step| tells(step)).count(),
        if is_reported { 2 } else { 0 }
    );
    assert!(plan.again.is_some() || is_reported, "it is reconciled again");
}

/// The cause is kept in the record: the condition is output only.
#[rstest]
#[case::written_by_this_version(json!({"importFailure": "404"}), json!([]), ("DiskImportFailing", "404"))]
#[case::whose_condition_says_otherwise(
    json!({"importFailure": "404"}),
    json!([{"type": "InfrastructureReady", "status": "False", "reason": "DiskImportFailing", "message": "forged"}]),
    ("DiskImportFailing", "404")
)]
fn the_cause_of_a_failed_import_is_read_from_the_record(
    #[case] progress: Value,
    #[case] conditions: Value,
    #[case] shown: (&str, &str),
) {
    let importing = |is_retry, reason: &str| Open {
        state: VmState {
            progress: true,
            is_retry,
            reason: reason.into(),
            message: "again".into(),
            ..VmState::default()
        },
        ..running()
    };
    let mut failed = recorded();
    json_patch::merge(&mut failed["status"]["providerStatus"], &progress);
    failed["status"]["conditions"] = conditions;
    let result = crate::machine::phases::run(
        &observed(machine(&failed), importing(true, "ImportingDisk")),
        now(),
    );
    let mut written = result.conditions.iter();
    let ready = written.find(|c| c.kind == "InfrastructureReady").unwrap();
    assert_eq!((ready.reason.as_str(), ready.message.as_str()), shown);
    assert!(result.progress.is_none(), "nothing changes");

    // What fails is recorded with the condition that shows it, and forgotten when the import copies.
    let plan = decide(
        &observed(machine(&recorded()), importing(false, "DiskImportFailing")),
        now(),
    );
    assert_eq!(patch(&plan)["status"]["providerStatus"]["importFailure"], "again");
    let copies = crate::machine::phases::run(
        &observed(machine(&failed), importing(false, "ImportingDisk")),
        now(),
    );
    assert_eq!(copies.progress.unwrap().import_failure, None);
}

#[test]
fn a_vanished_vm_of_a_standalone_machine_is_recreated_with_its_cause_on_record() {
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
fn the_log_is_reported_why_something_is_written() {
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
fn a_failed_write_is_shown_and_holds_the_next_try_back() {
    let mut o = observed(machine(&json!({})), open());
    let until = "2026-01-01T12:00:04Z".parse().unwrap();
    o.failure = Some(Failure {
        scope: FailureScope::Infrastructure,
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

#[rstest]
#[case::the_guest("GuestEnded", "the guest has shut down, and it is not restarted")]
#[case::a_disk("DiskFailed", "DataVolume web-1: checksum mismatch")]
fn what_cannot_heal_fails_the_machine_and_is_reported_once_and_is_taken_back_when_it_is_gone(
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
    assert_eq!(decide(&o, now()).steps, [], "reported once");

    // Another client started it again, or fixed the disk.
    o.infra = Infra::Open(Box::new(running()));
    let healed = decide(&o, now());
    let status = &patch(&healed)["status"];
    for gone in ["errorReason", "errorMessage", "failureMessage"] {
        assert_eq!(status.get(gone), Some(&Value::Null), "{gone}");
    }
    assert_eq!(status["phase"], "Provisioning");
    assert_eq!(events(&healed), 0);
}

mod deletion;
mod drain;
mod evacuation;
mod infra;
mod joining;
mod kill_points;
mod node_loss;
mod node_metadata;
mod osm;
mod replacement;
mod serving;
mod tokens;
mod upgrade;
