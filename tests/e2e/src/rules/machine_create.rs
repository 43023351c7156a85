//! Creation of a Machine: its own steps (3.3), and those of every Machine spec (3.6).

use machinist_shared::admission::Author;
use serde_json::{Value, json};

use super::Row;
use super::base::{CLOUD, Edit, INFRA_NAMESPACE, TEMPLATE, annotated, cloud, machine, value};

const BYPASS: &str = "kubermatic.io/bypass-no-spec-mutation-requirement";
const GATE: &str = "v1.kubelet-featuregates.machine-controller.kubermatic.io/RotateKubeletServerCertificate";
const GATE_AT: &str = "/metadata/annotations/v1.kubelet-featuregates.machine-controller.kubermatic.io~1RotateKubeletServerCertificate";
const EXTERNAL: &str = "v1.kubelet-flags.machine-controller.kubermatic.io/ExternalCloudProvider";
const EXTERNAL_AT: &str =
    "/metadata/annotations/v1.kubelet-flags.machine-controller.kubermatic.io~1ExternalCloudProvider";
const CONFIG: &str = "v1.kubelet-config.machine-controller.kubermatic.io/MaxPods";
const CONFIG_AT: &str = "/metadata/annotations/v1.kubelet-config.machine-controller.kubermatic.io~1MaxPods";
const OS_AT: &str = "/spec/metadata/labels/v1.machine-controller.kubermatic.io~1operating-system";
const NAMESPACE_AT: &str = "/spec/metadata/annotations/cluster.x-k8s.io~1cluster-namespace";
const REGION_AT: &str = "/spec/metadata/labels/topology.kubernetes.io~1region";
const ZONE_AT: &str = "/spec/metadata/labels/topology.kubernetes.io~1zone";
const VERSION: &str = "spec.versions.kubelet";

pub(super) fn rows() -> Vec<Row> {
    [steps(), defaults(), provider(), versions(), shapes()].concat()
}

fn steps() -> Vec<Row> {
    let generated = machine()
        .without("/metadata/name")
        .with("/metadata/generateName", json!("set-"));
    vec![
        Row::create("3.3/types", machine().with("/spec/taints", json!({}))).rejects(&["spec.taints"]),
        Row::create("3.3/bypass-is-removed", annotated(machine(), BYPASS, "true")).stores(
            "/metadata/annotations/kubermatic.io~1bypass-no-spec-mutation-requirement",
            json!(null),
        ),
        Row::create(
            "3.3/bypass-of-any-value-is-removed",
            annotated(machine(), BYPASS, "x"),
        )
        .stores(
            "/metadata/annotations/kubermatic.io~1bypass-no-spec-mutation-requirement",
            json!(null),
        ),
        Row::create("3.3/node-name", machine()).stores("/spec/metadata/name", json!("m")),
        Row::create(
            "3.3/node-name-empty",
            machine().with("/spec/metadata/name", json!("")),
        )
        .stores("/spec/metadata/name", json!("m")),
        Row::create("3.3/node-name-of-a-generated-name", generated)
            .stores("/spec/metadata/name", json!(null)),
        Row::create(
            "3.3/node-name-must-be-the-machines",
            machine().with("/spec/metadata/name", json!("other")),
        )
        .rejects(&["spec.metadata.name"]),
        Row::create(
            "3.3/name-fits-a-label",
            machine().with("/metadata/name", json!("m".repeat(64))),
        )
        .rejects(&["metadata.name"]),
        Row::create("3.3/feature-gates", machine()).stores(GATE_AT, json!("true")),
        Row::create(
            "3.3/feature-gates-are-overwritten",
            annotated(machine(), GATE, "maybe"),
        )
        .stores(GATE_AT, json!("true")),
        Row::create("3.3/external-ccm", machine()).stores(EXTERNAL_AT, json!("false")),
        Row::create(
            "3.3/external-ccm-is-overwritten",
            annotated(machine(), EXTERNAL, "true"),
        )
        .stores(EXTERNAL_AT, json!("false")),
        Row::create(
            "3.3/kubelet-config-is-the-persons",
            annotated(machine(), CONFIG, "50"),
        )
        .stores(CONFIG_AT, json!("50")),
        Row::create(
            "3.3/kubelet-config-that-is-invalid",
            annotated(machine(), CONFIG, "many"),
        )
        .rejects(&["metadata.annotations[v1.kubelet-config.machine-controller.kubermatic.io/MaxPods]"]),
        Row::create(
            "3.3/bootstrap-mode-that-is-unknown-warns",
            annotated(machine(), "machinist.dev/bootstrap", "own"),
        )
        .warns("\"own\" is not one of auto, osm, builtin"),
        Row::create(
            "3.3/timeout-without-a-unit-warns",
            annotated(machine(), "machinist.dev/node-drain-timeout", "600"),
        )
        .warns("\"600\" is not a duration like 10m or 1h30m"),
        Row::create("3.3/os-label", machine()).stores(OS_AT, json!("ubuntu")),
        Row::create(
            "3.3/os-label-is-kept",
            machine().with(
                "/spec/metadata/labels/v1.machine-controller.kubermatic.io~1operating-system",
                json!("mine"),
            ),
        )
        .stores(OS_AT, json!("mine")),
        Row::create("3.3/os-label-empty-is-kept", machine().with(OS_AT, json!(""))).stores(OS_AT, json!("")),
        Row::create("3.3/os-label-is-not-the-objects", machine()).stores("/metadata/labels", json!(null)),
    ]
}

