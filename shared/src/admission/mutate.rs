//! Defaults. Nothing is refused here: malformed values stay unchanged, and the validating step reports them.
//!
//! Only what must change is changed, and in the raw object: kubectl leaves out parents such as `spec.metadata`, and a
//! patch computed from a typed copy would add below a parent that is not there.

use serde_json::{Value, json};

use super::{AdmissionSettings, bypass};
use crate::api::names::{annotation, label};
use crate::api::raw::{self, Object, child, object_at, object_at_mut, text};
use crate::provider_spec::operating_system::OperatingSystem;
use crate::provider_spec::{DNS_KEYS, KEYS, NETWORK_KEYS};
use crate::providers;

/// Adds defaults to a new Machine.
pub fn mutate_create(raw: &Value, settings: &AdmissionSettings) -> Value {
    let mut machine = raw.clone();
    for key in [annotation::BYPASS_IMMUTABILITY, annotation::SPEC_CHANGE] {
        bypass::remove(&mut machine, key);
    }
    default_node_name(&mut machine);
    let Some(root) = machine.as_object_mut() else {
        return machine;
    };
    let Some(spec) = object_at_mut(root, &["spec"]) else {
        return machine;
    };
    let os = default_spec(spec);
    write_as_machine_controller(spec);
    if let Some(provider) = providers::of_spec(spec) {
        provider.add_defaults(spec, None, &settings.infra_namespace);
    }
    if let Some(os) = os {
        let labels = child(spec, "metadata").and_then(|metadata| child(metadata, "labels"));
        if let Some(labels) = labels {
            labels
                .entry(label::OPERATING_SYSTEM)
                .or_insert_with(|| json!(os.as_str()));
        }
    }
    let annotations = child(root, "metadata").and_then(|metadata| child(metadata, "annotations"));
    if let Some(annotations) = annotations {
        for (gate, on) in &settings.feature_gates {
            annotations.insert(
                format!("{}{gate}", annotation::KUBELET_FEATURE_GATES),
                json!(on.to_string()),
            );
        }
        let external = settings.external_cloud_provider.to_string();
        annotations.insert(annotation::EXTERNAL_CLOUD_PROVIDER.to_owned(), json!(external));
    }
    machine
}

/// Adds defaults to an updated Machine: sets the Node's name where an older Machine lacks it, and consumes the bypass
/// of immutability (see [`bypass`]). Other defaults are added only at creation.
pub fn mutate_update(old: &Value, raw: &Value) -> Value {
    let mut machine = raw.clone();
    default_node_name(&mut machine);
    bypass::mutate(old, &mut machine);
    machine
}

/// The Node has the Machine's name. Names that the API server has yet to generate are unknown here.
fn default_node_name(machine: &mut Value) {
    let name = machine
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let Some(spec) = machine
        .as_object_mut()
        .and_then(|root| object_at_mut(root, &["spec"]))
    else {
        return;
    };
    if name.is_empty() || object_at(spec, &["metadata"]).is_some_and(|metadata| text_exact(metadata, "name"))
    {
        return;
    }
    let Some(metadata) = child(spec, "metadata") else {
        return;
    };
    if metadata
        .get("name")
        .is_none_or(|n| n.is_null() || n.as_str() == Some(""))
    {
        metadata.insert("name".to_owned(), json!(name));
    }
}

fn text_exact(object: &Object, key: &str) -> bool {
    object
        .get(key)
        .and_then(Value::as_str)
        .is_some_and(|text| !text.is_empty())
}

/// Writes `providerSpec.value` as machine-controller writes it again at each update: it compares templates byte by byte, and after a
/// move back would roll every pool whose value it writes otherwise. Here, all of that means what absent fields mean.
pub(super) fn write_as_machine_controller(spec: &mut Object) {
    let Some(value) = object_at_mut(spec, &["providerSpec", "value"]) else {
        return;
    };
    // Pointers of Go: without a value they are left out.
    for key in ["network", "overwriteCloudConfig"] {
        if value.get(key).is_some_and(Value::is_null) {
            value.remove(key);
        }
    }
    value.entry("sshPublicKeys").or_insert(Value::Null);
    empty_texts(value, &["caPublicKey"]);
    let Some(network) = value.get_mut("network").and_then(Value::as_object_mut) else {
        return;
    };
    empty_texts(network, &["cidr", "gateway"]);
    if network
        .get("ipFamily")
        .is_some_and(|family| family.is_null() || *family == json!(""))
    {
        network.remove("ipFamily");
    }
    let dns = network.entry("dns").or_insert(Value::Null);
    if dns.is_null() {
        *dns = json!({});
    }
    if let Some(dns) = dns.as_object_mut() {
        dns.entry("servers").or_insert(Value::Null);
    }
}

