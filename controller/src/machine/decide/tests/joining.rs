//! How long a VM and its node may take, and Nodes that come again.

use super::*;

fn late() -> Timestamp {
    "2026-01-01T12:10:00Z".parse().unwrap()
}

/// With limits of ten minutes to join and five to run, counted from 12:00.
fn limited(extra: &Value, open: Open) -> Snapshot {
    let mut o = observed(machine(extra), open);
    o.token = Some(token());
    o.settings = Arc::new(Settings {
        join_timeout: Some(Duration::from_mins(10)),
        ..o.settings.as_ref().clone()
    });
    o
}

fn owned(mut extra: Value) -> Value {
    let owner = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": "web", "uid": "s1", "controller": true}]}});
    json_patch::merge(&mut extra, &owner);
    extra
}

fn stuck(reason: &str, message: &str) -> Open {
    Open {
        guest: None,
        addresses: Vec::new(),
        state: VmState {
            reason: reason.into(),
            message: message.into(),
            progress: true,
            ..VmState::default()
        },
        ..running()
    }
}

#[rstest]
#[case::while_its_guest_boots(running(), "its kubelet did not register")]
#[case::while_it_is_imported(
    stuck("DiskImporting", "42 % of web-1"),
    "hangs at DiskImporting: 42 % of web-1"
)]
#[case::while_it_is_unschedulable(
    stuck("VMUnschedulable", "Insufficient memory"),
    "hangs at VMUnschedulable: Insufficient memory"
)]
fn a_machine_that_does_not_join_in_time_names_the_stage_and_a_set_replaces_it(
    #[case] open: Open,
    #[case] stage: &str,
) {
    let early = decide(&limited(&recorded(), open.clone()), now());
    assert!(early.again.is_some_and(|d| d <= Duration::from_mins(10)));
    assert_ne!(condition(&early, "NodeReady")["reason"], "JoinTimeout");

    let plan = decide(&limited(&recorded(), open.clone()), late());
    assert_eq!(condition(&plan, "NodeReady")["reason"], "JoinTimeout");
    let message = condition(&plan, "NodeReady")["message"].as_str().unwrap();
    assert!(message.contains(stage), "{message}");
    assert_eq!(patch(&plan)["status"]["phase"], "Failed");
    assert_eq!(patch(&plan)["status"]["errorReason"], "JoinClusterTimeoutError");
    assert!(!verbs(&plan).contains(&"delete the Machine"), "it stands alone");

    let plan = decide(&limited(&owned(recorded()), open), late());
    assert!(verbs(&plan).contains(&"delete the Machine"));
}

#[rstest]
#[case::that_had_joined_before_its_node_was_deleted(json!({"status": {"providerStatus": {"nodeUID": "node-0"}}}))]
#[case::that_had_joined_as_a_former_vm(json!({"status": {"providerStatus": {"joined": true}}}))]
fn a_machine_is_not_replaced_for_being_recreated_in_place(#[case] joined: Value) {
    let mut extra = owned(recorded());
    json_patch::merge(&mut extra, &joined);
    let plan = decide(&limited(&extra, running()), late());
    assert!(
        !verbs(&plan).contains(&"delete the Machine"),
        "{:?}",
        verbs(&plan)
    );
    assert_ne!(patch(&plan)["status"]["phase"], "Failed");
}

#[test]
fn a_vanished_vm_leaves_behind_that_its_node_had_joined() {
    let mut extra = recorded();
    json_patch::merge(
        &mut extra,
        &json!({"status": {"providerStatus": {"nodeUID": "node-1"}}}),
    );
    let gone = decide(&limited(&extra, open()), now());
    json_patch::merge(&mut extra, patch(&gone));
    assert_eq!(extra["status"]["providerStatus"]["joined"], true);
    let mut other_ = limited(&extra, open());
    other_.token = None;
    let other_ = decide(&other_, now());
    assert_eq!(verbs(&other_), CREATE);
    json_patch::merge(&mut extra, patch(&other_));
    assert_eq!(
        extra["status"]["providerStatus"]["joined"], true,
        "the new VM's record keeps it"
    );
}

#[test]
fn an_adopted_vm_whose_machine_has_a_node_ref_is_not_hurried() {
    let theirs = vm(
        &json!({"metadata": {"creationTimestamp": "2026-01-01T11:59:00Z", "labels": {"machinist.dev/machine-uid": null,
        "machinist.dev/cluster-uid": null, "kubevirt.io/vm": "web-1", "cluster.x-k8s.io/role": "worker", "cluster.x-k8s.io/cluster-name": "c"}}}),
    );
    let open = Open {
        vm: Some(theirs),
        ..running()
    };
    let mut extra = owned(json!({"metadata": {"finalizers": ["machine-delete-finalizer"]},
        "status": {"nodeRef": {"kind": "Node", "name": "web-1", "uid": "node-1"}}}));
    let adopted = decide(&limited(&extra, open.clone()), late());
    json_patch::merge(&mut extra, patch(&adopted));
    let plan = decide(&limited(&extra, open), late());
    assert!(
        !verbs(&plan).contains(&"delete the Machine"),
        "{:?}",
        verbs(&plan)
    );
}

