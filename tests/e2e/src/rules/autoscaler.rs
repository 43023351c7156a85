//! Annotations of node groups for the cluster-autoscaler. One malformed size would make it ignore all groups.

use serde_json::{Value, json};

use super::base::{Edit, annotated, deployment, set};
use super::{Kind, Row};

const MIN: &str = "cluster.k8s.io/cluster-api-autoscaler-node-group-min-size";
const MAX: &str = "cluster.k8s.io/cluster-api-autoscaler-node-group-max-size";
const MIN_AT: &str = "metadata.annotations[cluster.k8s.io/cluster-api-autoscaler-node-group-min-size]";
const MAX_AT: &str = "metadata.annotations[cluster.k8s.io/cluster-api-autoscaler-node-group-max-size]";
const CPU: &str = "capacity.cluster-autoscaler.kubernetes.io/cpu";
const CPU_AT: &str = "/metadata/annotations/capacity.cluster-autoscaler.kubernetes.io~1cpu";
const MEMORY_AT: &str = "/metadata/annotations/capacity.cluster-autoscaler.kubernetes.io~1memory";
const DISK_AT: &str = "/metadata/annotations/capacity.cluster-autoscaler.kubernetes.io~1ephemeral-disk";
const WRITTEN_AT: &str = "/metadata/annotations/machinist.dev~1autoscaler-capacity";
const VM: &str = "/spec/template/spec/providerSpec/value/cloudProviderSpec/virtualMachine";

pub(super) fn rows() -> Vec<Row> {
    [sizes(), options(), capacity(), updates()].concat()
}

fn sized(object: Value, min: &str, max: &str) -> Value {
    annotated(annotated(object, MIN, min), MAX, max)
}

fn change(id: &'static str, old: Value, new: Value) -> Row {
    Row {
        old: Some(old),
        ..Row::new(id, Kind::Deployment, new)
    }
}

fn sizes() -> Vec<Row> {
    let owned = sized(set(), "x", "1").with(
        "/metadata/ownerReferences",
        json!([{"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineDeployment", "name": "d", "uid": "u"}]),
    );
    vec![
        Row::roll_out("autoscaler/a-group", sized(deployment(), "0", "5")),
        Row::roll_out("autoscaler/no-number", sized(deployment(), "one", "5")).causes(&[(
            MIN_AT,
            "\"one\" must be a whole number of at least 0, or the cluster-autoscaler would drop every node group of the cluster",
        )]),
        Row::roll_out("autoscaler/a-space", sized(deployment(), "1", "5 ")).rejects(&[MAX_AT]),
        Row::roll_out("autoscaler/below-zero", sized(deployment(), "-1", "5")).rejects(&[MIN_AT]),
        Row::roll_out("autoscaler/upside-down", sized(deployment(), "5", "1"))
            .rejects(&[MAX_AT])
            .message_contains("must not be below the minimum size 5"),
        Row::roll_out("autoscaler/no-largest", annotated(deployment(), MIN, "1")).rejects(&[MAX_AT]),
        Row::new("autoscaler/of-a-set", Kind::Set, sized(set(), "x", "1")).rejects(&[MIN_AT]),
        Row::new("autoscaler/of-a-deployments-set", Kind::Set, owned),
        Row::roll_out(
            "autoscaler/out-of-bounds",
            sized(deployment().with("/spec/replicas", json!(1)), "2", "5"),
        )
        .warns("spec.replicas: 1 is outside the limits of the cluster-autoscaler, 2 to 5"),
        Row::roll_out(
            "autoscaler/another-group",
            annotated(
                deployment(),
                "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size",
                "5",
            ),
        )
        .warns("reads cluster.k8s.io/cluster-api-autoscaler-node-group-max-size instead"),
    ]
}