fn defaults() -> Vec<Row> {
    let located = cloud("virtualMachine/location", json!({"region": "r", "zone": ""}));
    vec![
        Row::create("3.6/decoding", value("foo", json!(1))).rejects(&["spec.providerSpec.value.foo"]),
        Row::create("3.6/metadata-annotations", machine()).stores(NAMESPACE_AT, json!(INFRA_NAMESPACE)),
        Row::create(
            "3.6/cluster-namespace-is-overwritten",
            machine().with(
                "/spec/metadata/annotations/cluster.x-k8s.io~1cluster-namespace",
                json!("mine"),
            ),
        )
        .stores(NAMESPACE_AT, json!(INFRA_NAMESPACE)),
        Row::create(
            "3.6/metadata-annotations-null",
            machine().with("/spec/metadata/annotations", json!(null)),
        )
        .stores(NAMESPACE_AT, json!(INFRA_NAMESPACE)),
        Row::create("3.6/location-without-labels", located.clone()).stores(REGION_AT, json!(null)),
        Row::create(
            "3.6/location-with-labels",
            located.clone().with("/spec/metadata/labels", json!({})),
        )
        .stores(REGION_AT, json!("r"))
        .stores(ZONE_AT, json!(null)),
        Row::create(
            "3.6/location-overwrites",
            located.with(
                "/spec/metadata/labels/topology.kubernetes.io~1region",
                json!("mine"),
            ),
        )
        .stores(REGION_AT, json!("r")),
        Row::create("3.6/provider", value("cloudProvider", json!("aws")))
            .rejects(&["spec.providerSpec.value.cloudProvider"]),
        Row::create("3.6/os", value("operatingSystem", json!("windows")))
            .rejects(&["spec.providerSpec.value.operatingSystem"]),
        Row::create(
            "3.6/configSource",
            machine().with("/spec/configSource", json!({"configMap": {"name": "x"}})),
        )
        .rejects(&["spec.configSource"]),
        Row::create(
            "3.6/configSource-empty",
            machine().with("/spec/configSource", json!({})),
        )
        .rejects(&["spec.configSource"]),
        Row::create(
            "3.6/configSource-null",
            machine().with("/spec/configSource", json!(null)),
        ),
        Row::create("3.6/ssh-keys", value("sshPublicKeys", json!(["x"])))
            .rejects(&["spec.providerSpec.value.sshPublicKeys[0]"]),
        Row::create("3.6/all-errors-at-once", all_wrong()).rejects(&[
            "spec.configSource",
            "spec.providerSpec.value.cloudProvider",
            "spec.providerSpec.value.foo",
            "spec.providerSpec.value.operatingSystem",
            "spec.providerSpec.value.sshPublicKeys[0]",
            "spec.versions.kubelet",
        ]),
        Row::create(
            "3.6/our-sets-are-refused-for-less",
            value("sshPublicKeys", json!(["x"])),
        )
        .written_by(Author::SetController)
        .warns("spec.providerSpec.value.sshPublicKeys[0]"),
        Row::create(
            "3.6/our-sets-are-refused-for-what-cannot-be-rendered",
            value("foo", json!(1)),
        )
        .written_by(Author::SetController)
        .rejects(&["spec.providerSpec.value.foo"]),
    ]
}

