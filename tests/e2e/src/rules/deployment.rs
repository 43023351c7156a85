//! MachineDeployments (3.5).

use serde_json::{Value, json};

use super::base::{Edit, INFRA_NAMESPACE, deployment};
use super::{EnforcedBy, Kind, Row};

const ROLLING: &str = "/spec/strategy/rollingUpdate";
const NAMESPACE_AT: &str = "/spec/template/spec/metadata/annotations/cluster.x-k8s.io~1cluster-namespace";

const VALUE: &str = "/spec/template/spec/providerSpec/value";
const REGION_AT: &str = "/spec/template/spec/metadata/labels/topology.kubernetes.io~1region";

pub(super) fn rows() -> Vec<Row> {
    [defaults(), selectors(), rollouts(), templates(), updates()].concat()
}

fn with(pointer: &str, value: Value) -> Value {
    deployment().with(pointer, value)
}

/// In a region.
fn located() -> Value {
    with(
        &format!("{VALUE}/cloudProviderSpec/virtualMachine/location"),
        json!({"region": "r"}),
    )
}

fn change(id: &'static str, old: Value, new: Value) -> Row {
    Row {
        old: Some(old),
        ..Row::new(id, Kind::Deployment, new)
    }
}

fn defaults() -> Vec<Row> {
    vec![
        Row::roll_out("3.5/defaults", deployment())
            .stores("/spec/replicas", json!(1))
            .stores("/spec/minReadySeconds", json!(0))
            .stores("/spec/revisionHistoryLimit", json!(1))
            .stores("/spec/progressDeadlineSeconds", json!(600))
            .stores(
                "/spec/strategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
            ),
        Row::roll_out(
            "3.5/null-is-defaulted",
            with("/spec/replicas", json!(null))
                .with("/spec/strategy", json!({"type": "", "rollingUpdate": null})),
        )
        .stores("/spec/replicas", json!(1))
        .stores(
            "/spec/strategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        ),
        Row::roll_out(
            "3.5/a-deadline-before-anything-is-ready",
            with("/spec/minReadySeconds", json!(600)),
        )
        .warns("spec.progressDeadlineSeconds"),
        Row::roll_out("3.5/paused-stays", with("/spec/paused", json!(true)))
            .stores("/spec/paused", json!(true)),
        Row::roll_out("3.5/paused-is-not-written", deployment()).stores("/spec/paused", json!(null)),
        Row::roll_out("3.5/zero-replicas-stay", with("/spec/replicas", json!(0)))
            .stores("/spec/replicas", json!(0)),
        Row::roll_out(
            "3.5/a-percentage-stays",
            with(ROLLING, json!({"maxSurge": "50%"})),
        )
        .stores(ROLLING, json!({"maxSurge": "50%", "maxUnavailable": 0})),
        Row::roll_out("3.5/no-annotations-of-machines", deployment())
            .stores("/metadata/annotations", json!(null)),
        Row::roll_out("3.5/no-os-label", deployment())
            .stores("/spec/template/spec/metadata/labels", json!(null)),
    ]
}

fn selectors() -> Vec<Row> {
    let expression = |operator: &str, values: Value| {
        with(
            "/spec/selector",
            json!({"matchExpressions": [{"key": "name", "operator": operator, "values": values}]}),
        )
    };
    vec![
        Row::roll_out("3.5/selector-empty", with("/spec/selector", json!({}))).rejects(&["spec.selector"]),
        Row::roll_out("3.5/selector-missing", deployment().without("/spec/selector"))
            .rejects(&["spec.selector"]),
        Row::roll_out(
            "3.5/selector-bad-key",
            with("/spec/selector/matchLabels/a b", json!("x")),
        )
        .rejects(&["spec.selector.matchLabels"]),
        Row::roll_out(
            "3.5/selector-expression-bad-key",
            with(
                "/spec/selector/matchExpressions",
                json!([{"key": "a b", "operator": "DoesNotExist"}]),
            ),
        )
        .rejects(&["spec.selector.matchExpressions[0].key"]),
        Row::roll_out(
            "3.5/selector-expression-bad-value",
            expression("In", json!(["foo", "a b"])),
        )
        .rejects(&["spec.selector.matchExpressions[0].values[1]"]),
        Row::roll_out(
            "3.5/template-without-labels",
            deployment().without("/spec/template/metadata"),
        )
        .rejects(&["spec.template.metadata.labels"]),
        Row::roll_out(
            "3.5/selector-bad-value",
            with("/spec/selector/matchLabels/name", json!("a b")),
        )
        .rejects(&["spec.selector.matchLabels"]),
        Row::roll_out("3.5/selector-In", expression("In", json!(["foo", "bar"]))),
        Row::roll_out("3.5/selector-In-without-values", expression("In", json!([])))
            .rejects(&["spec.selector.matchExpressions[0].values"]),
        Row::roll_out("3.5/selector-NotIn", expression("NotIn", json!(["bar"]))),
        Row::roll_out(
            "3.5/selector-NotIn-without-values",
            expression("NotIn", json!([])),
        )
        .rejects(&["spec.selector.matchExpressions[0].values"]),
        Row::roll_out(
            "3.5/selector-NotIn-does-not-match",
            expression("NotIn", json!(["foo"])),
        )
        .rejects(&["spec.template.metadata.labels"]),
        Row::roll_out("3.5/selector-Exists", expression("Exists", json!(null))),
        Row::roll_out(
            "3.5/selector-Exists-with-values",
            expression("Exists", json!(["foo"])),
        )
        .rejects(&["spec.selector.matchExpressions[0].values"]),
        Row::roll_out(
            "3.5/selector-DoesNotExist-does-not-match",
            expression("DoesNotExist", json!([])),
        )
        .rejects(&["spec.template.metadata.labels"]),
        Row::roll_out(
            "3.5/selector-DoesNotExist-with-values",
            with(
                "/spec/selector",
                json!({
                    "matchLabels": {"name": "foo"},
                    "matchExpressions": [{"key": "other", "operator": "DoesNotExist", "values": ["foo"]}],
                }),
            ),
        )
        .rejects(&["spec.selector.matchExpressions[0].values"]),
        Row::roll_out("3.5/selector-unknown-operator", expression("Is", json!(["foo"])))
            .rejects(&["spec.selector.matchExpressions[0].operator"]),
        Row::roll_out(
            "3.5/selector-does-not-match",
            with("/spec/template/metadata/labels/name", json!("bar")),
        )
        .rejects(&["spec.template.metadata.labels"]),
    ]
}

fn rollouts() -> Vec<Row> {
    let rolling = |unavailable: Value, surge: Value| {
        with(ROLLING, json!({"maxUnavailable": unavailable, "maxSurge": surge}))
    };
    let (unavailable, surge) = (
        "spec.strategy.rollingUpdate.maxUnavailable",
        "spec.strategy.rollingUpdate.maxSurge",
    );
    vec![
        // The API server's scale subresource reports this before any webhook, and only this.
        Row::roll_out("3.5/replicas-negative", with("/spec/replicas", json!(-1))).rejects(&["spec.replicas"]),
        Row::roll_out(
            "3.5/strategy-type",
            with("/spec/strategy/type", json!("Recreate")),
        )
        .rejects(&["spec.strategy.type"]),
        Row::roll_out(
            "3.5/strategy-misspelled",
            with("/spec/strategy/type", json!("OnDelet")),
        )
        .causes(&[(
            "spec.strategy.type",
            "\"OnDelet\" is not supported; allowed: \"RollingUpdate\", \"OnDelete\"; did you mean \"OnDelete\"?",
        )]),
        Row::roll_out(
            "3.5/on-delete-rolls-nothing",
            with(
                "/spec/strategy",
                json!({"type": "OnDelete", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            ),
        )
        .stores("/spec/strategy/type", json!("OnDelete")),
        Row::roll_out(
            "3.5/on-delete-has-no-pace",
            with("/spec/strategy", json!({"type": "OnDelete"})),
        )
        .stores("/spec/strategy", json!({"type": "OnDelete"})),
        Row::roll_out("3.5/negative-unavailable", rolling(json!(-1), json!(1))).rejects(&[unavailable]),
        Row::roll_out("3.5/negative-surge", rolling(json!(1), json!(-1))).rejects(&[surge]),
        Row::roll_out("3.5/nonsense-surge", rolling(json!(1), json!("many"))).rejects(&[surge]),
        Row::roll_out("3.5/nonsense-unavailable", rolling(json!("x%"), json!(1))).rejects(&[unavailable]),
        Row::roll_out("3.5/all", rolling(json!("100%"), json!(1))),
        Row::roll_out("3.5/a-surge-has-no-bound", rolling(json!(0), json!("200%"))),
        Row::roll_out("3.5/more-than-all", rolling(json!("101%"), json!(1))).rejects(&[unavailable]),
        Row::roll_out("3.5/a-number-has-no-bound", rolling(json!(101), json!(1))),
        Row::roll_out("3.5/text-is-a-percentage", rolling(json!("50"), json!(0))),
        Row::roll_out("3.5/text-beyond-a-percentage", rolling(json!("101"), json!(1))).rejects(&[unavailable]),
        Row::roll_out("3.5/types", with("/spec/replicas", json!("3"))).rejects(&["spec.replicas"]),
        Row::roll_out("3.5/both-zero", rolling(json!(0), json!("0%"))).rejects(&[unavailable]),
        Row::roll_out(
            "3.5/negative-times-are-not-judged",
            with("/spec/minReadySeconds", json!(-1))
                .with("/spec/revisionHistoryLimit", json!(-1))
                .with("/spec/progressDeadlineSeconds", json!(-1)),
        )
        .stores("/spec/minReadySeconds", json!(-1))
        .stores("/spec/revisionHistoryLimit", json!(-1))
        .stores("/spec/progressDeadlineSeconds", json!(-1)),
        Row::roll_out(
            "3.5/names-are-not-judged",
            with("/metadata/name", json!("d".repeat(80))),
        ),
    ]
}

fn templates() -> Vec<Row> {
    vec![
        Row::roll_out("3.5/template-as-kubectl-sends-it", deployment())
            .stores(NAMESPACE_AT, json!(INFRA_NAMESPACE)),
        Row::roll_out("3.5/template-os-spec", deployment()).stores(
            "/spec/template/spec/providerSpec/value/operatingSystemSpec",
            json!({"distUpgradeOnBoot": false}),
        ),
        Row::roll_out(
            "3.5/template-version",
            deployment().without("/spec/template/spec/versions"),
        )
        .rejects(&["spec.template.spec.versions.kubelet"]),
        Row::roll_out(
            "3.5/template-unknown-key",
            with("/spec/template/spec/providerSpec/value/foo", json!(1)),
        )
        .rejects(&["spec.template.spec.providerSpec.value.foo"]),
        Row::roll_out(
            "3.5/template-has-all-shared-steps",
            with("/spec/template/spec/versions/kubelet", json!("1.34.0-rc.1"))
                .with("/spec/template/spec/configSource", json!({}))
                .with(&format!("{VALUE}/cloudProvider"), json!("aws"))
                .with(&format!("{VALUE}/operatingSystem"), json!("windows"))
                .with(&format!("{VALUE}/sshPublicKeys"), json!(["x"])),
        )
        .rejects(&[
            "spec.template.spec.configSource",
            "spec.template.spec.providerSpec.value.cloudProvider",
            "spec.template.spec.providerSpec.value.operatingSystem",
            "spec.template.spec.providerSpec.value.sshPublicKeys[0]",
            "spec.template.spec.versions.kubelet",
        ]),
        Row::roll_out(
            "3.5/template-provider-validates",
            with(
                &format!("{VALUE}/cloudProviderSpec/virtualMachine/evictionStrategy"),
                json!("Never"),
            ),
        )
        .rejects(&[
            "spec.template.spec.providerSpec.value.cloudProviderSpec.virtualMachine.evictionStrategy",
        ]),
        Row::roll_out(
            "3.5/template-kubeconfig-nowhere",
            with(&format!("{VALUE}/cloudProviderSpec/auth"), json!({})),
        )
        .enforced_by(EnforcedBy::Webhook)
        .rejects(&["spec.template.spec.providerSpec.value.cloudProviderSpec.auth.kubeconfig"]),
        Row::roll_out(
            "3.5/template-miscased-keys-are-respelt",
            with(&format!("{VALUE}/CAPublicKey"), json!("x")),
        )
        .stores("/spec/template/spec/providerSpec/value/caPublicKey", json!("x"))
        .stores("/spec/template/spec/providerSpec/value/CAPublicKey", json!(null)),
        Row::roll_out(
            "3.5/template-topology",
            located().with("/spec/template/spec/metadata/labels", json!({})),
        )
        .stores(REGION_AT, json!("r")),
        Row::roll_out("3.5/template-topology-without-labels", located()).stores(REGION_AT, json!(null)),
        Row::roll_out(
            "3.5/template-unknown-key-elsewhere",
            with("/spec/template/spec/taint", json!([])),
        )
        .warns("spec.template.spec.taint: unknown field"),
        Row::roll_out(
            "3.5/all-errors-at-once",
            with("/spec/strategy/type", json!("Recreate"))
                .with("/spec/selector", json!({}))
                .without("/spec/template/spec/versions"),
        )
        .rejects(&[
            "spec.strategy.type",
            "spec.selector",
            "spec.template.spec.versions.kubelet",
        ]),
    ]
}

fn updates() -> Vec<Row> {
    let broken = || deployment().without("/spec/template/spec/versions");
    let elsewhere = || with(NAMESPACE_AT, json!("elsewhere"));
    let recreated = || with("/spec/strategy/type", json!("Recreate"));
    let nowhere = || with(&format!("{VALUE}/cloudProviderSpec/auth"), json!({}));
    let deleting = |deployment: Value| {
        deployment
            .with("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))
            .with("/metadata/finalizers", json!(["a/b"]))
    };
    vec![
        change(
            "3.5/unchanged-template-is-not-judged",
            broken(),
            broken().with("/spec/replicas", json!(3)),
        ),
        change(
            "3.5/changed-template-is-judged",
            deployment(),
            with("/spec/template/spec/versions/kubelet", json!("x")),
        )
        .rejects(&["spec.template.spec.versions.kubelet"]),
        change(
            "3.5/defaults-on-update",
            deployment(),
            with("/spec/paused", json!(true)),
        )
        .stores("/spec/replicas", json!(1)),
        change(
            "3.5/what-was-stored-is-no-reason",
            recreated(),
            recreated().with("/spec/paused", json!(true)),
        ),
        change(
            "3.5/a-kubeconfig-that-stays-nowhere",
            nowhere(),
            nowhere().with("/spec/template/metadata/labels/a", json!("b")),
        ),
        change(
            "3.5/absent-topology-stays-absent",
            located().with("/spec/template/spec/metadata/labels", json!({})),
            located()
                .with("/spec/template/spec/metadata/labels", json!({}))
                .with("/spec/paused", json!(true)),
        )
        .stores(REGION_AT, json!(null)),
        change(
            "3.5/another-location-is-followed",
            deployment(),
            located().with("/spec/template/spec/metadata/labels", json!({})),
        )
        .stores(REGION_AT, json!("r")),
        change(
            "3.5/absent-cluster-namespace-stays-absent",
            deployment(),
            with("/spec/replicas", json!(3)),
        )
        .stores(NAMESPACE_AT, json!(null)),
        change("3.5/cluster-namespace-is-copied", elsewhere(), deployment())
            .stores(NAMESPACE_AT, json!("elsewhere")),
        change("3.5/a-rollout-is-judged-on-update", deployment(), recreated())
            .rejects(&["spec.strategy.type"]),
        change(
            "3.5/deleting-passes",
            deleting(deployment()),
            deleting(recreated()),
        )
        .stores("/spec/strategy", json!({"type": "Recreate"}))
        .stores("/spec/minReadySeconds", json!(null)),
    ]
}