#[rstest]
#[case::that_has_just_begun("2026-01-01T12:09:00Z", "2026-01-01T12:14:00Z")]
#[case::that_leads_for_long("2026-01-01T12:01:00Z", "2026-01-01T12:10:00Z")]
fn a_machine_whose_time_was_over_without_a_leader_gets_some_from_a_leader(
    #[case] leading_since: &str,
    #[case] deadline: &str,
) {
    let mut o = limited(&owned(recorded()), running());
    o.leading_since = leading_since.parse().unwrap();
    let deadline: Timestamp = deadline.parse().unwrap();
    let plan = decide(&o, deadline - Duration::from_secs(1));
    assert!(
        !verbs(&plan).contains(&"delete the Machine"),
        "{:?}",
        verbs(&plan)
    );
    assert_eq!(plan.again, Some(Duration::from_secs(1)));
    assert!(verbs(&decide(&o, deadline)).contains(&"delete the Machine"));
    // Where less time is given altogether, there is no more of it.
    o.settings = Arc::new(Settings {
        join_timeout: Some(Duration::from_secs(20)),
        ..o.settings.as_ref().clone()
    });
    let at: Timestamp = leading_since.parse().unwrap();
    assert!(verbs(&decide(&o, at + Duration::from_secs(20))).contains(&"delete the Machine"));
}

#[test]
fn the_time_to_join_begins_with_the_vm_if_that_was_made_later() {
    let younger = Open {
        vm: Some(vm(
            &json!({"metadata": {"creationTimestamp": "2026-01-01T12:08:00Z"}}),
        )),
        ..running()
    };
    let plan = decide(&limited(&owned(recorded()), younger), late());
    assert_eq!(condition(&plan, "NodeReady")["reason"], "WaitingForNode");
    // Clocks differ: a VM from the future is from now.
    let ahead = Open {
        vm: Some(vm(
            &json!({"metadata": {"creationTimestamp": "2027-01-01T00:00:00Z"}}),
        )),
        ..running()
    };
    let plan = decide(&limited(&owned(recorded()), ahead), late());
    assert!(plan.again.is_some_and(|again| again <= Duration::from_mins(10)));
}

#[rstest]
#[case::by_the_flag(Some(5), None, true)]
#[case::not_without_it(None, None, false)]
#[case::by_the_annotation(None, Some("5m"), true)]
#[case::the_annotation_goes_before_the_flag(Some(5), Some("1h"), false)]
#[case::the_annotation_turns_it_off(Some(5), Some("off"), false)]
#[case::an_annotation_that_no_controller_can_read_turns_it_off(Some(5), Some("soon"), false)]
fn a_vm_that_does_not_run_in_time_is_replaced(
    #[case] flag: Option<u64>,
    #[case] annotation: Option<&str>,
    #[case] is_over: bool,
) {
    let mut extra = owned(recorded());
    json_patch::merge(
        &mut extra,
        &json!({"metadata": {"annotations": {"machinist.dev/provisioning-timeout": annotation}}}),
    );
    let at_six: Timestamp = "2026-01-01T12:06:00Z".parse().unwrap();
    let mut o = limited(&extra, stuck("DiskImporting", "42 %"));
    o.settings = Arc::new(Settings {
        provisioning_timeout: flag.map(Duration::from_mins),
        join_timeout: None,
        ..o.settings.as_ref().clone()
    });
    let plan = decide(&o, at_six);
    assert_eq!(
        verbs(&plan).contains(&"delete the Machine"),
        is_over,
        "{:?}",
        verbs(&plan)
    );
    let ready = condition(&plan, "InfrastructureReady");
    assert_eq!(ready["reason"] == "ProvisioningTimeout", is_over);
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("42 %"), "{message}");
    assert_eq!(
        message.contains("is ignored"),
        annotation == Some("soon"),
        "{message}"
    );

    o.infra = Infra::Open(Box::new(running()));
    let plan = decide(&o, at_six);
    assert!(!verbs(&plan).contains(&"delete the Machine"), "it runs");
}