/// Rules of the provider that need no infra cluster.
fn provider() -> Vec<Row> {
    vec![
        Row::create(
            "3.6/provider-wants-cpus",
            machine().without(&format!("{TEMPLATE}/cpus")),
        )
        .rejects(&["spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.cpus"]),
        Row::create(
            "3.6/provider-takes-cores-for-cpus",
            machine()
                .without(&format!("{TEMPLATE}/cpus"))
                .with(&format!("{TEMPLATE}/vcpus/cores"), json!(2)),
        ),
        Row::create(
            "3.6/provider-wants-a-nameserver",
            cloud("virtualMachine/dnsPolicy", json!("None")),
        )
        .rejects(&["spec.providerSpec.value.cloudProviderSpec.virtualMachine.dnsConfig.nameservers"]),
        Row::create(
            "3.6/provider-takes-an-instancetype-for-sizes",
            machine()
                .without(&format!("{TEMPLATE}/cpus"))
                .without(&format!("{TEMPLATE}/memory"))
                .with(
                    &format!("{CLOUD}/virtualMachine/instancetype"),
                    json!({"name": "standard-2"}),
                ),
        ),
        Row::create(
            "3.6/provider-validates",
            cloud("virtualMachine/evictionStrategy", json!("Never")),
        )
        .rejects(&["spec.providerSpec.value.cloudProviderSpec.virtualMachine.evictionStrategy"]),
    ]
}

fn all_wrong() -> Value {
    value("foo", json!(1))
        .with("/spec/providerSpec/value/cloudProvider", json!("aws"))
        .with("/spec/providerSpec/value/operatingSystem", json!("windows"))
        .with("/spec/providerSpec/value/sshPublicKeys", json!(["x"]))
        .with("/spec/versions/kubelet", json!("latest"))
        .with("/spec/configSource", json!({}))
}

fn versions() -> Vec<Row> {
    let version = |text: &str| machine().with("/spec/versions/kubelet", json!(text));
    vec![
        Row::create("3.6/version-missing", machine().without("/spec/versions")).rejects(&[VERSION]),
        Row::create("3.6/version-empty", version("")).rejects(&[VERSION]),
        Row::create(
            "3.6/version-type",
            machine().with("/spec/versions/kubelet", json!(1.33)),
        )
        .rejects(&[VERSION]),
        Row::create("3.6/version-nonsense", version("latest"))
            .rejects(&[VERSION])
            .message_contains("\"latest\""),
        Row::create("3.6/version-four-parts", version("1.33.4.5")).rejects(&[VERSION]),
        Row::create("3.6/version-capital-V", version("V1.33.4")).rejects(&[VERSION]),
        Row::create("3.6/version-major", version("1")).rejects(&[VERSION]),
        Row::create("3.6/version-leading-v", version("v1.33.4")),
        Row::create("3.6/version-without-patch", version("1.33")).rejects(&[VERSION]),
        Row::create("3.6/version-leading-zero", version("1.033.4")).rejects(&[VERSION]),
        Row::create("3.6/version-build", version("1.33.4+k3s1")),
        Row::create("3.6/version-pre-release", version("1.34.0-rc.1"))
            .rejects(&[VERSION])
            .message_contains("\">=0.0.0\""),
    ]
}

fn shapes() -> Vec<Row> {
    vec![
        Row::create("3.3/no-spec", machine().without("/spec"))
            .rejects(&["spec.providerSpec.value", "spec.versions.kubelet"]),
        Row::create("3.3/spec-null", machine().with("/spec", json!(null)))
            .rejects(&["spec.providerSpec.value", "spec.versions.kubelet"]),
        Row::create("3.3/unknown-key-elsewhere", machine().with("/spec/taint", json!([])))
            .warns("spec.taint: unknown field \"taint\", ignored; did you mean \"taints\"?"),
        Row::create("3.3/miscased-key-elsewhere", machine().with("/spec/Taints", json!([])))
            .warns("spec.Taints: unknown field \"Taints\", ignored; did you mean \"taints\"?"),
        Row::create("3.3/label-type", machine().with("/spec/metadata/labels", json!({"a": 1})))
            .rejects(&["spec.metadata.labels.a"]),
        Row::create("3.3/taints-are-not-judged", machine().with("/spec/taints", json!([{"key": "a", "effect": "NoScheduel"}])))
            .rejects(&["spec.taints[0].effect"]),
        Row::create(
            "3.3/taints-are-not-counted",
            machine().with("/spec/taints", json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoSchedule"}])),
        )
        .warns("spec.taints[1]: repeats key and effect of an earlier taint and is ignored"),
        Row::create("3.3/valueFrom-is-not-read", machine().with("/spec/providerSpec/valueFrom", json!({})))
            .warns("spec.providerSpec.valueFrom: has no effect"),
        Row::create(
            "3.3/deprecated-presets",
            cloud("affinity", json!({"podAffinityPreset": "soft", "podAntiAffinityPreset": "hard"})),
        )
        .warns("affinity.podAffinityPreset: is deprecated and has no effect")
        .warns("affinity.podAntiAffinityPreset: is deprecated and has no effect"),
        Row::create("3.3/deprecated-flavor", cloud("virtualMachine/flavor", json!({"name": "small"})))
            .warns("virtualMachine.flavor: is deprecated"),
    ]
}
