//! Each rule has a spec that breaks it alone.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::decode::Fields;
use crate::provider::MachineOwnerKind;

fn good() -> Value {
    json!({
        "clusterName": "c",
        "virtualMachine": {
            "instancetype": {"name": "standard-2"},
            "template": {"primaryDisk": {"osImage": "http://x/ubuntu.img", "size": "10Gi", "storageClassName": "standard"}},
        },
    })
}

fn check(extra: &Value) -> Report {
    check_under(Overridden::default(), extra)
}

fn check_under(overridden: Overridden, extra: &Value) -> Report {
    let mut spec = good();
    json_patch::merge(&mut spec, extra);
    let (object, mut report) = (json!({"s": spec}), Report::new());
    let mut fields = Fields::of(&object, FieldPath::default(), &mut report).unwrap();
    if let Some(spec) = super::super::spec::decode(&fields.take("s"), &mut report) {
        validate(&spec, overridden, &FieldPath::new("s"), &mut report);
    }
    report
}

#[rstest]
#[case::neither(Overridden::default(), &["s.clusterName", "s.projectID"])]
#[case::the_cluster(Overridden { cluster_name: true, ..Overridden::default() }, &["s.projectID"])]
#[case::the_project(Overridden { project_id: true, ..Overridden::default() }, &["s.clusterName"])]
fn what_the_environment_sets_is_not_judged(#[case] overridden: Overridden, #[case] blamed: &[&str]) {
    let no_labels = json!({"clusterName": "no label", "projectID": "no label"});
    let report = check_under(overridden, &no_labels);
    let paths: Vec<_> = report.errors.iter().map(|error| error.path.to_string()).collect();
    assert_eq!(paths, blamed);
}

fn vm(extra: &Value) -> Value {
    json!({"virtualMachine": extra})
}

/// The same, where the operating system is cloned from a claim.
fn from_a_claim(extra: &Value) -> Value {
    let mut spec = vm(extra);
    json_patch::merge(
        &mut spec,
        &vm(&json!({"template": {"primaryDisk": {"osImage": "images/ubuntu"}}})),
    );
    spec
}

#[rstest]
#[case::the_least_memory(vm(&json!({"instancetype": null, "template": {"cpus": 2, "memory": "1M"}})))]
#[case::six_search_domains(vm(&json!({"dnsConfig": {"searches": ["a", "b", "c", "d", "e", "f.example"]}})))]
#[case::search_domains_of_256_characters(vm(&json!({"dnsConfig": {"searches": ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62), "e"]}})))]
#[case::inference_from_a_claim(from_a_claim(&json!({"instancetype": {"name": null, "inferFromVolume": "datavolumedisk"}})))]
fn what_kubevirt_just_takes_is_fine(#[case] extra: Value) {
    assert_eq!(check(&extra), Report::new());
}

#[test]
fn a_plain_spec_is_fine() {
    assert_eq!(check(&json!({})), Report::new());
}

