//! MachineSets (4). machine-controller has no rules for them; its controller fails on objects that violate these.

use machinist_shared::admission::Author;
use serde_json::{Value, json};

use super::base::{Edit, INFRA_NAMESPACE, set};
use super::{EnforcedBy, Kind, Row};

const NAMESPACE_AT: &str = "/spec/template/spec/metadata/annotations/cluster.x-k8s.io~1cluster-namespace";
const OS_SPEC_AT: &str = "/spec/template/spec/providerSpec/value/operatingSystemSpec";
const AUTH: &str = "/spec/template/spec/providerSpec/value/cloudProviderSpec/auth";

pub(super) fn rows() -> Vec<Row> {
    [defaults(), fields(), updates(), controllers()].concat()
}

fn with(pointer: &str, value: Value) -> Value {
    set().with(pointer, value)
}

fn create(id: &'static str, set: Value) -> Row {
    Row::new(id, Kind::Set, set)
}

fn change(id: &'static str, old: Value, new: Value) -> Row {
    Row {
        old: Some(old),
        ..create(id, new)
    }
}

fn defaults() -> Vec<Row> {
    vec![
        create("4/defaults", set())
            .stores("/spec/replicas", json!(1))
            .stores(NAMESPACE_AT, json!(INFRA_NAMESPACE))
            .stores(OS_SPEC_AT, json!({"distUpgradeOnBoot": false}))
            .stores("/spec/minReadySeconds", json!(null))
            .stores("/spec/deletePolicy", json!(null)),
        create("4/zero-replicas-stay", with("/spec/replicas", json!(0))).stores("/spec/replicas", json!(0)),
    ]
}

fn fields() -> Vec<Row> {
    let policies = ["", "Random", "Newest", "Oldest"];
    let ids = [
        "4/no-policy",
        "4/policy-Random",
        "4/policy-Newest",
        "4/policy-Oldest",
    ];
    let mut rows: Vec<_> = ids
        .into_iter()
        .zip(policies)
        .map(|(id, policy)| {
            create(id, with("/spec/deletePolicy", json!(policy))).stores("/spec/deletePolicy", json!(policy))
        })
        .collect();
    rows.extend([
        create("4/policy-misspelled", with("/spec/deletePolicy", json!("oldest"))).causes(&[(
            "spec.deletePolicy",
            "\"oldest\" is not supported; allowed: \"Random\", \"Newest\", \"Oldest\"; did you mean \"Oldest\"?",
        )]),
        create("4/negative-seconds", with("/spec/minReadySeconds", json!(-1)))
            .causes(&[("spec.minReadySeconds", "-1 must not be negative")]),
        create("4/replicas-negative", with("/spec/replicas", json!(-1))).rejects(&["spec.replicas"]),
        create("4/types", with("/spec/deletePolicy", json!(1))).rejects(&["spec.deletePolicy"]),
        create("4/selector-missing", set().without("/spec/selector")).rejects(&["spec.selector"]),
        create("4/selector-empty", with("/spec/selector", json!({}))).rejects(&["spec.selector"]),
        create(
            "4/selector-does-not-match",
            with("/spec/template/metadata/labels/name", json!("bar")),
        )
        .rejects(&["spec.template.metadata.labels"]),
        create(
            "4/selector-unknown-operator",
            with(
                "/spec/selector",
                json!({"matchExpressions": [{"key": "name", "operator": "Is"}]}),
            ),
        )
        .rejects(&["spec.selector.matchExpressions[0].operator"]),
        create("4/template-is-judged", set().without("/spec/template/spec/versions"))
            .rejects(&["spec.template.spec.versions.kubelet"]),
        create("4/template-kubeconfig-nowhere", with(AUTH, json!({})))
            .enforced_by(EnforcedBy::Webhook)
            .rejects(&["spec.template.spec.providerSpec.value.cloudProviderSpec.auth.kubeconfig"]),
        create("4/a-field-of-deployments", with("/spec/paused", json!(true)))
            .warns("spec.paused: unknown field \"paused\", ignored"),
    ]);
    rows
}

fn updates() -> Vec<Row> {
    let broken = || {
        set()
            .without("/spec/template/spec/versions")
            .without("/spec/selector")
    };
    let deleting = |set: Value| {
        set.with("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))
            .with("/metadata/finalizers", json!(["a/b"]))
    };
    vec![
        change(
            "4/what-was-stored-is-no-reason",
            broken().with("/spec/deletePolicy", json!("None")),
            broken()
                .with("/spec/deletePolicy", json!("None"))
                .with("/spec/minReadySeconds", json!(5)),
        ),
        change(
            "4/a-changed-template-is-judged",
            set(),
            with("/spec/template/spec/versions/kubelet", json!("x")),
        )
        .rejects(&["spec.template.spec.versions.kubelet"]),
        change(
            "4/a-number-unknown-stays-unknown",
            set(),
            with("/spec/minReadySeconds", json!(5)),
        )
        .stores("/spec/replicas", json!(null)),
        change(
            "4/a-number-that-is-left-out-is-one",
            with("/spec/replicas", json!(3)),
            set(),
        )
        .stores("/spec/replicas", json!(1)),
        change(
            "4/absent-cluster-namespace-stays-absent",
            set(),
            with("/spec/minReadySeconds", json!(5)),
        )
        .stores(NAMESPACE_AT, json!(null)),
        change(
            "4/cluster-namespace-is-copied",
            with(NAMESPACE_AT, json!("elsewhere")),
            with("/spec/minReadySeconds", json!(5)),
        )
        .stores(NAMESPACE_AT, json!("elsewhere")),
        change(
            "4/deleting-passes",
            deleting(set()),
            deleting(broken()).with("/spec/deletePolicy", json!("None")),
        )
        .stores("/spec/deletePolicy", json!("None"))
        .stores("/spec/replicas", json!(null)),
    ]
}

fn controllers() -> Vec<Row> {
    let old = |set: Value| set.with("/spec/replicas", json!(1));
    vec![
        // A deployment's template is copied into its set without a change. Otherwise both would always differ.
        create("4/our-controller-copies", old(set()))
            .written_by(Author::SetController)
            .stores(NAMESPACE_AT, json!(null))
            .stores(OS_SPEC_AT, json!(null)),
        change(
            "4/our-controller-takes-away",
            old(with(NAMESPACE_AT, json!("elsewhere"))),
            old(set()),
        )
        .written_by(Author::SetController)
        .stores(NAMESPACE_AT, json!(null)),
        create(
            "4/our-controller-heals",
            old(with("/spec/template/spec/versions/kubelet", json!("1.34.0-rc.1")))
                .with("/spec/minReadySeconds", json!(-1))
                .with("/spec/template/spec/configSource", json!({})),
        )
        .written_by(Author::SetController)
        .warns("spec.template.spec.versions.kubelet")
        .warns("spec.minReadySeconds"),
        create(
            "4/our-controller-makes-nothing-of-nonsense",
            old(set().without("/spec/template/spec/versions")),
        )
        .written_by(Author::SetController)
        .rejects(&["spec.template.spec.versions.kubelet"]),
    ]
}
