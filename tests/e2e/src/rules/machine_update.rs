//! Updates of a Machine (3.4).

use serde_json::{Value, json};

use super::Row;
use super::base::{Edit, VALUE, annotated, machine};

const BYPASS: &str = "kubermatic.io/bypass-no-spec-mutation-requirement";
const BYPASS_AT: &str = "/metadata/annotations/kubermatic.io~1bypass-no-spec-mutation-requirement";
const VERSION: &str = "spec.versions.kubelet";
const VERSION_AT: &str = "/spec/versions/kubelet";

pub(super) fn rows() -> Vec<Row> {
    [immutability(), exceptions(), provider_ids(), leniency()].concat()
}

/// The Machine with a change of a field that admission does not compare.
fn touched(machine: Value) -> Value {
    machine.with("/spec/unknown", json!(1))
}

fn immutability() -> Vec<Row> {
    let newer = || machine().with(VERSION_AT, json!("1.34.0"));
    vec![
        Row::update("3.4/no-change", machine(), machine()),
        Row::update(
            "3.4/metadata",
            machine(),
            annotated(machine(), "a", "b").with("/metadata/labels/c", json!("d")),
        ),
        Row::update(
            "3.4/status",
            machine(),
            machine().with("/status/phase", json!("Running")),
        ),
        Row::update("3.4/version", machine(), newer())
            .rejects(&[VERSION])
            .message_contains("a Machine's spec is immutable"),
        Row::update(
            "3.4/taints",
            machine(),
            machine().with("/spec/taints", json!([{"key": "a", "effect": "NoSchedule"}])),
        )
        .rejects(&["spec.taints"]),
        Row::update(
            "3.4/inside-the-value",
            machine(),
            machine().with(&format!("{VALUE}/caPublicKey"), json!("")),
        )
        .rejects(&["spec.providerSpec.value.caPublicKey"]),
        Row::update(
            "3.4/null-inside-the-value",
            machine(),
            machine().with(&format!("{VALUE}/network"), json!(null)),
        )
        .rejects(&["spec.providerSpec.value.network"]),
        Row::update(
            "3.4/several-changes",
            machine(),
            newer().with("/spec/metadata/labels/a", json!("b")),
        )
        .rejects(&[VERSION, "spec.metadata.labels.a"]),
        Row::update(
            "3.4/null-and-absent-are-equal",
            machine().with("/spec/taints", json!(null)),
            machine(),
        ),
        Row::update(
            "3.4/empty-and-absent-are-equal",
            machine().with("/spec/taints", json!([])),
            machine(),
        ),
        Row::update(
            "3.4/creationTimestamp-null",
            machine().with("/spec/metadata/creationTimestamp", json!(null)),
            machine(),
        ),
        Row::update(
            "3.4/instants-are-equal",
            machine().with(
                "/spec/taints",
                json!([{"key": "a", "effect": "NoSchedule", "timeAdded": "2026-01-01T01:00:00+01:00"}]),
            ),
            machine().with(
                "/spec/taints",
                json!([{"key": "a", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}]),
            ),
        ),
        Row::update(
            "3.4/unknown-fields-are-not-compared",
            machine(),
            machine().with("/spec/unknown", json!(1)),
        ),
    ]
}

fn exceptions() -> Vec<Row> {
    let newer = || machine().with(VERSION_AT, json!("1.34.0"));
    let named = |name: &str| machine().with("/spec/metadata/name", json!(name));
    vec![
        Row::update("3.4/name-becomes-the-machines", named("old"), named("m")),
        Row::update("3.4/name-is-removed", named("m"), machine()),
        Row::update("3.4/name-becomes-another", named("m"), named("other")).rejects(&["spec.metadata.name"]),
        // A write that changes the spec, because the webhook is not called for others.
        Row::update("3.4/name-is-filled-in", machine(), touched(machine()))
            .stores("/spec/metadata/name", json!("m")),
        Row::update("3.4/another-stored-name-stays", named("old"), named("old"))
            .stores("/spec/metadata/name", json!("old")),
        Row::update("3.4/bypass", machine(), annotated(newer(), BYPASS, "true"))
            .stores(VERSION_AT, json!("1.34.0"))
            .stores(BYPASS_AT, json!(null)),
        Row::update(
            "3.4/bypass-must-be-true",
            machine(),
            annotated(newer(), BYPASS, "True"),
        )
        .rejects(&[VERSION]),
        Row::update(
            "3.4/bypass-is-removed-unused",
            machine(),
            annotated(machine(), BYPASS, "true"),
        )
        .stores(BYPASS_AT, json!(null)),
        Row::update(
            "3.4/bypass-does-not-stay",
            annotated(machine(), BYPASS, "true"),
            newer(),
        )
        .rejects(&[VERSION]),
        Row::update(
            "3.4/a-forged-trace-opens-nothing",
            machine(),
            annotated(newer(), "machinist.dev/spec-change", &"0".repeat(64)),
        )
        .rejects(&[VERSION]),
        Row::update(
            "3.4/bypass-judges-nothing-but-warns",
            machine(),
            annotated(machine().with(VERSION_AT, json!("x")), BYPASS, "true"),
        )
        .warns("spec.versions.kubelet: \"x\" is not a version"),
    ]
}