#[rstest]
#[case::unknown_key(vm(&json!({"instancetyp": {}})), "s.virtualMachine.instancetyp")]
#[case::no_size(vm(&json!({"template": {"primaryDisk": {"size": null}}})), "s.virtualMachine.template.primaryDisk.size")]
#[case::bad_size(vm(&json!({"template": {"primaryDisk": {"size": "10Gb"}}})), "s.virtualMachine.template.primaryDisk.size")]
#[case::zero_size(vm(&json!({"template": {"primaryDisk": {"size": "0"}}})), "s.virtualMachine.template.primaryDisk.size")]
#[case::no_class(vm(&json!({"template": {"primaryDisk": {"storageClassName": ""}}})), "s.virtualMachine.template.primaryDisk.storageClassName")]
#[case::no_memory(vm(&json!({"instancetype": null, "template": {"cpus": 2}})), "s.virtualMachine.template.memory")]
#[case::no_cpus(vm(&json!({"instancetype": null, "template": {"memory": "1Gi"}})), "s.virtualMachine.template.cpus")]
#[case::negative_memory(vm(&json!({"instancetype": null, "template": {"cpus": 2, "memory": "-1Gi"}})), "s.virtualMachine.template.memory")]
#[case::negative_cores(vm(&json!({"template": {"vcpus": {"cores": -2}}})), "s.virtualMachine.template.vcpus.cores")]
#[case::eviction(vm(&json!({"evictionStrategy": "LiveMigrat"})), "s.virtualMachine.evictionStrategy")]
#[case::dns_policy(vm(&json!({"dnsPolicy": "none"})), "s.virtualMachine.dnsPolicy")]
#[case::dns_none(vm(&json!({"dnsPolicy": "None"})), "s.virtualMachine.dnsConfig.nameservers")]
#[case::headers_twice(vm(&json!({"template": {"primaryDisk": {"extraHeaders": ["a: b"], "extraHeadersSecretRef": "s"}}})), "s.virtualMachine.template.primaryDisk.extraHeadersSecretRef")]
#[case::pull_method(vm(&json!({"template": {"primaryDisk": {"pullMethod": "host"}}})), "s.virtualMachine.template.primaryDisk.pullMethod")]
#[case::size_in_bytes(vm(&json!({"template": {"primaryDisk": {"size": "10"}}})), "s.virtualMachine.template.primaryDisk.size")]
#[case::size_in_kilobytes(vm(&json!({"template": {"primaryDisk": {"size": "500k"}}})), "s.virtualMachine.template.primaryDisk.size")]
#[case::size_in_thousandths(vm(&json!({"template": {"primaryDisk": {"size": "10000m"}}})), "s.virtualMachine.template.primaryDisk.size")]
#[case::size_with_an_exponent(vm(&json!({"template": {"primaryDisk": {"size": "1e6"}}})), "s.virtualMachine.template.primaryDisk.size")]
#[case::size_just_below(vm(&json!({"template": {"primaryDisk": {"size": "1023Ki"}}})), "s.virtualMachine.template.primaryDisk.size")]
#[case::size_of_another_disk(vm(&json!({"template": {"secondaryDisks": [{"size": "5", "storageClassName": "s"}]}})), "s.virtualMachine.template.secondaryDisks[0].size")]
#[case::image_without_scheme(vm(&json!({"template": {"primaryDisk": {"osImage": "quay.io/containerdisks/ubuntu:24.04"}}})), "s.virtualMachine.template.primaryDisk.osImage")]
#[case::image_of_a_domain(vm(&json!({"template": {"primaryDisk": {"osImage": "registry.example.com/ubuntu"}}})), "s.virtualMachine.template.primaryDisk.osImage")]
#[case::image_escape(vm(&json!({"template": {"primaryDisk": {"osImage": "https://x/%zz"}}})), "s.virtualMachine.template.primaryDisk.osImage")]
#[case::image_repository(vm(&json!({"template": {"primaryDisk": {"osImage": "docker://quay.io/"}}})), "s.virtualMachine.template.primaryDisk.osImage")]
#[case::image_scheme(vm(&json!({"template": {"primaryDisk": {"osImage": "ftp://x/y"}}})), "s.virtualMachine.template.primaryDisk.osImage")]
#[case::affinity(json!({"affinity": {"nodeAffinityPreset": {"type": "hrd", "key": "k"}}}), "s.affinity.nodeAffinityPreset.type")]
#[case::skew(json!({"topologySpreadConstraints": [{"maxSkew": "0", "topologyKey": "k"}]}), "s.topologySpreadConstraints[0].maxSkew")]
#[case::cluster_name(json!({"clusterName": "a b"}), "s.clusterName")]
#[case::kubeconfig(json!({"auth": {"kubeconfig": "apiVersion: v1"}}), "s.auth.kubeconfig")]
#[case::hardly_any_memory(vm(&json!({"instancetype": null, "template": {"cpus": 2, "memory": "999k"}})), "s.virtualMachine.template.memory")]
#[case::a_search_domain_with_a_dot_at_the_end(vm(&json!({"dnsConfig": {"searches": ["example.com."]}})), "s.virtualMachine.dnsConfig.searches[0]")]
#[case::the_root_as_search_domain(vm(&json!({"dnsConfig": {"searches": ["."]}})), "s.virtualMachine.dnsConfig.searches[0]")]
#[case::seven_search_domains(vm(&json!({"dnsConfig": {"searches": ["a", "b", "c", "d", "e", "f", "g"]}})), "s.virtualMachine.dnsConfig.searches")]
#[case::search_domains_of_257_characters(vm(&json!({"dnsConfig": {"searches": ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63), "e"]}})), "s.virtualMachine.dnsConfig.searches")]
#[case::a_preferences_inference_beside_a_name(vm(&json!({"preference": {"name": "a", "inferFromVolume": "datavolumedisk"}})), "s.virtualMachine.preference.inferFromVolume")]
#[case::inference_from_an_image(vm(&json!({"preference": {"inferFromVolume": "datavolumedisk"}})), "s.virtualMachine.preference.inferFromVolume")]
#[case::inference_beside_a_kind(from_a_claim(&json!({"instancetype": {"name": null, "kind": "VirtualMachineInstancetype", "inferFromVolume": "datavolumedisk"}})), "s.virtualMachine.instancetype.kind")]
fn each_error_is_reported_with_its_field(#[case] extra: Value, #[case] path: &str) {
    let report = check(&extra);
    let paths: Vec<String> = report.errors.iter().map(|error| error.path.to_string()).collect();
    assert_eq!(paths, [path]);
}

