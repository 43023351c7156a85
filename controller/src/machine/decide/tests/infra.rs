//! Infra clusters that do not answer, are others than recorded, or have lost too much to be believed.

use super::*;

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

#[rstest]
#[case::halted(engaged())]
#[case::settling(MassLoss::Settling(Duration::from_secs(30)))]
fn vms_that_vanish_all_at_once_are_not_believed_to_be_gone(#[case] mass_loss: MassLoss) {
    for extra in [
        recorded(),
        placed(&json!({})),
        json!({}),
        json!({"metadata": {"ownerReferences": [{"kind": "MachineSet", "name": "s", "uid": "s1", "apiVersion": "v"}]}}),
    ] {
        let empty = || Open {
            mass_loss: mass_loss.clone(),
            ..open()
        };
        let mut o = observed(machine(&extra), empty());
        o.node = Some(node(&json!({})));
        let plan = decide(&o, now());
        assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
        assert_eq!(
            condition(&plan, "InfrastructureReady")["reason"],
            "InfrastructureChanged"
        );
        assert!(plan.again.is_some(), "it is polled again");

        let mut deleting = extra.clone();
        json_patch::merge(
            &mut deleting,
            &json!({"metadata": {"deletionTimestamp": NOW, "finalizers": ["machine-delete-finalizer"]}}),
        );
        let plan = decide(&observed(machine(&deleting), empty()), now());
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
    let halted = Open {
        mass_loss: engaged(),
        ..open()
    };
    assert_eq!(
        verbs(&decide(&observed(machine(&extra), halted), now()))[1..],
        CREATE[1..]
    );
}

#[test]
fn a_vm_that_is_there_lives_on_under_the_rollout_halt() {
    let o = observed(
        machine(&recorded()),
        Open {
            mass_loss: engaged(),
            ..running()
        },
    );
    let plan = decide(&o, now());
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], "VMRunning");
}

#[test]
fn a_loss_that_may_be_one_of_many_is_said_to_be_nothing_for_a_moment() {
    let settling = Open {
        mass_loss: MassLoss::Settling(Duration::from_secs(1)),
        ..open()
    };
    let mut deleting = recorded();
    json_patch::merge(&mut deleting, &json!({"metadata": {"deletionTimestamp": NOW}}));
    for extra in [recorded(), deleting] {
        let plan = decide(&observed(machine(&extra), settling.clone()), now());
        assert_eq!(verbs(&plan), Vec::<&str>::new());
        assert_eq!(plan.again, Some(Duration::from_secs(1)));
    }
}

