//! Two templates are equal if and only if all that is made of them is: held against what the controller itself renders.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use machinist_controller::bootstrap::user_data::{self, UserDataInput};
use machinist_shared::admission::template::{equal, hash};
use machinist_shared::admission::{AdmissionSettings, mutate_create};
use machinist_shared::api::Machine;
use machinist_shared::api::config_var::{KeyRef, LookupError};
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::api::quantity;
use machinist_shared::kubevirt::facts::{Facts, FactsNeeded};
use machinist_shared::kubevirt::resolved::ResolvedSpec;
use machinist_shared::provider::{Env, InstanceParams, Opaque, Secret, Spec};
use machinist_shared::provider_spec::ProviderConfig;
use machinist_shared::provider_spec::operating_system::OperatingSystem;
use proptest::prelude::*;
use proptest::sample::Index;
use secrecy::SecretString;
use serde_json::{Value, json};

const VALUE: &str = "/spec/providerSpec/value";
const CLOUD: &str = "/spec/providerSpec/value/cloudProviderSpec";
const VM: &str = "/spec/providerSpec/value/cloudProviderSpec/virtualMachine";
const DISK: &str = "/spec/providerSpec/value/cloudProviderSpec/virtualMachine/template/primaryDisk";

/// What a reference is resolved to.
type Lookup<'a> = &'a dyn Fn(&KeyRef) -> Result<String, LookupError>;

