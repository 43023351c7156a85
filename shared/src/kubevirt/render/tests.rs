//! The VirtualMachine, field by field, for the plain cases.

use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::config_var::LookupError;
use crate::api::decode::Fields;
use crate::api::field::{FieldPath, Report};
use crate::kubevirt::resolved::resolve;
use crate::kubevirt::spec::decode;
use crate::provider::Env;

fn vm_of(spec: &Value, facts: &Facts) -> Value {
    vm_with(spec, facts, None)
}

fn vm_with(spec: &Value, facts: &Facts, ignition: Option<&str>) -> Value {
    let (object, mut report) = (json!({"s": spec}), Report::new());
    let mut fields = Fields::of(&object, FieldPath::default(), &mut report).unwrap();
    let decoded = decode(&fields.take("s"), &mut report).unwrap();
    assert!(report.is_ok(), "{:?}", report.errors);
    let env = Env {
        infra_namespace: "vms".into(),
        ..Env::default()
    };
    let spec = resolve(&decoded, &env, &|_| Err(LookupError::NoObject)).unwrap();
    let annotations = BTreeMap::from([
        (
            "cdi.kubevirt.io/storage.bind.immediate.requested".to_owned(),
            "true".to_owned(),
        ),
        ("note".to_owned(), "n".to_owned()),
    ]);
    let labels = BTreeMap::from([
        ("team".to_owned(), "a".to_owned()),
        ("cluster.x-k8s.io/role".to_owned(), "forged".to_owned()),
    ]);
    render(&RenderInput {
        name: "web-1",
        uid: "m1",
        labels: &labels,
        annotations: &annotations,
        machine_deployment: Some("web"),
        cluster_uid: "c1",
        namespace: "vms",
        spec: &spec,
        facts,
        user_data_secret: "userdata-m1-abcdef",
        ignition,
    })
}

fn spec(extra: &Value) -> Value {
    let mut spec = json!({
        "clusterName": "c", "projectID": "p",
        "virtualMachine": {
            "template": {"cpus": "2", "memory": "4Gi",
                "primaryDisk": {"osImage": "http://x/ubuntu.img", "size": "10Gi", "storageClassName": "standard"}},
        },
    });
    json_patch::merge(&mut spec, extra);
    spec
}

#[rstest]
#[case::cpus_and_memory("cpus", spec(&json!({})))]
#[case::instancetype_and_preference("instancetype", spec(&json!({"virtualMachine": {"instancetype": {"name": "standard-2"}, "preference": {"name": "sockets-advantage"}}})))]
#[case::secondary_disks_and_a_registry("disks", spec(&json!({"virtualMachine": {"template": {
    "primaryDisk": {"osImage": "docker://quay.io/x:1"}, "secondaryDisks": [{"size": "5Gi", "storageClassName": "fast"}]}}})))]
#[case::cores_and_scheduling("scheduling", spec(&json!({
    "affinity": {"nodeAffinityPreset": {"type": "soft", "key": "pool", "values": ["a", "b"]}},
    "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
    "virtualMachine": {"evictionStrategy": "LiveMigrate", "template": {"vcpus": {"cores": 4}, "cpus": null}}})))]
#[case::a_network_of_its_own("network", spec(&json!({"virtualMachine": {
    "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["example.com"], "options": [{"name": "ndots", "value": "2"}]},
    "enableNetworkMultiQueue": false, "location": {"region": "north", "zone": "north-1"},
    "providerNetwork": {"name": "kubeovn", "vpc": {"name": "v", "subnet": {"name": "s"}}}}})))]
#[case::claims("claims", spec(&json!({"virtualMachine": {"template": {
    "primaryDisk": {"osImage": "images/ubuntu", "storageTarget": "pvc", "storageAccessType": "ReadWriteOnce"},
    "secondaryDisks": [{"size": "5Gi", "storageClassName": "blocks"}]}}})))]
#[case::headers_and_a_secret("http", spec(&json!({"virtualMachine": {"template": {"primaryDisk": {
    "dataVolumeSecretRef": "keys", "extraHeaders": ["A: b"]}}}})))]
fn whole_virtual_machines(#[case] name: &str, #[case] spec: Value) {
    let facts = Facts {
        access_modes: ["standard", "blocks"]
            .map(|class| (class.to_owned(), "ReadWriteMany".to_owned()))
            .into(),
        block_only: [("blocks".to_owned(), "ReadWriteMany".to_owned())].into(),
        ..Facts::default()
    };
    insta::assert_json_snapshot!(name, vm_of(&spec, &facts));
}