#[test]
fn the_shipped_example_of_machine_controller_passes_with_a_warning() {
    let report = check(&json!({
        "topologySpreadConstraints": [{"maxSkew": "1", "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": ""}],
        "affinity": {"nodeAffinityPreset": {"type": "", "key": "", "values": []}},
    }));
    assert!(report.is_ok(), "{:?}", report.errors);
    assert_eq!(report.warnings.len(), 1);
}

#[rstest]
#[case::archive_on_a_node(vm(&json!({"template": {"primaryDisk": {"osImage": "oci-archive://quay.io/x.tar"}}})), "s.virtualMachine.template.primaryDisk.pullMethod: an oci-archive is no image that a node can pull; CDI imports it with pullMethod pod")]
#[case::registry_alone(vm(&json!({"template": {"primaryDisk": {"osImage": "docker://quay.io"}}})), "s.virtualMachine.template.primaryDisk.osImage: \"docker://quay.io\" names no repository and is read as docker.io/library/quay.io; write docker://quay.io/REPOSITORY:TAG")]
#[case::sizes_beside_an_instancetype(vm(&json!({"template": {"memory": "1Gi"}})), "s.virtualMachine.template.memory: has no effect together with an instancetype")]
#[case::inference_beside_a_name(vm(&json!({"instancetype": {"inferFromVolume": "datavolumedisk"}})), "s.virtualMachine.instancetype.inferFromVolume: has no effect together with name")]
#[case::inference_from_no_disk_beside_a_name(vm(&json!({"instancetype": {"inferFromVolume": "rootdisk"}})), "s.virtualMachine.instancetype.inferFromVolume: has no effect together with name")]
#[case::a_policy_beside_a_name(vm(&json!({"instancetype": {"inferFromVolumeFailurePolicy": "Reject!"}})), "s.virtualMachine.instancetype.inferFromVolumeFailurePolicy: has no effect together with name")]
#[case::inference_from_an_image_that_may_fail(vm(&json!({"preference": {"inferFromVolume": "datavolumedisk", "inferFromVolumeFailurePolicy": "Ignore"}})), "s.virtualMachine.preference.inferFromVolume: has no effect: KubeVirt can infer from a cloned PVC, but not from an imported image")]
#[case::an_instancetypes_unknown_kind(vm(&json!({"instancetype": {"kind": "VirtualMachineInstanceType2"}})), "s.virtualMachine.instancetype.kind: \"VirtualMachineInstanceType2\" is not a kind of instancetype and has no effect; did you mean \"VirtualMachineInstancetype\"?")]
#[case::a_flavor(vm(&json!({"flavor": {"name": "x"}})), "s.virtualMachine.flavor: is deprecated and has no effect; use virtualMachine.instancetype")]
#[case::a_pod_preset(json!({"affinity": {"podAffinityPreset": "soft"}}), "s.affinity.podAffinityPreset: is deprecated and has no effect; use topologySpreadConstraints")]
#[case::an_affinity_without_type(json!({"affinity": {"nodeAffinityPreset": {"key": "zone"}}}), "s.affinity.nodeAffinityPreset: has no effect without type; write hard or soft")]
#[case::an_unused_affinity_is_not_judged(json!({"affinity": {"nodeAffinityPreset": {"key": "my zone", "values": ["b c"]}}}), "s.affinity.nodeAffinityPreset: has no effect without type; write hard or soft")]
#[case::an_unused_secret_is_not_judged(vm(&json!({"template": {"primaryDisk": {"osImage": "docker://x", "extraHeadersSecretRef": "A B"}}})), "s.virtualMachine.template.primaryDisk.extraHeadersSecretRef: has no effect; it is for http sources")]
#[case::an_empty_action(json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": ""}]}), "s.topologySpreadConstraints[0].whenUnsatisfiable: is empty, which KubeVirt rejects; ScheduleAnyway is used")]
#[case::a_secret_for_a_registry(vm(&json!({"template": {"primaryDisk": {"osImage": "docker://x", "dataVolumeSecretRef": "s"}}})), "s.virtualMachine.template.primaryDisk.dataVolumeSecretRef: has no effect; it is for http sources")]
#[case::a_pull_method_for_http(vm(&json!({"template": {"primaryDisk": {"pullMethod": "pod"}}})), "s.virtualMachine.template.primaryDisk.pullMethod: has no effect; it is for registry sources")]
#[case::a_header_without_value(vm(&json!({"template": {"primaryDisk": {"extraHeaders": ["token"]}}})), "s.virtualMachine.template.primaryDisk.extraHeaders[0]: has no effect: a header is written as `Name: value`")]
#[case::a_claim_of_three_parts(vm(&json!({"template": {"primaryDisk": {"osImage": "a/b/c"}}})), "s.virtualMachine.template.primaryDisk.osImage: \"a/b/c\" is read as PVC b in namespace a; the rest has no effect")]
#[case::an_unknown_target(vm(&json!({"template": {"primaryDisk": {"storageTarget": "PVC"}}})), "s.virtualMachine.template.primaryDisk.storageTarget: \"PVC\" is not one of pvc, storage; storage is used")]
#[case::no_migration(vm(&json!({"evictionStrategy": "LiveMigrate", "template": {"primaryDisk": {"storageAccessType": "ReadWriteOnce"}}})), "s.virtualMachine.evictionStrategy: a VM with a disk that is ReadWriteOnce cannot migrate; draining its host will hang")]
#[case::a_value_beside_a_reference(json!({"auth": {"kubeconfig": {"value": "YQ==", "secretKeyRef": {"namespace": "a", "name": "b", "key": "c"}}}}), "s.auth.kubeconfig: has a value and a reference; the value is used, unlike in other fields")]
fn what_has_no_effect_is_a_warning(#[case] extra: Value, #[case] warning: &str) {
    let report = check(&extra);
    assert!(report.is_ok(), "{:?}", report.errors);
    assert_eq!(report.warnings, [warning]);
}