/// A place in a template, and what may be there beside what is there at first. `null` is absent in some of them.
#[allow(clippy::too_many_lines, reason = "it is a table")]
fn places() -> Vec<(String, Vec<Value>)> {
    let reference = |key: &str| json!({"secretKeyRef": {"namespace": "n", "name": "s", "key": key}});
    let may_be = |base: &str, key: &str, values: Vec<Value>| (format!("{base}/{key}"), values);
    let kubelet = "v1.kubelet-config.machine-controller.kubermatic.io~1MaxPods";
    let spread = |skew: Value, when: &str| json!([{"maxSkew": skew, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": when}]);
    vec![
        may_be("/metadata", "labels/x", vec![json!("y"), json!("")]),
        may_be(
            "/metadata",
            "annotations",
            vec![json!({}), json!({"a": "b"}), json!({"forceRestart": "1"})],
        ),
        may_be(
            "/metadata",
            "annotations",
            vec![json!({kubelet.replace("~1", "/"): "50"})],
        ),
        may_be("/metadata", "creationTimestamp", vec![json!(null)]),
        may_be(
            "/spec",
            "metadata/labels",
            vec![
                json!({}),
                json!({"a": "b"}),
                json!({"v1.machine-controller.kubermatic.io/operating-system": "ubuntu"}),
            ],
        ),
        may_be(
            "/spec",
            "metadata/annotations",
            vec![
                json!({}),
                json!({"a": "b"}),
                json!({"cluster.x-k8s.io/cluster-namespace": "z"}),
            ],
        ),
        may_be(
            "/spec",
            "taints",
            vec![
                json!([]),
                json!([{"key": "a", "effect": "NoSchedule"}]),
                json!([{"key": "a", "value": "", "effect": "NoSchedule"}]),
            ],
        ),
        may_be(
            "/spec",
            "versions/kubelet",
            vec![json!("v1.33.4"), json!("1.33.5")],
        ),
        may_be("/spec", "versions/controlPlane", vec![json!("1.33.4")]),
        may_be("/spec", "unknown", vec![json!(1)]),
        may_be(
            VALUE,
            "operatingSystem",
            vec![json!("flatcar"), json!("rhel"), json!("rockylinux")],
        ),
        may_be(
            VALUE,
            "operatingSystemSpec",
            vec![
                json!({}),
                json!({"distUpgradeOnBoot": true}),
                json!({"distUpgradeOnBoot": false}),
                json!({"x": true}),
            ],
        ),
        may_be(
            VALUE,
            "operatingSystemSpec",
            vec![
                json!({"provisioningUtility": "ignition"}),
                json!({"provisioningUtility": "cloud-init"}),
                json!({"disableAutoUpdate": true}),
            ],
        ),
        may_be(
            VALUE,
            "operatingSystemSpec",
            vec![
                json!({"rhelOrganizationName": "o", "rhelActivationKey": "k"}),
                json!({"distUpgradeOnBoot": "true"}),
                json!({"DistUpgradeOnBoot": true}),
            ],
        ),
        may_be(
            VALUE,
            "sshPublicKeys",
            vec![json!([]), json!(["ssh-ed25519 AAAA"])],
        ),
        may_be(VALUE, "caPublicKey", vec![json!(""), json!("ssh-ed25519 AAAA")]),
        may_be(
            VALUE,
            "network",
            vec![
                json!({}),
                json!({"dns": {"servers": []}}),
                json!({"ipFamily": "IPv6"}),
                json!({"cidr": "10.0.0.5/24", "gateway": "10.0.0.1"}),
            ],
        ),
        may_be(VALUE, "overwriteCloudConfig", vec![json!(""), json!("x")]),
        may_be(
            CLOUD,
            "auth/kubeconfig",
            vec![
                reference("other"),
                json!("aW5saW5l"),
                json!({"value": "aW5saW5l"}),
            ],
        ),
        may_be(CLOUD, "clusterName", vec![json!("d"), json!({"value": "c"})]),
        may_be(CLOUD, "projectID", vec![json!(""), json!("p"), reference("p")]),
        may_be(
            CLOUD,
            "affinity",
            vec![
                json!({}),
                json!({"podAffinityPreset": "soft"}),
                json!({"nodeAffinityPreset": {"key": "k", "values": ["v"]}}),
            ],
        ),
        may_be(
            CLOUD,
            "affinity/nodeAffinityPreset",
            vec![
                json!({"type": "soft", "key": "k"}),
                json!({"type": "Soft", "key": "k", "values": []}),
                json!({"type": "hard", "key": "k", "values": ["v"]}),
            ],
        ),
        may_be(
            CLOUD,
            "topologySpreadConstraints",
            vec![
                json!([]),
                spread(json!(1), ""),
                spread(json!("1"), "ScheduleAnyway"),
                spread(json!("2"), ""),
                spread(json!(1), "DoNotSchedule"),
            ],
        ),
        may_be(
            CLOUD,
            "machinist",
            vec![
                json!({}),
                json!({"files": [{"path": "/a"}]}),
                json!({"files": [{"path": "/a", "permissions": "644", "content": ""}]}),
            ],
        ),
        may_be(
            CLOUD,
            "machinist/kubelet",
            vec![
                json!({"extraArgs": {"v": 2}}),
                json!({"extraArgs": {"v": "2"}}),
                json!({"extraConfig": {"failSwapOn": false}}),
                json!({"extraConfig": {"maxPods": 50}}),
            ],
        ),
        may_be(
            CLOUD,
            "machinist/commands",
            vec![
                json!({"preInstall": ["a", "b"]}),
                json!({"preInstall": ["a\nb"]}),
                json!({"preInstall": []}),
            ],
        ),
        may_be(
            CLOUD,
            "machinist/registries",
            vec![
                json!({"mirrors": {"docker.io": ["https://m/"]}}),
                json!({"mirrors": {"docker.io": ["https://m"]}}),
            ],
        ),
        may_be(
            CLOUD,
            "machinist/proxy",
            vec![
                json!({"no": ["a"]}),
                json!({"http": "http://p", "no": ["a"]}),
                json!({"http": "http://p"}),
            ],
        ),
        may_be(CLOUD, "machinist/timeServers", vec![json!([]), json!(["ntp"])]),
        may_be(
            VM,
            "evictionStrategy",
            vec![json!("External"), json!("LiveMigrate"), json!("")],
        ),
        may_be(
            VM,
            "enableNetworkMultiQueue",
            vec![
                json!(true),
                json!({"value": true}),
                json!(false),
                reference("false"),
            ],
        ),
        may_be(VM, "flavor", vec![json!({"name": "x"})]),
        may_be(
            VM,
            "location",
            vec![
                json!({"region": ""}),
                json!({"region": "r"}),
                json!({"zone": "z"}),
            ],
        ),
        may_be(
            VM,
            "providerNetwork",
            vec![
                json!({"name": "x"}),
                json!({"vpc": {"name": "v"}}),
                json!({"vpc": {"subnet": {"name": "s"}}}),
            ],
        ),
        may_be(
            VM,
            "dnsPolicy",
            vec![json!(""), json!("Default"), json!("Sometimes")],
        ),
        may_be(
            VM,
            "dnsConfig",
            vec![
                json!({}),
                json!({"nameservers": []}),
                json!({"nameservers": ["1.1.1.1"], "options": []}),
                json!({"options": [{"name": "a", "value": ""}]}),
            ],
        ),
        may_be(
            VM,
            "instancetype",
            vec![
                json!({"name": "i"}),
                json!({"name": "i", "kind": "virtualmachineclusterinstancetype"}),
                json!({"name": "i", "kind": "VirtualMachineClusterInstancetype"}),
            ],
        ),
        may_be(
            VM,
            "preference",
            vec![json!({"name": "p"}), json!({"name": "p", "inferFromVolume": ""})],
        ),
        may_be(VM, "template/vcpus", vec![json!({}), json!({"cores": 2})]),
        may_be(
            VM,
            "template/cpus",
            vec![json!("2000m"), json!({"value": "2"}), json!("3")],
        ),
        may_be(
            VM,
            "template/memory",
            vec![json!("4096Mi"), json!("4G"), json!("4GiB")],
        ),
        may_be(
            VM,
            "template/secondaryDisks",
            vec![
                json!([]),
                json!([{"size": "1Gi", "storageClassName": "s"}]),
                json!([{"size": "1024Mi", "storageClassName": "s", "storageAccessType": ""}]),
            ],
        ),
        may_be(
            VM,
            "template/secondaryDisks",
            vec![
                json!([{"size": "1Gi", "storageClassName": "s", "storageAccessType": "ReadWriteMany"}]),
                json!([{"size": "1Gi", "storageClassName": "t"}]),
            ],
        ),
        may_be(
            DISK,
            "size",
            vec![json!(10_737_418_240_u64), json!("11Gi"), reference("10Gi")],
        ),
        may_be(
            DISK,
            "storageAccessType",
            vec![
                json!(""),
                json!("ReadWriteMany"),
                json!("ReadWriteOnce"),
                reference("ReadWriteMany"),
            ],
        ),
        may_be(
            DISK,
            "storageTarget",
            vec![json!("storage"), json!("pvc"), json!("block")],
        ),
        may_be(DISK, "osImage", vec![json!("docker://x/y"), json!("ns/name")]),
        may_be(
            DISK,
            "source",
            vec![json!("http"), json!("registry"), json!("web")],
        ),
        may_be(
            DISK,
            "pullMethod",
            vec![json!("node"), json!("pod"), json!("sometimes")],
        ),
        may_be(DISK, "extraHeaders", vec![json!([]), json!(["a: b"])]),
        may_be(DISK, "extraHeadersSecretRef", vec![json!(""), json!("h")]),
        may_be(DISK, "dataVolumeSecretRef", vec![json!(""), json!("k")]),
    ]
}

fn base() -> Value {
    json!({
        "metadata": {"labels": {"pool": "a"}},
        "spec": {
            "versions": {"kubelet": "1.33.4"},
            "providerSpec": {"value": {
                "cloudProvider": "kubevirt", "operatingSystem": "ubuntu",
                "cloudProviderSpec": {
                    "auth": {"kubeconfig": {"secretKeyRef": {"namespace": "n", "name": "s", "key": "kubeconfig"}}},
                    "clusterName": "c",
                    "virtualMachine": {"template": {"cpus": "2", "memory": "4Gi", "primaryDisk": {
                        "osImage": "http://images/ubuntu.img", "size": "10Gi", "storageClassName": "s"}}},
                },
            }},
        },
    })
}

/// The template with one value changed, or taken away.
fn edit(template: &mut Value, place: Index, value: Index) {
    let places = places();
    let (pointer, values) = &places[place.index(places.len())];
    let value = values.get(value.index(values.len() + 1));
    *at(template, pointer) = value.cloned().unwrap_or_default();
    if pointer == "/metadata/labels/x" && value.is_none() {
        // The API server stores a label that is null as an empty one.
        template["metadata"]["labels"] = json!({"pool": "a"});
    }
}

fn at<'a>(template: &'a mut Value, pointer: &str) -> &'a mut Value {
    let keys = pointer.split('/').skip(1);
    keys.fold(template, |at, key| &mut at[key.replace("~1", "/")])
}

/// Everything that is made of a template.
#[derive(Debug, PartialEq)]
struct Made {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    node_labels: BTreeMap<String, String>,
    node_annotations: BTreeMap<String, String>,
    taints: Vec<Taint>,
    credential: (Option<String>, Option<KeyRef>),
    /// For all facts, and all that references may lead to.
    instances: Vec<Result<Value, String>>,
    user_data: String,
    for_osm: Value,
}

/// Of a template as a Machine of a set is made of it and completed at admission; `None` if nothing is.
fn made(template: &Value) -> Option<Made> {
    let metadata = json!({
        "name": "m",
        "labels": template.pointer("/metadata/labels"),
        "annotations": template.pointer("/metadata/annotations"),
    });
    let body = json!({"metadata": metadata, "spec": template["spec"]});
    let body = mutate_create(&body, &AdmissionSettings::default());
    let mut report = Report::new();
    let value = body.pointer(VALUE);
    let config = ProviderConfig::decode(value, &FieldPath::default(), &mut report);
    if !report.is_ok() {
        return None;
    }
    let machine: Machine = serde_json::from_value(body).ok()?;
    let cloud = config.cloud_provider_spec.clone()?;
    let labels = machine.metadata.labels.clone().unwrap_or_default();
    let annotations = machine.metadata.annotations.clone().unwrap_or_default();
    let node = machine.spec.metadata.clone().unwrap_or_default();
    let credential = cloud.credential();
    let literal = credential
        .value
        .clone()
        .filter(|_| credential.reference().is_none());
    let instances = instances(&*cloud, &labels, &annotations);
    if instances.iter().all(Result::is_err) {
        return None;
    }
    Some(Made {
        credential: (literal, credential.reference().cloned()),
        instances,
        user_data: user_data(&machine, &config)?,
        for_osm: for_osm(&machine, &config),
        node_labels: node.labels.unwrap_or_default(),
        node_annotations: node.annotations.unwrap_or_default(),
        taints: machine.spec.taints.clone().unwrap_or_default(),
        labels,
        annotations,
    })
}

fn instances(
    cloud: &dyn Spec,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> Vec<Result<Value, String>> {
    let as_named = |reference: &KeyRef| Ok(reference.key.clone());
    let otherwise = |reference: &KeyRef| {
        let other = match reference.key.as_str() {
            "10Gi" => "12Gi",
            "false" => "true",
            "ReadWriteMany" => "ReadWriteOncePod",
            _ => "other",
        };
        Ok::<_, LookupError>(other.to_owned())
    };
    let lookups: [Lookup<'_>; 2] = [&as_named, &otherwise];
    let mut instances = Vec::new();
    for lookup in lookups {
        for cluster in [Cluster::Rich, Cluster::Plain, Cluster::Files] {
            let resolved = cloud.resolve(&Env::default(), lookup);
            instances.push(resolved.map_err(|error| error.to_string()).map(|resolved| {
                let facts = facts(resolved.of().unwrap(), cluster);
                let params = InstanceParams {
                    name: "m",
                    uid: "u",
                    labels,
                    annotations,
                    machine_deployment: Some("d"),
                    cluster_uid: "c",
                    namespace: "vms",
                    user_data: "s",
                    ignition: None,
                };
                let mut instance = resolved.render(&params, &Opaque::new(facts)).unwrap();
                amounts(&mut instance);
                instance
            }));
        }
    }
    instances
}

#[derive(Clone, Copy, PartialEq)]
enum Cluster {
    /// Has everything, for block devices only.
    Rich,
    /// Has nothing.
    Plain,
    /// Has access from many nodes to file systems.
    Files,
}

fn facts(spec: &ResolvedSpec, cluster: Cluster) -> Facts {
    let needed: FactsNeeded = machinist_shared::kubevirt::facts::facts_needed(spec);
    let place =
        |name: &str| (cluster == Cluster::Rich).then(|| format!("{name} of {}", needed.storage_class));
    let mode = if cluster == Cluster::Plain {
        "ReadWriteOnce"
    } else {
        "ReadWriteMany"
    };
    let block_only = ["s", "t"].into_iter().flat_map(|class| {
        ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"].map(|mode| (class.to_owned(), mode.to_owned()))
    });
    let found = if cluster == Cluster::Rich {
        "VirtualMachineInstancetype"
    } else {
        "VirtualMachineClusterInstancetype"
    };
    let kind = |kind: &str| {
        if kind.is_empty() {
            found.to_owned()
        } else {
            kind.to_owned()
        }
    };
    Facts {
        region: place("region"),
        zone: place("zone"),
        access_modes: needed
            .storage_profiles
            .iter()
            .map(|class| (class.clone(), mode.to_owned()))
            .collect(),
        block_only: block_only.filter(|_| cluster == Cluster::Rich).collect(),
        instancetype_kind: needed.instancetype.map(|it| kind(&it.kind)),
        extra_headers: needed
            .extra_headers_secret
            .into_iter()
            .map(|name| format!("x: {name}"))
            .collect(),
    }
}

/// Quantities of one amount are equal.
fn amounts(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if ["cpu", "memory", "storage"].contains(&key.as_str()) => {
                        *value = json!(quantity::parse(text));
                    }
                    value => amounts(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(amounts),
        _ => {}
    }
}

fn user_data(machine: &Machine, config: &ProviderConfig) -> Option<String> {
    let cloud = config.cloud_provider_spec.as_ref()?;
    let none = BTreeMap::new();
    let metadata = machine.spec.metadata.as_ref();
    let made = user_data::render(&UserDataInput {
        operating_system: config.operating_system?,
        operating_system_spec: config.operating_system_spec.as_ref().unwrap_or(&Value::Null),
        node_name: "m",
        kubelet_version: machine.spec.versions.as_ref()?.kubelet.as_deref()?,
        server: "https://api:6443",
        ca_pem: "CA",
        token: &SecretString::from("abcdef.0123456789abcdef"),
        cluster_dns: &["10.96.0.10".parse().unwrap()],
        cluster_domain: "cluster.local",
        taints: machine.spec.taints.as_deref().unwrap_or_default(),
        labels: metadata
            .and_then(|metadata| metadata.labels.as_ref())
            .unwrap_or(&none),
        provider_id: Some("kubevirt://m"),
        serving_certificate: true,
        ssh_keys: &config.ssh_public_keys,
        ssh_ca: &config.ca_public_key,
        annotations: machine.metadata.annotations.as_ref().unwrap_or(&none),
        network: config.network.as_ref(),
        overwrite_cloud_config: config.overwrite_cloud_config.as_deref(),
        machinist: cloud.machinist(),
        registry_credentials: &Secret::default(),
        ca_bundle: &Secret::default(),
    });
    made.ok()
        .map(|made| String::from_utf8_lossy(made.bytes()).into_owned())
}

/// The fields that operating-system-manager reads, in any letter case.
fn for_osm(machine: &Machine, config: &ProviderConfig) -> Value {
    let keys: &[&str] = match config.operating_system {
        Some(OperatingSystem::Flatcar) => &[
            "disableautoupdate",
            "disablelocksmithd",
            "disableupdateengine",
            "provisioningutility",
        ],
        Some(OperatingSystem::Rhel) => &["distupgradeonboot", "rhelorganizationname", "rhelactivationkey"],
        _ => &["distupgradeonboot"],
    };
    let settings = config.operating_system_spec.as_ref().and_then(Value::as_object);
    let settings: BTreeMap<_, _> = settings
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.to_lowercase(), value))
        .filter(|(key, value)| {
            keys.contains(&key.as_str()) && **value != json!(false) && **value != json!("")
        })
        .collect();
    let network = config.network.clone().unwrap_or_default();
    let version = machine
        .spec
        .versions
        .as_ref()
        .and_then(|versions| versions.kubelet.as_deref());
    json!([
        version.map(|version| version.trim_start_matches('v')),
        config.operating_system.map(OperatingSystem::as_str),
        settings,
        config.ssh_public_keys,
        config.ca_public_key,
        [
            json!(network.cidr),
            json!(network.gateway),
            json!(network.dns_servers),
            json!(network.ip_family)
        ],
        config.overwrite_cloud_config,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn templates_are_equal_if_and_only_if_all_that_is_made_of_them_is(
        common in proptest::collection::vec(any::<(Index, Index)>(), 0..6),
        edits in proptest::collection::vec(any::<(Index, Index)>(), 1..4),
    ) {
        let mut one = base();
        for (place, value) in common {
            edit(&mut one, place, value);
        }
        let mut other = one.clone();
        for (place, value) in edits {
            edit(&mut other, place, value);
        }
        let (of_one, of_other) = (made(&one), made(&other));
        // Of what nothing is made of, there is nothing to compare.
        prop_assume!(of_one.is_some() || of_other.is_some());
        let alike = of_one == of_other;
        prop_assert_eq!(equal(&one, &other), alike, "{:#}
{:#}", one, other);
        prop_assert!(!alike || hash(&one) == hash(&other));
    }
}

/// One change at a time: none of them is left to chance.
#[test]
fn each_value_alone_counts_as_what_is_made_of_it() {
    let mut equal_ones = 0;
    for (pointer, values) in places() {
        for value in values {
            let mut other = base();
            *at(&mut other, &pointer) = value.clone();
            let alike = made(&base()) == made(&other);
            assert_eq!(equal(&base(), &other), alike, "{pointer}: {value}");
            equal_ones += usize::from(alike);
        }
    }
    assert!(equal_ones > 30, "both sides are tried: {equal_ones}");
}