#[test]
fn the_guard_says_who_holds_it() {
    let guarded = Open {
        mass_loss: engaged(),
        ..open()
    };
    let plan = decide(&observed(machine(&recorded()), guarded), now());
    let ready = condition(&plan, "InfrastructureReady");
    let message = ready["message"].as_str().unwrap();
    for part in [
        "6 of the 10 VMs on record",
        ": ns/a, ns/b, ns/c and 2 more.",
        "machinist.dev/accept-infrastructure=n1",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_guard_holds_no_deletion_of_a_machine_whose_vm_is_seen() {
    let mut extra = recorded();
    json_patch::merge(&mut extra, &json!({"metadata": {"deletionTimestamp": NOW}}));
    let guarded = |open| Open {
        mass_loss: engaged(),
        ..open
    };
    let plan = decide(&observed(machine(&extra), guarded(running())), now());
    assert!(
        verbs(&plan).contains(&"delete the VirtualMachine"),
        "{:?}",
        verbs(&plan)
    );
    let record = &patch(&plan)["status"]["providerStatus"];
    assert_eq!(record["vmDeleting"], true);

    // Gone by that deletion it is believed to be, and not otherwise.
    for (vm_deleting, goes) in [(true, true), (false, false)] {
        extra["status"]["providerStatus"]["vmDeleting"] = json!(vm_deleting);
        let plan = decide(&observed(machine(&extra), guarded(open())), now());
        assert_eq!(patch(&plan)["metadata"]["finalizers"] == json!([]), goes);
    }

    // Another VM of its name, or another infra cluster, says nothing of its own.
    let other = Open {
        vm: Some(vm(&json!({"metadata": {"uid": "v2"}}))),
        ..running()
    };
    extra["status"]["providerStatus"]["vmDeleting"] = json!(false);
    let plan = decide(&observed(machine(&extra), guarded(other)), now());
    assert!(touches_nothing(&plan), "{:?}", verbs(&plan));
    assert_eq!(condition(&plan, "Deleting")["reason"], "DeletionBlocked");
}

#[test]
fn what_may_not_be_watched_is_named_and_changes_nothing_else() {
    let unwatched = Some(Unwatched {
        why: NotWatched::Forbidden("list, watch virtualmachines.kubevirt.io".into()),
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
    assert!(verbs(&plan).contains(&"record an Event"), "a person is reported");
    let plan = decide(
        &observed(machine(&json!({})), Open { unwatched, ..open() }),
        now(),
    );
    assert_eq!(verbs(&plan)[1..4], CREATE[1..]);
}

#[test]
fn an_infra_cluster_with_too_many_objects_is_named_and_nothing_is_missing_for_it() {
    let unwatched = Some(Unwatched {
        why: NotWatched::TooLarge,
        unseen_disks: Vec::new(),
    });
    let running = Open {
        unwatched,
        ..running()
    };
    let plan = decide(&observed(machine(&recorded()), running), now());
    let reachable = condition(&plan, "InfrastructureReachable");
    assert_eq!(
        (&reachable["status"], &reachable["reason"]),
        (&json!("True"), &json!("CacheFull"))
    );
    let message = reachable["message"].as_str().unwrap();
    assert!(
        message.contains("--infra-cache-mib") && message.contains("every 30s"),
        "{message}"
    );
    assert!(!verbs(&plan).contains(&"delete the Machine"));
}

#[test]
fn no_vm_is_made_where_it_is_not_known_whose_the_disks_are() {
    let blind = Open {
        unwatched: Some(Unwatched {
            why: NotWatched::Forbidden("list, watch datavolumes.cdi.kubevirt.io".into()),
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
fn connecting_again_unsays_nothing() {
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
        "nor does a reference that is read again"
    );

    // What does not answer is reported, and changes nothing of what was known.
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
        "nothing reports it"
    );
    assert_eq!(
        patch(&plan)["status"].get("errorReason").unwrap_or(&Value::Null),
        &error
    );
}

#[test]
fn a_machine_whose_infra_cluster_has_no_room_to_start_waits_and_says_so_once() {
    let mut o = observed(machine(&json!({})), open());
    assert!(verbs(&decide(&o, now())).contains(&"create the VirtualMachine"));
    o.start = Start::Full {
        starting: 1500,
        own: 1400,
        limit: 2000,
    };
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan), ["patch the Machine"]);
    let said = condition(&plan, "InfrastructureReady");
    assert_eq!(said["reason"], "WaitingToStart");
    let message = said["message"].as_str().unwrap();
    assert!(
        message.starts_with("waiting: 1500 of 2000 Machines") && message.contains("1400 of them"),
        "{message}"
    );
    assert!(plan.again.is_some());
    // Whatever the number is by now.
    let reported = patch(&plan).clone();
    o.machine = Arc::new(machine(&reported));
    o.start = Start::Full {
        starting: 1999,
        own: 1,
        limit: 2000,
    };
    assert_eq!(verbs(&decide(&o, now())), Vec::<&str>::new());
    o.start = Start::Free;
    assert!(verbs(&decide(&o, now())).contains(&"create the VirtualMachine"));
}

#[test]
fn that_a_node_has_been_ready_is_recorded_with_the_write_that_reports_it() {
    let mut o = observed(machine(&recorded()), running());
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now());
    let recorded = |plan: &Plan| patch(plan)["status"]["providerStatus"]["hasBeenReady"].clone();
    assert_eq!(patch(&plan)["status"]["phase"], "Running");
    assert_eq!(recorded(&plan), true);
    // One that was Running before that was recorded is written when it is so no more, and not before.
    let mut running_before = patch(&plan).clone();
    running_before["status"]["providerStatus"]["hasBeenReady"] = Value::Null;
    let mut was = super::recorded();
    json_patch::merge(&mut was, &running_before);
    o.machine = Arc::new(machine(&was));
    let quiet = decide(&o, now());
    assert!(
        quiet
            .steps
            .iter()
            .all(|step| !matches!(step, Step::PatchMachine(_))),
        "{:?}",
        verbs(&quiet)
    );
    o.node = Some(node(
        &json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
    ));
    assert_eq!(recorded(&decide(&o, now())), true);
}
