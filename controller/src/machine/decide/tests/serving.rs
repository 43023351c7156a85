//! Requests for the serving certificate of a Machine's node, through the whole of a decision.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::super::super::snapshot::types::Asked;
use super::*;
use crate::csr::serving::Contested;

const APPROVE: &str = "approve a signing request";
const REFUSE: &str = "report a signing request";

/// What the kubelet of web-1 asks for, with that address.
fn asked(name: &str, address: &str) -> Asked {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, "system:node:web-1");
    params.subject_alt_names = vec![
        SanType::DnsName("web-1".try_into().unwrap()),
        SanType::IpAddress(address.parse().unwrap()),
    ];
    let pem = params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
        .unwrap();
    let mut request = CertificateSigningRequest::default();
    request.metadata.name = Some(name.to_owned());
    request.metadata.uid = Some(format!("uid-of-{name}"));
    request.spec.signer_name = "kubernetes.io/kubelet-serving".to_owned();
    request.spec.username = Some("system:node:web-1".to_owned());
    request.spec.groups = Some(vec!["system:nodes".to_owned(), "system:authenticated".to_owned()]);
    request.spec.usages = Some(vec!["digital signature".to_owned(), "server auth".to_owned()]);
    request.spec.request.0 = pem.replace("\r\n", "\n").into_bytes();
    Asked {
        request: Arc::new(request.into()),
        reported: Vec::new(),
    }
}

fn linked() -> Value {
    let mut linked = recorded();
    json_patch::merge(
        &mut linked,
        &json!({"status": {"providerStatus": {"nodeUID": "node-1"}}}),
    );
    linked
}

/// A joined Machine whose kubelet asks.
fn asking(asked: Asked) -> Snapshot {
    let mut o = observed(machine(&linked()), running());
    o.node = Some(node(&json!({})));
    o.requests = vec![asked];
    o
}

