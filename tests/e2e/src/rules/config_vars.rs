//! Values that are inline or come from a Secret or ConfigMap (2.3).

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::base::{cloud, template};
use super::{EnforcedBy, Row};

const CPUS: &str = "spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.cpus";
const CPUS_VALUE: &str = "spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.cpus.value";
const CPUS_NAME: &str =
    "spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.cpus.secretKeyRef.name";
const CPUS_SECRET: &str =
    "spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.cpus.secretKeyRef";
const QUEUES: &str = "spec.providerSpec.value.cloudProviderSpec.virtualMachine.enableNetworkMultiQueue";
const QUEUES_VALUE: &str =
    "spec.providerSpec.value.cloudProviderSpec.virtualMachine.enableNetworkMultiQueue.value";
const KUBECONFIG: &str = "spec.providerSpec.value.cloudProviderSpec.auth.kubeconfig";

pub(super) fn rows() -> Vec<Row> {
    [strings(), booleans(), kubeconfigs()].concat()
}

fn strings() -> Vec<Row> {
    let complete = json!({"namespace": "a", "name": "b", "key": "c"});
    let all_keys = json!({
        "namespace": "a", "name": "b", "key": "c", "kind": "Secret", "uid": "u", "apiVersion": "v1",
        "resourceVersion": "1", "fieldPath": "x",
    });
    vec![
        Row::create("2.3/a-string", template("cpus", json!("500m"))),
        Row::create("2.3/a-number-is-its-text", template("cpus", json!(2))).stores(
            "/spec/providerSpec/value/cloudProviderSpec/virtualMachine/template/cpus",
            json!(2),
        ),
        Row::create(
            "2.3/a-boolean-is-its-text",
            template("primaryDisk/storageTarget", json!(true)),
        ),
        Row::create("2.3/a-bad-text-of-a-boolean", template("cpus", json!(true))).rejects(&[CPUS]),
        Row::create("2.3/an-object", template("cpus", json!({"value": "2"}))),
        Row::create("2.3/null-is-absent", template("cpus", json!(null))).rejects(&[CPUS]),
        Row::create("2.3/a-list", template("cpus", json!(["2"]))).rejects(&[CPUS]),
        Row::create(
            "2.3/a-number-in-the-object",
            template("cpus", json!({"value": 2})),
        )
        .rejects(&[CPUS, CPUS_VALUE])
        .message_contains("must be a string, not a number"),
        Row::create(
            "2.3/a-secret",
            template("cpus", json!({"secretKeyRef": complete})),
        ),
        Row::create(
            "2.3/a-config-map",
            template("cpus", json!({"configMapKeyRef": complete})),
        ),
        Row::create(
            "2.3/both-references",
            template(
                "cpus",
                json!({"secretKeyRef": complete, "configMapKeyRef": complete}),
            ),
        ),
        Row::create("2.3/an-empty-object", template("cpus", json!({}))).rejects(&[CPUS]),
        Row::create(
            "2.3/a-null-reference",
            template("cpus", json!({"value": "2", "secretKeyRef": null})),
        ),
        Row::create(
            "2.3/all-keys-of-a-reference",
            template("cpus", json!({"secretKeyRef": all_keys})),
        ),
        Row::create(
            "2.3/a-reference-wins",
            template("cpus", json!({"value": "no quantity", "secretKeyRef": complete})),
        ),
        Row::create(
            "2.3/an-incomplete-reference-is-skipped",
            template(
                "cpus",
                json!({"value": "2", "secretKeyRef": {"name": "b", "key": "c"}}),
            ),
        )
        .warns("template.cpus.secretKeyRef: ignored"),
        Row::create(
            "2.3/nothing-behind-an-incomplete-reference",
            template(
                "cpus",
                json!({"configMapKeyRef": {"namespace": "a", "name": "b", "key": ""}}),
            ),
        )
        .rejects(&[CPUS]),
        Row::create(
            "2.3/a-reference-type",
            template("cpus", json!({"value": "2", "secretKeyRef": "a/b"})),
        )
        .rejects(&[CPUS_SECRET]),
        Row::create(
            "2.3/a-reference-part-type",
            template(
                "cpus",
                json!({"value": "2", "secretKeyRef": {"namespace": "a", "name": 1, "key": "c"}}),
            ),
        )
        .rejects(&[CPUS_NAME]),
        Row::create(
            "2.3/unknown-keys-are-ignored",
            template("cpus", json!({"value": "2", "secretRef": {}})),
        )
        .warns("template.cpus.secretRef: unknown field"),
    ]
}

fn booleans() -> Vec<Row> {
    let queues = |value| cloud("virtualMachine/enableNetworkMultiQueue", value);
    vec![
        Row::create("2.3/true", queues(json!(true))),
        Row::create("2.3/false", queues(json!(false))),
        Row::create("2.3/bool-null-is-unset", queues(json!(null))),
        Row::create("2.3/bool-object", queues(json!({"value": false}))),
        Row::create(
            "2.3/bool-behind-a-reference",
            queues(json!({"configMapKeyRef": {"namespace": "a", "name": "b", "key": "c"}})),
        ),
        Row::create("2.3/bool-empty-object", queues(json!({}))),
        Row::create("2.3/bool-quoted", queues(json!("true"))).rejects(&[QUEUES]),
        Row::create("2.3/bool-number", queues(json!(1))).rejects(&[QUEUES]),
        Row::create("2.3/bool-quoted-in-the-object", queues(json!({"value": "true"})))
            .rejects(&[QUEUES_VALUE]),
    ]
}

/// The one value that may come from the environment, too.
fn kubeconfigs() -> Vec<Row> {
    vec![
        Row::create(
            "2.3/kubeconfig-not-base64",
            cloud("auth/kubeconfig", json!("apiVersion: v1")),
        )
        .rejects(&[KUBECONFIG]),
        Row::create(
            "2.3/kubeconfig-raw-behind-a-reference",
            cloud(
                "auth/kubeconfig",
                json!({"configMapKeyRef": {"namespace": "a", "name": "b", "key": "c"}}),
            ),
        ),
        Row::create("2.3/kubeconfig-nowhere", cloud("auth", json!({})))
            .enforced_by(EnforcedBy::Webhook)
            .rejects(&[KUBECONFIG])
            .message_contains("the environment (KUBEVIRT_KUBECONFIG) has none"),
        Row::create(
            "2.3/kubeconfig-inline",
            cloud("auth/kubeconfig", inline("token: t")),
        )
        .enforced_by(EnforcedBy::Webhook),
        Row::create(
            "2.3/kubeconfig-that-runs-a-program",
            cloud("auth/kubeconfig", inline("exec: {command: sh}")),
        )
        .enforced_by(EnforcedBy::Webhook)
        .rejects(&[KUBECONFIG])
        .message_contains("exec"),
        Row::create(
            "2.3/kubeconfig-of-nothing",
            cloud("auth/kubeconfig", json!("bm90aGluZw==")),
        )
        .enforced_by(EnforcedBy::Webhook)
        .rejects(&[KUBECONFIG]),
    ]
}

/// A kubeconfig with such a user, inline.
fn inline(user: &str) -> Value {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://infra.example'}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    );
    json!(ByteString(text.into_bytes()))
}