#[rstest]
#[case::no_further_disk(0, "a-deployment.with-a-name-of-more-than-forty-characters", None)]
#[case::as_long_as_can_be(1, "a123456789b123456789c123456789d", None)]
#[case::one_too_long(
    1,
    "a123456789b123456789c123456789de",
    Some(
        "must be no more than 31 characters with secondaryDisks: its Machines' names are up to 49, and NAME-secondarydisk0 becomes a volume"
    )
)]
#[case::cut_by_the_api_server(
    1,
    "a123456789b123456789c123456789d123456789e123456789f",
    Some(
        "must be no more than 31 characters with secondaryDisks: its Machines' names are up to 63, and NAME-secondarydisk0 becomes a volume"
    )
)]
#[case::a_dot(
    1,
    "a.b",
    Some(
        "must have no dots with secondaryDisks: its Machines bear it, and NAME-secondarydisk0 becomes a volume"
    )
)]
fn a_deployments_name_must_do_for_the_disks_of_its_machines(
    #[case] disks: usize,
    #[case] deployment: &str,
    #[case] want: Option<&str>,
) {
    let mut spec = CloudProviderSpec::default();
    spec.virtual_machine
        .secondary_disks
        .resize(disks, crate::kubevirt::spec::SecondaryDisk::default());
    let mut report = Report::new();
    let path = FieldPath::new("metadata.name");
    owner_name(
        deployment,
        MachineOwnerKind::Deployment,
        &spec,
        &path,
        &mut report,
    );
    let messages: Vec<_> = report.errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(messages, want.into_iter().collect::<Vec<_>>());

    // A set of that name has no hash, so it may be longer.
    let mut of_set = Report::new();
    owner_name(
        &format!("{deployment}-4567890bcd"),
        MachineOwnerKind::Set,
        &spec,
        &path,
        &mut of_set,
    );
    assert_eq!(of_set.is_ok(), want.is_none());

    // What it says is what its Machines are reported.
    if want.is_none() {
        let machine = format!("{deployment}-4567890bcd-x7k2p");
        name(&machine, &spec, &FieldPath::new("metadata.name"), &mut report);
        assert!(report.is_ok(), "{:?}", report.errors);
    }
}

#[rstest]
#[case::no_further_disk(0, "a.b", None)]
#[case::a_plain_name(1, "web-1", None)]
#[case::a_dot(
    1,
    "a.b",
    Some("must have no dots with secondaryDisks: a.b-secondarydisk0 becomes a volume")
)]
#[case::as_long_as_can_be(1, "a123456789b123456789c123456789d123456789e1234567", None)]
#[case::too_long_for_eleven(
    11,
    "a123456789b123456789c123456789d123456789e1234567",
    Some(
        "must be no more than 47 characters with secondaryDisks: a123456789b123456789c123456789d123456789e1234567-secondarydisk10 becomes a volume"
    )
)]
fn the_name_must_do_for_the_disks(#[case] disks: usize, #[case] machine: &str, #[case] want: Option<&str>) {
    let mut spec = CloudProviderSpec::default();
    spec.virtual_machine
        .secondary_disks
        .resize(disks, crate::kubevirt::spec::SecondaryDisk::default());
    let mut report = Report::new();
    name(machine, &spec, &FieldPath::new("metadata.name"), &mut report);
    let messages: Vec<_> = report.errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(messages, Vec::from_iter(want));
}