fn reason_of(plan: &Plan) -> Option<String> {
    let conditions = patch(plan)["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|c| c["type"] == "ServingCertificate")?;
    Some(found["reason"].as_str()?.to_owned())
}

#[test]
fn the_nodes_own_request_is_approved_and_leaves_no_condition() {
    let plan = decide(&asking(asked("csr-1", "10.0.0.7")), now());
    assert_eq!(verbs(&plan).last(), Some(&APPROVE));
    assert_eq!(reason_of(&plan), None);
}

#[test]
fn a_request_that_came_before_the_link_is_decided_with_the_link_and_after_it() {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    o.machine = Arc::new(machine(&recorded()));
    o.node = None;
    let early = decide(&o, now());
    assert!(
        !verbs(&early).contains(&APPROVE) && !verbs(&early).contains(&REFUSE),
        "{:?}",
        verbs(&early)
    );
    assert_eq!(reason_of(&early).as_deref(), Some("CertificatePending"));
    o.node = Some(node(&json!({})));
    let verbs = verbs(&decide(&o, now()));
    let link = verbs.iter().position(|verb| *verb == "patch the Machine");
    let approve = verbs.iter().position(|verb| *verb == APPROVE);
    assert!(
        link.is_some() && link < approve,
        "the UID is recorded first: {verbs:?}"
    );
}

#[test]
fn a_link_that_is_held_back_holds_the_approval_back() {
    let failure = |scope| Failure {
        scope,
        message: "no".into(),
        until: now() + Duration::from_secs(4),
        is_news: true,
    };
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    o.failure = Some(failure(FailureScope::Machine));
    assert_eq!(
        verbs(&decide(&o, now())),
        ["record an Event", APPROVE],
        "it is linked already"
    );
    o.machine = Arc::new(machine(&recorded()));
    assert_eq!(verbs(&decide(&o, now())), ["record an Event"]);
    if let Some(failure) = &mut o.failure {
        failure.is_news = false;
    }
    assert_eq!(verbs(&decide(&o, now())), [""; 0], "an Event once");
}

#[test]
fn a_node_that_does_not_take_a_label_holds_nothing_else_back() {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    let mut asking_for_a_label = recorded();
    let former = json!({"status": {"providerStatus": {"retired": {"labels": {"pool": ["a"]}}}}});
    json_patch::merge(&mut asking_for_a_label, &former);
    o.machine = Arc::new(machine(&asking_for_a_label));
    o.token = Some(token());
    let Spec::Usable(usable) = &mut o.spec else {
        unreachable!()
    };
    usable.node_metadata.labels = Some([("team".to_owned(), "a b".to_owned())].into());
    let tried = verbs(&decide(&o, now())).first().copied();
    assert_eq!(
        tried,
        Some("patch the Node"),
        "it is decorated before it is linked"
    );

    o.failure = Some(Failure {
        scope: FailureScope::Node,
        message: "cannot patch the Node: team is invalid".into(),
        until: now() + Duration::from_secs(4),
        is_news: true,
    });
    let plan = decide(&o, now());
    assert!(!verbs(&plan).contains(&"patch the Node"), "{:?}", verbs(&plan));
    assert!(
        verbs(&plan).contains(&"delete the bootstrap token"),
        "{:?}",
        verbs(&plan)
    );
    assert!(verbs(&plan).contains(&APPROVE), "{:?}", verbs(&plan));
    let status = &patch(&plan)["status"];
    assert_eq!(status["nodeRef"]["uid"], "node-1");
    assert_eq!(status["phase"], "Running");
    assert!(status["providerStatus"]["retired"].is_object(), "{status}");
    let said = condition(&plan, "NodeReady");
    assert_eq!(
        (&said["reason"], &said["message"]),
        (
            &json!("DecorationFailed"),
            &json!("cannot patch the Node: team is invalid")
        )
    );
    assert_eq!(plan.again, Some(Duration::from_secs(4)));
}

#[test]
fn the_kubelet_of_a_paused_machine_keeps_its_certificate() {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    let mut paused = linked();
    let initializers =
        json!({"metadata": {"annotations": {"machine-controller.kubermatic.io/initializers": "x"}}});
    json_patch::merge(&mut paused, &initializers);
    o.machine = Arc::new(machine(&paused));
    assert_eq!(verbs(&decide(&o, now())), [APPROVE]);
    o.requests = vec![asked("csr-1", "10.0.0.8")];
    assert_eq!(verbs(&decide(&o, now())), [REFUSE]);
    json_patch::merge(
        &mut paused,
        &json!({"metadata": {"labels": {"machine.k8s.io/controller": "another"}}}),
    );
    o.machine = Arc::new(machine(&paused));
    assert_eq!(verbs(&decide(&o, now())), [""; 0]);
}

#[rstest]
#[case::a_reference_that_is_gone(Spec::ReferenceNotFound("Secret a/b does not exist".into()), "ReferenceNotFound")]
#[case::a_spec_that_is_none(Spec::Invalid("memory is not a quantity".into()), "InvalidSpec")]
fn a_joined_machine_whose_spec_cannot_be_used_is_seen_to(#[case] spec: Spec, #[case] reason: &str) {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    o.spec = spec;
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan).last(), Some(&APPROVE), "{:?}", verbs(&plan));
    let status = &patch(&plan)["status"];
    assert_eq!(condition(&plan, "InfrastructureReady")["reason"], reason);
    assert_eq!(condition(&plan, "NodeReady")["status"], "True");
    assert_eq!(
        (&status["errorReason"], &status["phase"]),
        (&Value::Null, &json!("Running"))
    );

    // Its VM cannot be recreated.
    let Infra::Open(open) = &mut o.infra else {
        unreachable!()
    };
    open.vm = None;
    o.requests.clear();
    assert!(
        touches_nothing(&decide(&o, now())),
        "{:?}",
        verbs(&decide(&o, now()))
    );
}

#[test]
fn another_address_is_refused_reported_once_and_shown() {
    let mut o = asking(asked("csr-1", "10.0.0.8"));
    let plan = decide(&o, now());
    assert!(verbs(&plan).contains(&REFUSE) && !verbs(&plan).contains(&APPROVE));
    assert_eq!(reason_of(&plan).as_deref(), Some("CertificateRefused"));
    assert_eq!(condition(&plan, "Ready")["status"], "True", "the Node works");
    let Some(Step::RefuseServing { reason, .. }) = plan.steps.last() else {
        panic!("{:?}", verbs(&plan))
    };
    assert!(reason.contains("10.0.0.8"), "{reason}");
    o.requests[0].reported = vec![reason.clone()];
    assert!(!verbs(&decide(&o, now())).contains(&REFUSE));

    // The VM comes to have it.
    let Infra::Open(open) = &mut o.infra else {
        unreachable!()
    };
    open.addresses.push("10.0.0.8".into());
    assert!(verbs(&decide(&o, now())).contains(&APPROVE));
}