fn provider_ids() -> Vec<Row> {
    let id = |id: &str| machine().with("/spec/providerID", json!(id));
    vec![
        Row::update("3.4/providerID-is-set", machine(), id("kubevirt://m"))
            .stores("/spec/providerID", json!("kubevirt://m")),
        Row::update("3.4/providerID-empty-is-unset", id(""), id("kubevirt://m")),
        Row::update("3.4/providerID-is-changed", id("a"), id("b")).rejects(&["spec.providerID"]),
        Row::update(
            "3.4/providerID-is-changed-with-bypass",
            id("a"),
            annotated(id("b"), BYPASS, "true"),
        )
        .rejects(&["spec.providerID"]),
        Row::update("3.4/providerID-is-unset", id("a"), machine()).rejects(&["spec.providerID"]),
        Row::update(
            "3.4/providerID-is-unset-with-bypass",
            id("a"),
            annotated(machine(), BYPASS, "true"),
        ),
    ]
}

fn leniency() -> Vec<Row> {
    let broken = || {
        machine()
            .with(VALUE, json!({"cloudProvider": "aws", "foo": 1}))
            .without("/spec/versions")
    };
    // Fields whose types the CRD does not restrict.
    let mistyped = || {
        machine().with("/spec/metadata/labels", json!({"a": 1})).with(
            "/spec/taints",
            json!([{"key": "a", "effect": "NoSchedule", "timeAdded": "noon"}]),
        )
    };
    let deleting = || {
        machine()
            .with("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))
            .with("/metadata/finalizers", json!(["a/b"]))
    };
    vec![
        Row::update(
            "3.4/nothing-is-validated",
            broken(),
            annotated(broken(), "a", "b"),
        ),
        Row::update(
            "3.4/nothing-is-validated-where-the-spec-is-touched",
            broken(),
            touched(broken()),
        ),
        Row::update(
            "3.4/types-are-not-judged-where-they-were-stored",
            mistyped(),
            touched(mistyped()),
        ),
        Row::update(
            "3.4/without-a-spec",
            machine().without("/spec"),
            annotated(machine().without("/spec"), "a", "b"),
        ),
        Row::update(
            "3.4/a-null-spec",
            machine().with("/spec", json!(null)),
            annotated(machine().with("/spec", json!(null)), "a", "b"),
        ),
        Row::update(
            "3.4/a-null-status",
            machine().with("/status", json!(null)),
            annotated(machine().with("/status", json!(null)), "a", "b"),
        ),
        Row::update("3.4/nothing-is-defaulted", machine(), touched(machine()))
            .stores("/spec/metadata", json!({"name": "m"}))
            .stores("/spec/providerSpec/value/operatingSystemSpec", json!(null))
            .stores("/metadata/annotations", json!(null)),
        Row::update(
            "3.4/types-of-a-change",
            machine(),
            machine().with("/spec/versions/kubelet", json!(1)),
        )
        .rejects(&[VERSION]),
        Row::update(
            "3.4/deleting-metadata-and-status",
            deleting(),
            deleting()
                .with("/metadata/finalizers", json!([]))
                .with("/status/phase", json!("Deleting")),
        ),
        Row::update(
            "3.4/deleting-spec",
            deleting(),
            deleting().with(VERSION_AT, json!("1.34.0")),
        )
        .rejects(&[VERSION]),
        Row::update(
            "3.4/deleting-spec-with-bypass",
            deleting(),
            annotated(deleting().with(VERSION_AT, json!("1.34.0")), BYPASS, "true"),
        )
        .stores(VERSION_AT, json!("1.34.0")),
    ]
}