fn empty_texts(object: &mut Object, keys: &[&str]) {
    for key in keys {
        let text = object.entry(*key).or_insert(Value::Null);
        if text.is_null() {
            *text = json!("");
        }
    }
}

/// The defaults of every Machine spec, in templates as well; returns the operating system if the spec names one.
pub(crate) fn default_spec(spec: &mut Object) -> Option<OperatingSystem> {
    let value = object_at_mut(spec, &["providerSpec", "value"])?;
    raw::spell(value, &KEYS);
    if let Some(network) = object_at_mut(value, &["network"]) {
        raw::spell(network, &NETWORK_KEYS);
        if let Some(dns) = object_at_mut(network, &["dns"]) {
            raw::spell(dns, &DNS_KEYS);
        }
    }
    let os = OperatingSystem::parse(text(value, "operatingSystem")?)?;
    if let Some(spec) = os.default_spec(value.get("operatingSystemSpec")) {
        value.insert("operatingSystemSpec".to_owned(), spec);
    }
    Some(os)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn created(machine: &Value) -> Value {
        mutate_create(machine, &AdmissionSettings::default())
    }

    #[test]
    fn a_machine_as_kubectl_sends_it_is_completed() {
        let machine = json!({
            "metadata": {"name": "m"},
            "spec": {"providerSpec": {"value": {"cloudProvider": "kubevirt", "operatingSystem": "ubuntu"}}},
        });
        let want = json!({
            "metadata": {"name": "m", "annotations": {
                "v1.kubelet-featuregates.machine-controller.kubermatic.io/RotateKubeletServerCertificate": "true",
                "v1.kubelet-flags.machine-controller.kubermatic.io/ExternalCloudProvider": "false",
            }},
            "spec": {
                "metadata": {
                    "name": "m",
                    "annotations": {"cluster.x-k8s.io/cluster-namespace": "kube-system"},
                    "labels": {"v1.machine-controller.kubermatic.io/operating-system": "ubuntu"},
                },
                "providerSpec": {"value": {
                    "cloudProvider": "kubevirt",
                    "operatingSystem": "ubuntu",
                    "operatingSystemSpec": {"distUpgradeOnBoot": false},
                    "sshPublicKeys": null,
                    "caPublicKey": "",
                }},
            },
        });
        assert_eq!(created(&machine), want);
        assert_eq!(created(&want), want);
    }

    #[rstest]
    #[case(json!(null))]
    #[case(json!([1]))]
    #[case(json!({"spec": "x"}))]
    #[case(json!({"metadata": {"name": 1}, "spec": null}))]
    fn what_cannot_be_read_is_left_alone(#[case] machine: Value) {
        assert_eq!(created(&machine), machine);
    }

    #[test]
    fn topology_labels_come_only_where_labels_are() {
        let machine = |labels: Value| {
            created(&json!({"metadata": {}, "spec": {
                "metadata": {"labels": labels},
                "providerSpec": {"value": {"cloudProvider": "kubevirt", "operatingSystem": "rhel", "cloudProviderSpec": {
                    "virtualMachine": {"location": {"region": "r", "zone": ""}}}}},
            }}))
        };
        let labels = |machine: &Value| machine.pointer("/spec/metadata/labels").unwrap().clone();
        let os = "v1.machine-controller.kubermatic.io/operating-system";
        assert_eq!(labels(&machine(json!(null))), json!({os: "rhel"}));
        assert_eq!(
            labels(&machine(json!({}))),
            json!({os: "rhel", "topology.kubernetes.io/region": "r"})
        );
        let twice = created(&machine(json!(null)));
        assert_eq!(labels(&twice), json!({os: "rhel"}));
    }

    #[test]
    fn an_update_names_the_node_and_defaults_nothing() {
        let machine = json!({"metadata": {"name": "m"}, "spec": {"providerSpec": {"value": {"operatingSystem": "flatcar"}}}});
        let mut want = machine.clone();
        want["spec"]["metadata"] = json!({"name": "m"});
        assert_eq!(mutate_update(&machine, &machine), want);
    }

    /// What machine-controller reads of a value and writes again: Go's struct, by its facts. A slice without `omitempty` is
    /// null if it is absent, a text is empty, a pointer with it is left out.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct GoConfig {
        #[serde(default)]
        ssh_public_keys: Option<Vec<String>>,
        #[serde(default, deserialize_with = "go_text")]
        ca_public_key: String,
        #[serde(default, deserialize_with = "go_text")]
        cloud_provider: String,
        #[serde(default)]
        cloud_provider_spec: Value,
        #[serde(default, deserialize_with = "go_text")]
        operating_system: String,
        #[serde(default)]
        operating_system_spec: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<GoNetwork>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overwrite_cloud_config: Option<String>,
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct GoNetwork {
        #[serde(default, deserialize_with = "go_text")]
        cidr: String,
        #[serde(default, deserialize_with = "go_text")]
        gateway: String,
        #[serde(default, deserialize_with = "go_dns")]
        dns: GoDns,
        #[serde(
            default,
            deserialize_with = "go_text",
            skip_serializing_if = "String::is_empty"
        )]
        ip_family: String,
    }

    #[derive(Default, serde::Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct GoDns {
        #[serde(default)]
        servers: Option<Vec<String>>,
    }

    fn go_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        Ok(<Option<String> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
    }

    fn go_dns<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<GoDns, D::Error> {
        Ok(<Option<GoDns> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
    }

    fn written_again(value: &Value) -> Value {
        let config: GoConfig = serde_json::from_value(value.clone()).unwrap();
        serde_json::to_value(config).unwrap()
    }

    /// Each of these: absent, null, empty, or something.
    fn values() -> impl Strategy<Value = Value> {
        let list = || {
            prop_oneof![
                Just(None),
                Just(Some(json!(null))),
                Just(Some(json!([]))),
                Just(Some(json!(["a"])))
            ]
        };
        let text = || {
            prop_oneof![
                Just(None),
                Just(Some(json!(null))),
                Just(Some(json!(""))),
                Just(Some(json!("a")))
            ]
        };
        let dns = list().prop_map(|servers| Some(object_of([("servers", servers)])));
        let dns = prop_oneof![Just(None), Just(Some(json!(null))), dns];
        let network = (text(), text(), dns, text()).prop_map(|(cidr, gateway, dns, family)| {
            let fields = [
                ("cidr", cidr),
                ("gateway", gateway),
                ("dns", dns),
                ("ipFamily", family),
            ];
            Some(object_of(fields))
        });
        let network = prop_oneof![Just(None), Just(Some(json!(null))), network];
        let settings = prop_oneof![
            Just(None),
            Just(Some(json!(null))),
            Just(Some(json!({}))),
            Just(Some(json!({"distUpgradeOnBoot": true})))
        ];
        let os = prop_oneof!["ubuntu", "flatcar", "rhel", "rockylinux"].prop_map(|os| Some(json!(os)));
        (list(), text(), os, settings, network, text()).prop_map(
            |(keys, ca, os, settings, network, overwrite)| {
                let cloud = json!({"clusterName": "c", "virtualMachine": {"template": {"cpus": "2"}}});
                object_of([
                    ("sshPublicKeys", keys),
                    ("caPublicKey", ca),
                    ("cloudProvider", Some(json!("kubevirt"))),
                    ("cloudProviderSpec", Some(cloud)),
                    ("operatingSystem", os),
                    ("operatingSystemSpec", settings),
                    ("network", network),
                    ("overwriteCloudConfig", overwrite),
                ])
            },
        )
    }

    fn object_of<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
        let present = fields
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(present.collect())
    }

    proptest! {
        /// Machine-controller rolls a pool whose value it writes otherwise than it is stored.
        #[test]
        fn what_is_stored_is_what_machine_controller_would_write(value in values(), old in values()) {
            let settings = AdmissionSettings::default();
            let machine = |value: &Value| json!({"metadata": {"name": "m"}, "spec": {"providerSpec": {"value": value}}});
            let pool = |value: &Value| json!({"kind": "MachineDeployment", "spec": {"template": {"spec": {"providerSpec": {"value": value}}}}});
            let stored = mutate_create(&machine(&value), &settings);
            let stored = &stored["spec"]["providerSpec"]["value"];
            prop_assert_eq!(&written_again(stored), stored);

            let at = |pool: &Value| pool["spec"]["template"]["spec"]["providerSpec"]["value"].clone();
            let created = crate::admission::mutate_deployment(None, &pool(&old), &settings);
            prop_assert_eq!(written_again(&at(&created)), at(&created));
            let replaced = crate::admission::mutate_deployment(Some(&created), &pool(&value), &settings);
            prop_assert_eq!(written_again(&at(&replaced)), at(&replaced));

            // And no pool rolls here because of it.
            let template = |pool: &Value| pool["spec"]["template"].clone();
            let again = crate::admission::mutate_deployment(Some(&created), &pool(&old), &settings);
            prop_assert!(crate::admission::template::equal(&template(&created), &template(&again)));
        }
    }
}