#[test]
fn an_address_in_the_machines_status_proves_nothing() {
    let mut o = asking(asked("csr-1", "10.0.0.8"));
    let mut forged = linked();
    json_patch::merge(
        &mut forged,
        &json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.8"}]}}),
    );
    o.machine = Arc::new(machine(&forged));
    assert!(verbs(&decide(&o, now())).contains(&REFUSE));
}

#[test]
fn an_address_that_another_client_has_is_checked_again() {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    let Infra::Open(open) = &mut o.infra else {
        unreachable!()
    };
    open.address_conflicts = vec![Contested {
        address: "10.0.0.7".parse().unwrap(),
        by: "Node cp-1".into(),
    }];
    let plan = decide(&o, now());
    assert!(verbs(&plan).contains(&REFUSE));
    assert!(plan.again.is_some());
}

#[rstest]
#[case::a_foreign_vm(Open { vm: Some(vm(&json!({"metadata": {"uid": "v2"}}))), ..running() })]
#[case::no_vm(open())]
#[case::a_vm_on_its_way_out(Open { vm: Some(vm(&json!({"metadata": {"deletionTimestamp": NOW}}))), ..running() })]
fn only_the_machines_own_vm_lends_its_addresses(#[case] open: Open) {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    o.infra = Infra::Open(Box::new(open));
    assert!(!verbs(&decide(&o, now())).contains(&APPROVE));
}

#[rstest]
#[case::unreachable(Infra::Unreachable("refused".into()))]
#[case::connecting(Infra::Connecting)]
fn nothing_is_approved_while_the_vm_cannot_be_seen(#[case] infra: Infra) {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    o.infra = infra;
    let plan = decide(&o, now());
    assert!(!verbs(&plan).contains(&APPROVE) && !verbs(&plan).contains(&REFUSE));
}

#[test]
fn a_foreign_node_gets_no_certificate() {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    o.node = Some(node(&json!({"spec": {"providerID": "other://x"}})));
    assert!(verbs(&decide(&o, now())).contains(&REFUSE));
}

#[test]
fn a_deleting_machines_node_gets_no_certificate() {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    let mut deleting = linked();
    json_patch::merge(&mut deleting, &json!({"metadata": {"deletionTimestamp": NOW}}));
    o.machine = Arc::new(machine(&deleting));
    let verbs = verbs(&decide(&o, now()));
    assert!(verbs.contains(&REFUSE) && !verbs.contains(&APPROVE), "{verbs:?}");
}

#[test]
fn a_machine_that_has_lost_its_name_decides_nothing() {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    o.name_winner = Some("other/web-1".into());
    let verbs = verbs(&decide(&o, now()));
    assert!(!verbs.contains(&APPROVE) && !verbs.contains(&REFUSE));
}

#[test]
fn many_requests_of_one_node_keep_no_worker_busy() {
    let mut o = asking(asked("csr-0", "10.0.0.7"));
    o.requests = (0..50).map(|n| asked(&format!("csr-{n}"), "10.0.0.8")).collect();
    let plan = decide(&o, now());
    assert_eq!(verbs(&plan).iter().filter(|verb| **verb == REFUSE).count(), 32);
}

#[test]
fn a_failed_approval_is_shown_and_holds_nothing_else_back() {
    let mut o = asking(asked("csr-1", "10.0.0.7"));
    o.machine = Arc::new(machine(&recorded()));
    o.failure = Some(Failure {
        scope: FailureScope::Certificate,
        message: "cannot approve a signing request: forbidden".into(),
        until: now() + Duration::from_secs(4),
        is_news: true,
    });
    let plan = decide(&o, now());
    assert!(!verbs(&plan).contains(&APPROVE));
    assert_eq!(reason_of(&plan).as_deref(), Some("ApprovalFailed"));
    assert_eq!(patch(&plan)["status"]["nodeRef"]["uid"], "node-1");
    assert_eq!(plan.again, Some(Duration::from_secs(4)));
}
