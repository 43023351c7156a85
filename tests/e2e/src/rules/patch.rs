//! The webhook's patch of the object as it was sent (3.7).

use serde_json::json;

use super::Row;
use super::base::{Edit, deployment, machine};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::create("3.7/no-spec-metadata", machine().without("/spec/metadata"))
            .stores("/spec/metadata/name", json!("m")),
        Row::roll_out(
            "3.7/no-metadata-in-the-template",
            deployment().without("/spec/template/spec/metadata"),
        )
        .stores(
            "/spec/template/spec/metadata",
            json!({"annotations": {"cluster.x-k8s.io/cluster-namespace": super::INFRA_NAMESPACE}}),
        ),
        Row::roll_out(
            "3.7/null-metadata-in-the-template",
            deployment().with("/spec/template/spec/metadata", json!(null)),
        )
        .stores(
            "/spec/template/spec/metadata",
            json!({"annotations": {"cluster.x-k8s.io/cluster-namespace": super::INFRA_NAMESPACE}}),
        ),
        Row::create(
            "3.7/empty-spec-metadata",
            machine().with("/spec/metadata", json!({})),
        )
        .stores("/spec/metadata/name", json!("m")),
        Row::create(
            "3.7/null-spec-metadata",
            machine().with("/spec/metadata", json!(null)),
        )
        .stores("/spec/metadata/name", json!("m")),
        Row::create(
            "3.7/null-labels",
            machine().with("/spec/metadata/labels", json!(null)),
        )
        .stores(
            "/spec/metadata/labels",
            json!({"v1.machine-controller.kubermatic.io/operating-system": "ubuntu"}),
        ),
        Row::create(
            "3.7/unknown-fields-survive",
            machine().with("/spec/unknown", json!({"x": [1, null]})),
        )
        .stores("/spec/unknown", json!({"x": [1, null]})),
        Row::create("3.7/nothing-is-added-without-need", machine())
            .stores("/spec/providerSpec/value/sshPublicKeys", json!(null))
            .stores("/spec/providerSpec/value/caPublicKey", json!(""))
            .stores("/spec/taints", json!(null)),
        Row::create(
            "3.7/numbers-stay-numbers",
            machine().with(
                "/spec/providerSpec/value/cloudProviderSpec/virtualMachine/template/vcpus",
                json!({"cores": 4}),
            ),
        )
        .stores(
            "/spec/providerSpec/value/cloudProviderSpec/virtualMachine/template/vcpus",
            json!({"cores": 4}),
        ),
        Row::create(
            "3.7/slashes",
            machine().with("/spec/metadata/annotations/example.com~1b", json!("c")),
        )
        .stores(
            "/spec/metadata/annotations/cluster.x-k8s.io~1cluster-namespace",
            json!(super::INFRA_NAMESPACE),
        ),
    ]
}