fn options() -> Vec<Row> {
    let option = |option: &str, text| {
        annotated(
            deployment(),
            &format!("cluster.k8s.io/autoscaling-options-{option}"),
            text,
        )
    };
    vec![
        Row::roll_out(
            "autoscaler/option-no-duration",
            option("scaledownunneededtime", "10"),
        )
        .warns("is not a duration like 10m"),
        Row::roll_out(
            "autoscaler/option-misspelled",
            option("scaledownuneededtime", "10m"),
        )
        .warns("did you mean \"scaledownunneededtime\"?"),
    ]
}

fn capacity() -> Vec<Row> {
    let group = || sized(deployment(), "0", "5");
    vec![
        Row::roll_out("autoscaler/capacity", group())
            .stores(CPU_AT, json!("2"))
            .stores(MEMORY_AT, json!("4Gi"))
            .stores(DISK_AT, json!("10Gi")),
        Row::new("autoscaler/capacity-of-a-set", Kind::Set, sized(set(), "0", "5"))
            .stores(MEMORY_AT, json!("4Gi")),
        Row::roll_out("autoscaler/capacity-of-no-group", deployment())
            .stores("/metadata/annotations", json!(null)),
        Row::roll_out("autoscaler/capacity-by-hand", annotated(group(), CPU, "1500m"))
            .stores(CPU_AT, json!("1500m")),
        Row::roll_out("autoscaler/capacity-nonsense", annotated(group(), CPU, "four"))
            .rejects(&["metadata.annotations[capacity.cluster-autoscaler.kubernetes.io/cpu]"]),
        Row::roll_out(
            "autoscaler/capacity-unknown",
            group().with(&format!("{VM}/instancetype"), json!({"name": "standard-2"})),
        )
        .stores(CPU_AT, json!(null))
        .warns("is not known yet"),
        Row::roll_out(
            "autoscaler/capacity-behind-a-reference",
            group().with(
                &format!("{VM}/template/memory"),
                json!({"secretKeyRef": {"namespace": "kube-system", "name": "sizes", "key": "memory"}}),
            ),
        )
        .stores(CPU_AT, json!("2"))
        .stores(MEMORY_AT, json!(null))
        .warns("is not known yet"),
    ]
}

fn updates() -> Vec<Row> {
    let small = || {
        let group = annotated(sized(deployment(), "1", "5"), CPU, "2");
        annotated(group, "machinist.dev/autoscaler-capacity", r#"{"cpu":"2"}"#)
    };
    let cpus = format!("{VM}/template/cpus");
    vec![
        change(
            "autoscaler/what-was-stored-is-no-reason",
            sized(deployment(), "x", "y"),
            sized(deployment(), "x", "y").with("/spec/replicas", json!(3)),
        ),
        // The spec is unchanged, and the webhook is called nevertheless.
        change(
            "autoscaler/a-size-is-judged-on-update",
            sized(deployment().with("/spec/replicas", json!(1)), "1", "5"),
            sized(deployment().with("/spec/replicas", json!(1)), "1", "x"),
        )
        .rejects(&[MAX_AT]),
        change(
            "autoscaler/a-size-taken-away-is-judged",
            sized(deployment().with("/spec/replicas", json!(1)), "1", "5"),
            annotated(deployment().with("/spec/replicas", json!(1)), MIN, "1"),
        )
        .rejects(&[MAX_AT]),
        change(
            "autoscaler/capacity-follows",
            small(),
            small().with(&cpus, json!("4")),
        )
        .stores(CPU_AT, json!("4")),
        change(
            "autoscaler/an-amount-in-another-unit-is-no-change",
            small(),
            small().with(&cpus, json!("2000m")),
        )
        .stores(CPU_AT, json!("2")),
        change(
            "autoscaler/nothing-of-ours-is-left",
            small(),
            annotated(
                annotated(deployment().with("/spec/paused", json!(true)), CPU, "2"),
                "machinist.dev/autoscaler-capacity",
                r#"{"cpu":"2"}"#,
            ),
        )
        .stores(CPU_AT, json!(null))
        .stores(WRITTEN_AT, json!(null)),
    ]
}
