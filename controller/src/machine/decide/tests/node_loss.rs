//! Nodes that are lost for good: the guest ended, or the Node was deleted and does not come back.

use super::*;

const TIMEOUT: Duration = Duration::from_mins(10);

fn joined(owner: &Value) -> Value {
    let mut extra = recorded();
    json_patch::merge(
        &mut extra,
        &json!({
            "metadata": {"ownerReferences": owner},
            "status": {"providerStatus": {"nodeUID": "node-1", "hasBeenReady": true}},
        }),
    );
    extra
}

fn of_a_set() -> Value {
    joined(
        &json!([{"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineSet", "name": "web", "uid": "s1", "controller": true}]),
    )
}

fn lost(extra: &Value, ended: bool) -> Snapshot {
    let mut open = running();
    if ended {
        open.state = VmState {
            terminal: true,
            reason: "GuestEnded".into(),
            message: "the guest has shut down".into(),
            ..VmState::default()
        };
    }
    let mut o = observed(machine(extra), open);
    if ended {
        let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        o.node = Some(node(&not_ready));
    }
    o.settings = Arc::new(Settings {
        join_timeout: Some(TIMEOUT),
        ..o.settings.as_ref().clone()
    });
    o
}

/// The same after what was decided has been written.
fn after(extra: &Value, plan: &Plan, ended: bool) -> Snapshot {
    let mut extra = extra.clone();
    json_patch::merge(&mut extra, patch(plan));
    lost(&extra, ended)
}

fn is_deleted(plan: &Plan) -> bool {
    verbs(plan).contains(&"delete the Machine")
}

#[rstest]
#[case::its_guest_ended(true, "InfrastructureReady", "GuestEnded", "GuestLost")]
#[case::its_node_was_deleted(false, "NodeReady", "NodeDeleted", "NodeLost")]
fn a_machine_of_a_set_is_replaced_after_the_join_timeout_and_its_template_is_not_counted_as_failed(
    #[case] ended: bool,
    #[case] kind: &str,
    #[case] reason: &str,
    #[case] event: &str,
) {
    let extra = of_a_set();
    let seen = decide(&lost(&extra, ended), now());
    assert_eq!(condition(&seen, kind)["reason"], reason);
    let message = condition(&seen, kind)["message"].as_str().unwrap();
    assert!(
        message.contains("replaces the Machine if this lasts for 600 s"),
        "{message}"
    );
    assert_eq!(
        patch(&seen)["status"]["providerStatus"]["nodeLoss"]["missedAt"],
        NOW
    );
    assert!(!is_deleted(&seen));
    assert!(seen.again.is_some_and(|again| again <= TIMEOUT));

    let o = after(&extra, &seen, ended);
    assert!(!is_deleted(&decide(&o, now() + TIMEOUT - Duration::from_secs(1))));
    let plan = decide(&o, now() + TIMEOUT);
    assert!(is_deleted(&plan), "{:?}", verbs(&plan));
    let noted = plan
        .steps
        .iter()
        .any(|step| matches!(step, Step::NoteFailure { .. }));
    assert!(!noted, "its template has worked");
    let reported = |step: &Step| matches!(step, Step::Event(e) if e.reason == event);
    assert!(plan.steps.iter().any(reported));
    let error = patch(&plan)["status"]["failureMessage"].as_str().unwrap();
    assert!(error.ends_with("for 600 s"), "{error}");
}

#[rstest]
#[case::it_stands_alone(joined(&Value::Null), Some(TIMEOUT))]
#[case::there_is_no_timeout(of_a_set(), None)]
fn a_machine_stays(
    #[case] extra: Value,
    #[case] join_timeout: Option<Duration>,
    #[values(true, false)] ended: bool,
) {
    let set = |mut o: Snapshot| {
        o.settings = Arc::new(Settings {
            join_timeout,
            ..o.settings.as_ref().clone()
        });
        o
    };
    let seen = decide(&set(lost(&extra, ended)), now());
    let plan = decide(&set(after(&extra, &seen, ended)), now() + 100 * TIMEOUT);
    assert!(!is_deleted(&plan) && !is_deleted(&seen));
    assert_eq!(patch(&seen).pointer("/status/providerStatus/nodeLoss"), None);
}

#[rstest]
#[case::its_guest_is_started_again(true)]
#[case::its_kubelet_registers_again(false)]
fn a_node_that_is_back_is_not_lost_any_more(#[case] ended: bool) {
    let extra = of_a_set();
    let mut o = after(&extra, &decide(&lost(&extra, ended), now()), ended);
    o.infra = Infra::Open(Box::new(running()));
    o.node = Some(node(&json!({})));
    let plan = decide(&o, now() + 2 * TIMEOUT);
    assert!(!is_deleted(&plan), "{:?}", verbs(&plan));
    assert_eq!(patch(&plan)["status"]["providerStatus"]["nodeLoss"], Value::Null);
    assert!(
        patch(&plan)["status"]["providerStatus"]
            .as_object()
            .unwrap()
            .contains_key("nodeLoss")
    );
}

#[test]
fn one_of_many_that_are_lost_waits_for_the_others() {
    let extra = of_a_set();
    let mut o = after(&extra, &decide(&lost(&extra, false), now()), false);
    o.replacement_pace = Pace::Full {
        lost: 30,
        under_way: 4,
    };
    let plan = decide(&o, now() + 2 * TIMEOUT);
    assert!(!is_deleted(&plan));
    let message = condition(&plan, "NodeReady")["message"].as_str().unwrap();
    assert!(
        message.contains("30 nodes are lost") && message.contains("delete the Machine"),
        "{message}"
    );
    assert!(plan.again.is_some());
}

#[test]
fn a_loss_that_no_controller_saw_gets_some_time_from_a_new_leader() {
    let extra = of_a_set();
    let mut o = after(&extra, &decide(&lost(&extra, false), now()), false);
    o.leading_since = now() + TIMEOUT;
    assert!(!is_deleted(&decide(&o, now() + TIMEOUT + Duration::from_secs(1))));
    assert!(is_deleted(&decide(&o, now() + TIMEOUT + Duration::from_mins(5))));
}