#[test]
fn a_whole_virtual_machine_that_boots_by_ignition() {
    let ignition = r#"{"ignition":{"version":"3.3.0"}}"#;
    let vm = vm_with(&spec(&json!({})), &Facts::default(), Some(ignition));
    insta::assert_json_snapshot!("ignition", vm);
}

#[rstest]
#[case::run_strategy(json!({}), "/spec/runStrategy", json!("Once"))]
#[case::run_strategy_with_a_subnet(json!({"virtualMachine": {"providerNetwork": {"vpc": {"subnet": {"name": "s"}}}}}), "/spec/runStrategy", json!("Always"))]
#[case::a_subnets_annotation(json!({"virtualMachine": {"providerNetwork": {"vpc": {"subnet": {"name": "s"}}}}}), "/spec/template/metadata/annotations/ovn.kubernetes.io~1logical_switch", json!("s"))]
#[case::vcpus(json!({"virtualMachine": {"template": {"vcpus": {"cores": 4}}}}), "/spec/template/spec/domain/cpu", json!({"cores": 4}))]
#[case::vcpus_leave_memory(json!({"virtualMachine": {"template": {"vcpus": {"cores": 4}}}}), "/spec/template/spec/domain/resources/limits", json!({"memory": "4Gi"}))]
#[case::an_instancetype_brings_its_own(json!({"virtualMachine": {"instancetype": {"name": "i"}}}), "/spec/template/spec/domain/resources", json!({}))]
#[case::the_kind_asked_for(json!({"virtualMachine": {"instancetype": {"name": "i", "kind": "VirtualMachineInstancetype"}}}), "/spec/instancetype/kind", json!("VirtualMachineInstancetype"))]
#[case::a_claim_here(json!({"virtualMachine": {"template": {"primaryDisk": {"osImage": "ubuntu"}}}}), "/spec/dataVolumeTemplates/0/spec/source", json!({"pvc": {"namespace": "vms", "name": "ubuntu"}}))]
#[case::a_claim_elsewhere(json!({"virtualMachine": {"template": {"primaryDisk": {"osImage": "images/ubuntu"}}}}), "/spec/dataVolumeTemplates/0/spec/source", json!({"pvc": {"namespace": "images", "name": "ubuntu"}}))]
#[case::a_registry(json!({"virtualMachine": {"template": {"primaryDisk": {"osImage": "docker://x", "pullMethod": "pod"}}}}), "/spec/dataVolumeTemplates/0/spec/source", json!({"registry": {"url": "docker://x", "pullMethod": "pod"}}))]
#[case::storage_is_the_default_target(json!({}), "/spec/dataVolumeTemplates/0/spec/pvc", Value::Null)]
#[case::pvc_is_exact(json!({"virtualMachine": {"template": {"primaryDisk": {"storageTarget": "pvc"}}}}), "/spec/dataVolumeTemplates/0/spec/pvc/accessModes", json!(["ReadWriteOnce"]))]
#[case::cdi_annotations_go_to_the_disk(json!({}), "/spec/dataVolumeTemplates/0/metadata/annotations", json!({"cdi.kubevirt.io/storage.bind.immediate.requested": "true"}))]
#[case::a_machines_label_cannot_change_the_role(json!({}), "/metadata/labels/cluster.x-k8s.io~1role", json!("worker"))]
#[case::whose_it_is(json!({}), "/spec/template/metadata/labels/machinist.dev~1machine-uid", json!("m1"))]
#[case::eviction(json!({}), "/spec/template/spec/evictionStrategy", json!("External"))]
#[case::affinity_is_always_there(json!({}), "/spec/template/spec/affinity", json!({}))]
#[case::hard_affinity(json!({"affinity": {"nodeAffinityPreset": {"type": "Hard", "key": "k", "values": ["v"]}}}), "/spec/template/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0", json!({"key": "k", "operator": "In", "values": ["v"]}))]
#[case::spread_by_default(json!({}), "/spec/template/spec/topologySpreadConstraints/0", json!({"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"md": "web"}}}))]
fn each_field_has_its_place(#[case] extra: Value, #[case] pointer: &str, #[case] want: Value) {
    let vm = vm_of(&spec(&extra), &Facts::default());
    assert_eq!(vm.pointer(pointer).cloned().unwrap_or(Value::Null), want);
}