#[test]
fn a_token_is_not_extended_beyond_the_time_to_join_and_goes_when_it_expires() {
    let mut o = limited(&recorded(), running());
    let after_half_life: Timestamp = "2026-01-01T12:20:00Z".parse().unwrap();
    let plan = decide(&o, after_half_life);
    assert_eq!(condition(&plan, "NodeReady")["reason"], "JoinTimeout");
    assert!(!verbs(&plan).contains(&"extend the bootstrap token"));
    assert!(plan.again.is_some_and(|again| again <= Duration::from_mins(10)));
    let plan = decide(&o, "2026-01-01T12:30:00Z".parse().unwrap());
    assert_eq!(
        condition(&plan, "BootstrapReady")["reason"],
        "BootstrapTokenExpired"
    );
    assert!(verbs(&plan).contains(&"delete the bootstrap token"));

    o.settings = Arc::new(Settings {
        join_timeout: None,
        ..o.settings.as_ref().clone()
    });
    assert!(verbs(&decide(&o, after_half_life)).contains(&"extend the bootstrap token"));
}

#[rstest]
#[case::that_is_imported(stuck("ImportingDisk", "42 % of web-1"))]
#[case::that_no_host_takes(stuck("Unschedulable", "Insufficient memory"))]
fn the_token_of_a_vm_that_has_not_started_lives_on_and_its_vm_is_not_recreated(#[case] open: Open) {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let mut o = limited(&recorded(), open);
    for (now, is_extended) in [("2026-01-01T12:12:00Z", false), ("2026-01-01T12:20:00Z", true)] {
        let plan = decide(&o, at(now));
        assert_eq!(condition(&plan, "NodeReady")["reason"], "JoinTimeout");
        assert_eq!(
            verbs(&plan).contains(&"extend the bootstrap token"),
            is_extended,
            "{now}"
        );
        assert!(
            is_extended || plan.again.is_some_and(|again| again <= Duration::from_mins(3)),
            "{now}"
        );
    }
    // There was no leader to extend it.
    let plan = decide(&o, at("2026-01-01T13:00:00Z"));
    assert!(
        verbs(&plan).contains(&"extend the bootstrap token"),
        "{:?}",
        verbs(&plan)
    );
    assert!(patch(&plan)["status"]["providerStatus"]["former"].is_null());

    // The guest starts, long after the time to join: it has what the token has left.
    o.token = Some(TokenView::for_test("abcdef", "m1", at("2026-01-01T13:30:00Z")));
    o.infra = Infra::Open(Box::new(running()));
    let plan = decide(&o, at("2026-01-01T13:20:00Z"));
    assert!(!verbs(&plan).contains(&"extend the bootstrap token"));
    assert_eq!(condition(&plan, "BootstrapReady")["reason"], "DataReady");
}

#[test]
fn the_token_of_a_machine_that_its_set_replaces_is_not_extended() {
    let plan = decide(
        &limited(&owned(recorded()), stuck("Unschedulable", "no")),
        "2026-01-01T12:20:00Z".parse().unwrap(),
    );
    assert!(verbs(&plan).contains(&"delete the Machine"));
    assert!(!verbs(&plan).contains(&"extend the bootstrap token"));
}

#[test]
fn a_token_that_expired_before_there_was_a_vm_is_recreated_with_it() {
    let mut o = observed(machine(&placed(&json!({}))), open());
    o.token = Some(token());
    let plan = decide(&o, "2026-01-01T13:00:00Z".parse().unwrap());
    let steps = [
        "delete the bootstrap token",
        "create the bootstrap token",
        "render the user data",
        "create the VirtualMachine",
    ];
    assert!(verbs(&plan).ends_with(&steps), "{:?}", verbs(&plan));
}

#[test]
fn a_vm_that_is_recreated_in_place_is_not_replaced_for_its_import() {
    let mut extra = owned(recorded());
    json_patch::merge(
        &mut extra,
        &json!({"status": {"providerStatus": {"joined": true}}}),
    );
    let mut o = limited(&extra, stuck("DiskImporting", "42 %"));
    o.settings = Arc::new(Settings {
        provisioning_timeout: Some(Duration::from_mins(1)),
        ..o.settings.as_ref().clone()
    });
    assert!(!verbs(&decide(&o, late())).contains(&"delete the Machine"));
}

#[test]
fn a_node_that_was_recreated_is_linked_decorated_and_reported() {
    let mut extra = recorded();
    json_patch::merge(
        &mut extra,
        &json!({"status": {"providerStatus": {"nodeUID": "node-0"}}}),
    );
    let mut o = observed(machine(&extra), running());
    let gone = decide(&o, now());
    assert_eq!(condition(&gone, "NodeReady")["reason"], "NodeDeleted");
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan),
        ["patch the Node", "patch the Machine", "record an Event"]
    );
    assert_eq!(patch(&plan)["status"]["providerStatus"]["nodeUID"], "node-1");
    let reported = plan
        .steps
        .iter()
        .any(|step| matches!(step, Step::Event(event) if event.reason == "NodeReplaced"));
    assert!(reported);
}

