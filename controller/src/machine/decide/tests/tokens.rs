//! How long bootstrap tokens live.

use super::*;

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
fn a_token_is_extended_at_half_life() {
    let mut o = observed(machine(&recorded()), running());
    o.token = Some(token());
    assert!(!verbs(&decide(&o, now())).contains(&"extend the bootstrap token"));
    let half: Timestamp = "2026-01-01T12:15:01Z".parse().unwrap();
    assert!(verbs(&decide(&o, half)).contains(&"extend the bootstrap token"));
}

/// What keeps a Machine's VM from being seen.
#[rstest]
#[case::its_infra_cluster_does_not_answer(|o: &mut Snapshot| o.infra = Infra::Unreachable("refused".into()))]
#[case::its_infra_cluster_is_being_connected_to(|o: &mut Snapshot| o.infra = Infra::Connecting)]
#[case::its_credential_is_gone(|o: &mut Snapshot| o.infra = Infra::NoCredential("no key".into()))]
#[case::another_cluster_answers(|o: &mut Snapshot| {
    o.infra = Infra::Open(Box::new(Open {
        infrastructure: Infrastructure { namespace_uid: Some("n2".into()), ..infrastructure() },
        ..open()
    }));
})]
#[case::the_rollout_halt(|o: &mut Snapshot| o.infra = Infra::Open(Box::new(Open { mass_loss: engaged(), ..open() })))]
#[case::its_spec_refers_to_nothing(|o: &mut Snapshot| o.spec = Spec::ReferenceNotFound("no Secret".into()))]
#[case::its_spec_is_being_read(|o: &mut Snapshot| o.spec = Spec::Waiting("a Secret".into()))]
#[case::its_spec_cannot_be_rendered(|o: &mut Snapshot| o.spec = Spec::Invalid("no".into()))]
fn a_token_outlives_what_keeps_its_vm_from_being_seen(#[case] unseen: fn(&mut Snapshot)) {
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
        "that cannot be judged"
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
fn a_machine_whose_vms_end_before_they_join_gets_the_next_one_after_a_pause() {
    let mut written = recorded();
    json_patch::merge(
        &mut written,
        &json!({"status": {"providerStatus": {"vmUID": null, "former": {"uid": "v1", "why": "its token is gone"}}}}),
    );
    let facts = Facts::Known(FailureDomain::default());
    let mut o = observed(machine(&written), Open { facts, ..open() });
    o.recreation = Some(Recreation {
        count: 4,
        until: now() + Duration::from_secs(4),
        ends: now() + Duration::from_mins(10),
    });
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan));
    assert_eq!(plan.again, Some(Duration::from_secs(4)));
    let said = condition(&plan, "InfrastructureReady");
    assert_eq!(said["reason"], "RecreationBackOff");
    let message = said["message"].as_str().unwrap();
    assert!(
        message.starts_with("4 VMs in a row") && message.ends_with("its token is gone"),
        "{message}"
    );
    let later = now() + Duration::from_secs(4);
    let plan = decide(&o, later);
    assert!(verbs(&plan).contains(&"create the VirtualMachine"));
    // A controller that begins after that goes on counting: with the write that precedes the VM anyway.
    let Some(Step::PatchMachine(patch)) = plan.steps.first() else {
        panic!("{:?}", verbs(&plan))
    };
    let recreation = &patch["status"]["providerStatus"]["recreation"];
    assert_eq!(*recreation, json!({"count": 5, "at": later, "former": "v1"}));
}

#[test]
fn a_kubelet_that_joins_ends_what_is_on_record_of_vms_that_did_not() {
    let mut written = recorded();
    let recreation = json!({"count": 5, "at": now(), "former": "v0"});
    written["status"]["providerStatus"]["recreation"] = recreation;
    let mut o = observed(machine(&written), running());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    let patches = plan.steps.iter().filter_map(|step| match step {
        Step::PatchMachine(patch) => Some(&patch["status"]["providerStatus"]),
        _ => None,
    });
    let patches: Vec<_> = patches.collect();
    assert_eq!(patches.len(), 1);
    assert_eq!(patches[0]["nodeUID"], "node-1");
    assert_eq!(patches[0].get("recreation"), Some(&Value::Null));
}
