//! MachineDeployments (3.5).

use serde_json::{Value, json};

use super::base::{Edit, INFRA_NAMESPACE, deployment};
use super::{Keeper, Kind, Row};

const ROLLING: &str = "/spec/strategy/rollingUpdate";
const NAMESPACE_AT: &str = "/spec/template/spec/metadata/annotations/cluster.x-k8s.io~1cluster-namespace";

pub(super) fn rows() -> Vec<Row> {
    [defaults(), selectors(), rollouts(), templates(), updates()].concat()
}

fn with(pointer: &str, value: Value) -> Value {
    deployment().with(pointer, value)
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
        Row::roll_out("3.5/selector-empty", with("/spec/selector", json!({}))).blames(&["spec.selector"]),
        Row::roll_out("3.5/selector-missing", deployment().without("/spec/selector"))
            .blames(&["spec.selector"]),
        Row::roll_out(
            "3.5/selector-bad-key",
            with("/spec/selector/matchLabels/a b", json!("x")),
        )
        .blames(&["spec.selector.matchLabels"]),
        Row::roll_out(
            "3.5/selector-bad-value",
            with("/spec/selector/matchLabels/name", json!("a b")),
        )
        .blames(&["spec.selector.matchLabels"]),
        Row::roll_out("3.5/selector-In", expression("In", json!(["foo", "bar"]))),
        Row::roll_out("3.5/selector-In-without-values", expression("In", json!([])))
            .blames(&["spec.selector.matchExpressions[0].values"]),
        Row::roll_out("3.5/selector-NotIn", expression("NotIn", json!(["bar"]))),
        Row::roll_out("3.5/selector-Exists", expression("Exists", json!(null))),
        Row::roll_out(
            "3.5/selector-Exists-with-values",
            expression("Exists", json!(["foo"])),
        )
        .blames(&["spec.selector.matchExpressions[0].values"]),
        Row::roll_out(
            "3.5/selector-DoesNotExist-does-not-match",
            expression("DoesNotExist", json!([])),
        )
        .blames(&["spec.template.metadata.labels"]),
        Row::roll_out("3.5/selector-unknown-operator", expression("Is", json!(["foo"])))
            .blames(&["spec.selector.matchExpressions[0].operator"]),
        Row::roll_out(
            "3.5/selector-does-not-match",
            with("/spec/template/metadata/labels/name", json!("bar")),
        )
        .blames(&["spec.template.metadata.labels"]),
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
        Row::roll_out("3.5/replicas-negative", with("/spec/replicas", json!(-1))).blames(&["spec.replicas"]),
        Row::roll_out(
            "3.5/strategy-type",
            with("/spec/strategy/type", json!("Recreate")),
        )
        .blames(&["spec.strategy.Type"]),
        Row::roll_out("3.5/negative-unavailable", rolling(json!(-1), json!(1))).blames(&[unavailable]),
        Row::roll_out("3.5/negative-surge", rolling(json!(1), json!(-1))).blames(&[surge]),
        Row::roll_out("3.5/nonsense-surge", rolling(json!(1), json!("many"))).blames(&[surge]),
        Row::roll_out("3.5/more-than-all", rolling(json!("101%"), json!(1))).blames(&[unavailable]),
        Row::roll_out("3.5/a-number-has-no-bound", rolling(json!(101), json!(1))),
        Row::roll_out("3.5/text-is-a-percentage", rolling(json!("50"), json!(0))),
        Row::roll_out("3.5/both-zero", rolling(json!(0), json!("0%"))).blames(&[unavailable]),
        Row::roll_out(
            "3.5/negative-times-are-not-judged",
            with("/spec/minReadySeconds", json!(-1)),
        )
        .stores("/spec/minReadySeconds", json!(-1)),
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
        .blames(&["spec.template.spec.versions.kubelet"]),
        Row::roll_out(
            "3.5/template-unknown-key",
            with("/spec/template/spec/providerSpec/value/foo", json!(1)),
        )
        .blames(&["spec.template.spec.providerSpec.value.foo"]),
        Row::roll_out(
            "3.5/all-errors-at-once",
            with("/spec/replicas", json!(-1))
                .with("/spec/selector", json!({}))
                .without("/spec/template/spec/versions"),
        )
        .blames(&[
            "spec.replicas",
            "spec.selector",
            "spec.template.spec.versions.kubelet",
        ]),
    ]
}

fn updates() -> Vec<Row> {
    let broken = || deployment().without("/spec/template/spec/versions");
    let elsewhere = || with(NAMESPACE_AT, json!("elsewhere"));
    let deleting =
        |deployment: Value| deployment.with("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
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
        .blames(&["spec.template.spec.versions.kubelet"]),
        change(
            "3.5/absent-cluster-namespace-stays-absent",
            deployment(),
            deployment(),
        )
        .stores(NAMESPACE_AT, json!(null)),
        change("3.5/cluster-namespace-is-copied", elsewhere(), deployment())
            .stores(NAMESPACE_AT, json!("elsewhere")),
        change(
            "3.5/a-rollout-is-judged-on-update",
            deployment(),
            with("/spec/replicas", json!(-1)),
        )
        .blames(&["spec.replicas"]),
        change(
            "3.5/deleting-passes",
            deployment(),
            deleting(with("/spec/replicas", json!(-1))),
        )
        .kept_by(Keeper::Functions)
        .stores("/spec/strategy", json!(null)),
    ]
}