#[rstest]
#[case::the_vms(json!([{"type": "InternalIP", "address": "10.0.0.7"}]), false)]
#[case::one_of_several(json!([{"type": "InternalIP", "address": "10.9.9.9"}, {"type": "InternalIP", "address": "10.0.0.7"}]), false)]
#[case::none(json!([{"type": "Hostname", "address": "web-1"}]), false)]
#[case::a_former_one(json!([{"type": "InternalIP", "address": "10.0.0.3"}, {"type": "Hostname", "address": "web-1"}]), true)]
fn a_node_with_another_address_than_its_vm_says_so(#[case] addresses: Value, #[case] said: bool) {
    let mut o = observed(machine(&recorded()), running());
    o.node = Some(node(&json!({"status": {"addresses": addresses}})));
    let plan = decide(&o, now());
    assert_eq!(
        condition(&plan, "NodeReady")["status"],
        "True",
        "it is the Machine's by its providerID"
    );
    let message = condition(&plan, "NodeReady")["message"].as_str().unwrap();
    assert_eq!(
        message.contains("10.0.0.3, and the VM has 10.0.0.7"),
        said,
        "{message}"
    );
}

#[test]
fn the_time_to_join_begins_when_the_vm_was_first_seen_whatever_the_infra_clusters_clock_shows() {
    for created in ["2026-01-01T11:20:00Z", "2026-01-01T12:48:00Z"] {
        let made = Open {
            vm: Some(vm(&json!({"metadata": {"creationTimestamp": created}}))),
            ..running()
        };
        let mut extra = owned(placed(
            &json!({"status": {"providerStatus": {"bootstrapSecret": null}}}),
        ));
        let mut o = limited(&extra, made.clone());
        o.token = Some(token());
        let seen: Timestamp = "2026-01-01T12:08:00Z".parse().unwrap();
        json_patch::merge(&mut extra, patch(&decide(&o, seen)));
        assert_eq!(
            extra["status"]["providerStatus"]["vmSeen"],
            "2026-01-01T12:08:00Z"
        );
        let mut o = limited(&extra, made);
        o.token = Some(token());
        let is_over = |at: &str| verbs(&decide(&o, at.parse().unwrap())).contains(&"delete the Machine");
        assert!(!is_over("2026-01-01T12:17:59Z"), "{created}");
        assert!(is_over("2026-01-01T12:18:00Z"), "{created}");
    }
}

#[test]
fn while_it_is_not_known_whether_the_clocks_differ_no_time_to_join_is_over() {
    let mut o = limited(&owned(recorded()), running());
    assert!(verbs(&decide(&o, late())).contains(&"delete the Machine"));
    o.skew = Skew::Unknown;
    assert!(!verbs(&decide(&o, late())).contains(&"delete the Machine"));
}

#[test]
fn nothing_is_created_or_deleted_while_the_clocks_differ_by_more_than_an_hour() {
    let skewed = |extra: &Value, open: Open| {
        let mut o = limited(extra, open);
        o.skew = Skew::TooLarge(SignedDuration::from_hours(-2));
        decide(&o, late())
    };
    let launching = skewed(&json!({}), open());
    assert!(touches_nothing(&launching), "{:?}", verbs(&launching));
    let said = condition(&launching, "InfrastructureReady");
    assert_eq!(said["reason"], "ClockSkew");
    assert!(
        said["message"].as_str().unwrap().contains("120 min behind"),
        "{said}"
    );
    let running = skewed(&owned(recorded()), running());
    assert!(touches_nothing(&running), "{:?}", verbs(&running));
    let deleting =
        json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["machine-delete-finalizer"]}});
    let deleting = skewed(&deleting, open());
    assert!(touches_nothing(&deleting), "{:?}", verbs(&deleting));
    assert_eq!(condition(&deleting, "Deleting")["reason"], "ClockSkew");
}

#[rstest]
#[case::for_long("2026-01-01T11:59:00Z", true)]
#[case::for_a_moment("2026-01-01T11:59:50Z", false)]
fn a_signing_request_that_no_approver_approves_is_named(#[case] created: &str, #[case] is_named: bool) {
    let mut o = limited(&recorded(), running());
    o.request_to_join = Some(RequestToJoin {
        name: "node-csr-x".into(),
        created: created.parse().unwrap(),
    });
    let plan = decide(&o, now());
    let ready = condition(&plan, "NodeReady");
    assert_eq!(ready["reason"], "WaitingForNode");
    let message = ready["message"].as_str().unwrap();
    assert_eq!(message.contains("node-csr-x"), is_named, "{message}");
    assert!(is_named || plan.again.is_some_and(|again| again <= Duration::from_secs(20)));
}
