use rstest::rstest;
use serde_json::json;

use super::*;

const CLOUD: &str = "/spec/providerSpec/value/cloudProviderSpec";
const VM: &str = "/spec/providerSpec/value/cloudProviderSpec/virtualMachine";

fn template() -> Value {
    json!({
        "metadata": {"labels": {"name": "foo"}},
        "spec": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}],
            "versions": {"kubelet": "1.33.4"},
            "providerSpec": {"value": {
                "cloudProvider": "kubevirt",
                "operatingSystem": "ubuntu",
                "cloudProviderSpec": {
                    "auth": {"kubeconfig": {"secretKeyRef": {"namespace": "a", "name": "b", "key": "c"}}},
                    "clusterName": "c",
                    "virtualMachine": {"template": {
                        "cpus": "2",
                        "memory": "4Gi",
                        "primaryDisk": {"osImage": "http://images/ubuntu.img", "size": "10Gi", "storageClassName": "s"},
                    }},
                },
            }},
        },
    })
}

/// The template with a value at a pointer whose parent is there, or is made.
fn with(pointer: &str, value: Value) -> Value {
    let mut template = template();
    let mut place = &mut template;
    for key in pointer.split('/').skip(1) {
        place = &mut place[key.replace("~1", "/")];
    }
    *place = value;
    template
}

#[rstest]
#[case::the_hash_of_its_set("/metadata/labels/machine-template-hash", json!("1234"))]
#[case::no_time_of_creation("/metadata/creationTimestamp", json!(null))]
#[case::no_time_of_creation_of_the_node("/spec/metadata/creationTimestamp", json!(null))]
#[case::an_unknown_key("/spec/foo", json!(1))]
#[case::a_miscased_key("/spec/Taints", json!([]))]
#[case::where_its_machines_are("/spec/metadata/annotations/cluster.x-k8s.io~1cluster-namespace", json!("vms"))]
#[case::no_ssh_keys("/spec/providerSpec/value/sshPublicKeys", json!(null))]
#[case::an_empty_list_of_ssh_keys("/spec/providerSpec/value/sshPublicKeys", json!([]))]
#[case::no_authority("/spec/providerSpec/value/caPublicKey", json!(""))]
#[case::no_network("/spec/providerSpec/value/network", json!({"cidr": "", "gateway": "", "dns": {"servers": null}}))]
#[case::no_cloud_config("/spec/providerSpec/value/overwriteCloudConfig", json!(null))]
#[case::the_default_of_its_system("/spec/providerSpec/value/operatingSystemSpec", json!({"distUpgradeOnBoot": false}))]
#[case::an_empty_spec_of_its_system("/spec/providerSpec/value/operatingSystemSpec", json!({}))]
#[case::no_affinity(&format!("{CLOUD}/affinity"), json!({"nodeAffinityPreset": {"type": "", "values": []}}))]
#[case::no_project(&format!("{CLOUD}/projectID"), json!({"value": ""}))]
#[case::another_case(&format!("{CLOUD}/ClusterName"), json!("ignored beside the exact key"))]
#[case::an_object_for_text(&format!("{CLOUD}/clusterName"), json!({"value": "c"}))]
#[case::half_a_reference(&format!("{CLOUD}/clusterName"), json!({"value": "c", "secretKeyRef": {"name": "x"}}))]
#[case::more_of_a_reference(&format!("{CLOUD}/auth/kubeconfig/secretKeyRef/kind"), json!("Secret"))]
#[case::a_number_of_cpus(&format!("{VM}/template/cpus"), json!(2))]
#[case::cpus_in_thousandths(&format!("{VM}/template/cpus"), json!({"Value": "2000m"}))]
#[case::memory_in_a_smaller_unit(&format!("{VM}/template/memory"), json!("4096Mi"))]
#[case::bytes_of_a_disk(&format!("{VM}/template/primaryDisk/size"), json!(10_737_418_240_u64))]
#[case::no_further_disks(&format!("{VM}/template/secondaryDisks"), json!([]))]
#[case::no_cores(&format!("{VM}/template/vcpus"), json!({"cores": 0}))]
#[case::queues_as_by_default(&format!("{VM}/enableNetworkMultiQueue"), json!(true))]
#[case::nowhere(&format!("{VM}/location"), json!({"region": ""}))]
#[case::the_default_eviction_strategy(&format!("{VM}/evictionStrategy"), json!("External"))]
#[case::the_default_storage_target(&format!("{VM}/template/primaryDisk/storageTarget"), json!("storage"))]
#[case::the_source_of_the_image(&format!("{VM}/template/primaryDisk/source"), json!("http"))]
#[case::a_source_that_is_guessed(&format!("{VM}/template/primaryDisk/source"), json!("web"))]
#[case::a_pull_method_of_no_registry(&format!("{VM}/template/primaryDisk/pullMethod"), json!("node"))]
#[case::the_default_spread(&format!("{CLOUD}/topologySpreadConstraints"), json!([
    {"maxSkew": "1", "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}]))]
#[case::the_default_spread_in_other_words(&format!("{CLOUD}/topologySpreadConstraints"), json!([
    {"maxSkew": {"value": "+1"}, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": ""}]))]
#[case::an_affinity_without_a_type(&format!("{CLOUD}/affinity"), json!({"nodeAffinityPreset": {"type": "", "key": "k", "values": ["v"]}}))]
#[case::a_preset_without_effect(&format!("{CLOUD}/affinity"), json!({"podAffinityPreset": "soft", "podAntiAffinityPreset": "hard"}))]
#[case::the_name_of_a_network(&format!("{VM}/providerNetwork"), json!({"name": "x", "vpc": {"name": "y"}}))]
#[case::a_flavor(&format!("{VM}/flavor"), json!({"name": "large"}))]
#[case::a_version_with_v("/spec/versions/kubelet", json!("v1.33.4"))]
#[case::a_version_that_nothing_reads("/spec/versions/controlPlane", json!("1.33.4"))]
#[case::an_empty_dns_config(&format!("{VM}/dnsConfig"), json!({"nameservers": [], "options": null}))]
#[case::an_unused_value_beside_a_reference(&format!("{CLOUD}/auth/kubeconfig/value"), json!("x"))]
#[case::a_provider_id("/spec/providerID", json!("kubevirt://x"))]
#[case::the_label_of_admission("/spec/metadata/labels/v1.machine-controller.kubermatic.io~1operating-system", json!("ubuntu"))]
#[case::an_unknown_setting("/spec/providerSpec/value/operatingSystemSpec", json!({"distUpgradeOnBoot": false, "x": 1}))]
#[case::a_setting_of_another_system("/spec/providerSpec/value/operatingSystemSpec", json!({"disableAutoUpdate": true}))]
#[case::an_empty_machinist(&format!("{CLOUD}/machinist"), json!({"files": [], "kubelet": {"extraArgs": {}}, "proxy": {"no": ["x"]}}))]
#[case::a_default_of_the_kubelet(&format!("{CLOUD}/machinist"), json!({"kubelet": {"extraConfig": {"failSwapOn": false, "x": null}}}))]
fn how_it_is_written_is_no_difference(#[case] pointer: &str, #[case] value: Value) {
    let other = with(pointer, value);
    assert!(
        equal(&template(), &other),
        "{:#}\n{:#}",
        canonical(&template()),
        canonical(&other)
    );
    assert!(equal_in_place(&template(), &other));
    assert_eq!(hash(&template()), hash(&other));
}

#[rstest]
#[case::a_label("/metadata/labels/x", json!(""))]
#[case::an_annotation("/metadata/annotations/x", json!("y"))]
#[case::a_version("/spec/versions/kubelet", json!("1.33.5"))]
#[case::an_unknown_key_of_the_value("/spec/providerSpec/value/foo", json!(1))]
#[case::an_ssh_key("/spec/providerSpec/value/sshPublicKeys", json!(["x"]))]
#[case::another_system("/spec/providerSpec/value/operatingSystem", json!("flatcar"))]
#[case::an_upgrade_on_boot("/spec/providerSpec/value/operatingSystemSpec", json!({"distUpgradeOnBoot": true}))]
#[case::an_empty_cloud_config("/spec/providerSpec/value/overwriteCloudConfig", json!(""))]
#[case::another_secret(&format!("{CLOUD}/auth/kubeconfig/secretKeyRef/key"), json!("d"))]
#[case::a_config_map(&format!("{CLOUD}/auth/kubeconfig"), json!({"configMapKeyRef": {"namespace": "a", "name": "b", "key": "c"}}))]
#[case::another_eviction_strategy(&format!("{VM}/evictionStrategy"), json!("LiveMigrate"))]
#[case::a_claim_of_another_kind(&format!("{VM}/template/primaryDisk/storageTarget"), json!("pvc"))]
#[case::another_source(&format!("{VM}/template/primaryDisk/source"), json!("registry"))]
#[case::an_access_mode_that_a_profile_may_offer(&format!("{VM}/template/primaryDisk/storageAccessType"), json!("ReadWriteOnce"))]
#[case::a_spread(&format!("{CLOUD}/topologySpreadConstraints"), json!([{"maxSkew": "2", "topologyKey": "kubernetes.io/hostname"}]))]
#[case::an_affinity(&format!("{CLOUD}/affinity"), json!({"nodeAffinityPreset": {"type": "soft", "key": "k"}}))]
#[case::a_subnet(&format!("{VM}/providerNetwork"), json!({"vpc": {"subnet": {"name": "z"}}}))]
#[case::a_reference_to_the_same_text(&format!("{CLOUD}/projectID"), json!({"secretKeyRef": {"namespace": "a", "name": "b", "key": "c"}}))]
#[case::a_family("/spec/providerSpec/value/network", json!({"ipFamily": "IPv6"}))]
#[case::a_file(&format!("{CLOUD}/machinist"), json!({"files": [{"path": "/etc/motd"}]}))]
#[case::a_setting_of_the_kubelet_of_one_pool(&format!("{CLOUD}/machinist"), json!({"kubelet": {"extraConfig": {"failSwapOn": true}}}))]
#[case::another_cluster(&format!("{CLOUD}/clusterName"), json!("d"))]
#[case::more_cpus(&format!("{VM}/template/cpus"), json!("3"))]
#[case::another_unit_of_memory(&format!("{VM}/template/memory"), json!("4G"))]
#[case::a_byte_of_a_disk(&format!("{VM}/template/primaryDisk/size"), json!("10737418241"))]
#[case::a_disk(&format!("{VM}/template/secondaryDisks"), json!([{}]))]
#[case::cores(&format!("{VM}/template/vcpus"), json!({"cores": 2}))]
#[case::one_queue(&format!("{VM}/enableNetworkMultiQueue"), json!(false))]
#[case::an_instancetype(&format!("{VM}/instancetype"), json!({"name": "x"}))]
#[case::a_zone(&format!("{VM}/location"), json!({"zone": "z"}))]
#[case::a_zone_of_the_node("/spec/metadata/labels/topology.kubernetes.io~1zone", json!("z"))]
#[case::a_setting_of_the_kubelet("/spec/metadata/annotations/v1.kubelet-config.machine-controller.kubermatic.io~1MaxPods", json!("50"))]
fn another_machine_is_a_difference(#[case] pointer: &str, #[case] value: Value) {
    let other = with(pointer, value);
    assert!(!equal(&template(), &other));
    assert!(!equal_in_place(&template(), &other));
    assert_ne!(hash(&template()), hash(&other));
}

#[rstest]
#[case::another_label("/spec/metadata/labels/a", json!("c"))]
#[case::no_labels("/spec/metadata/labels", json!(null))]
#[case::an_annotation("/spec/metadata/annotations/kubermatic.io~1skip-eviction", json!("x"))]
#[case::no_taints("/spec/taints", json!([]))]
#[case::a_timeout_of_the_drain("/metadata/annotations/machinist.dev~1node-drain-timeout", json!("1h"))]
#[case::a_timeout("/metadata/annotations/machinist.dev~1provisioning-timeout", json!("1h"))]
#[case::another_taint("/spec/taints", json!([{"key": "x", "effect": "NoExecute"}]))]
fn what_is_only_on_the_node_needs_no_other_machine(#[case] pointer: &str, #[case] value: Value) {
    let other = with(pointer, value);
    assert!(!equal(&template(), &other));
    assert!(equal_in_place(&template(), &other));
}

/// Changes whose meaning depends on what is beside them.
#[rstest]
#[case::cores_instead_of_cpus(json!({"vcpus": {"cores": 2}, "cpus": "2"}), json!({"vcpus": {"cores": 2}, "cpus": null}), true)]
#[case::the_pull_method_of_a_registry(json!({"primaryDisk": {"osImage": "docker://x/y"}}), json!({"primaryDisk": {"osImage": "docker://x/y", "pullMethod": "node"}}), true)]
#[case::another_pull_method(json!({"primaryDisk": {"osImage": "docker://x/y"}}), json!({"primaryDisk": {"osImage": "docker://x/y", "pullMethod": "pod"}}), false)]
#[case::headers_of_no_download(json!({"primaryDisk": {"osImage": "docker://x/y"}}), json!({"primaryDisk": {"osImage": "docker://x/y", "extraHeaders": ["a: b"]}}), true)]
#[case::the_access_mode_of_the_primary_disk(
    json!({"primaryDisk": {"storageAccessType": "ReadWriteMany"}, "secondaryDisks": [{"size": "1Gi", "storageClassName": "s"}]}),
    json!({"primaryDisk": {"storageAccessType": "ReadWriteMany"}, "secondaryDisks": [{"size": "1024Mi", "storageClassName": "s"}]}), true)]
#[case::an_access_mode_of_its_own(
    json!({"primaryDisk": {"storageAccessType": "ReadWriteMany"}, "secondaryDisks": [{"size": "1Gi", "storageClassName": "s"}]}),
    json!({"primaryDisk": {"storageAccessType": "ReadWriteMany"}, "secondaryDisks": [{"size": "1Gi", "storageClassName": "s", "storageAccessType": "ReadWriteMany"}]}), false)]
fn what_is_beside_a_value_counts(#[case] a: Value, #[case] b: Value, #[case] want: bool) {
    let with = |change: &Value| {
        let mut template = template();
        json_patch::merge(template.pointer_mut(&format!("{VM}/template")).unwrap(), change);
        template
    };
    assert_eq!(equal(&with(&a), &with(&b)), want);
}

#[test]
fn beside_an_instancetype_cpus_do_not_count() {
    let sized = with(
        &format!("{VM}/instancetype"),
        json!({"name": "i", "kind": "virtualmachineinstancetype"}),
    );
    let mut bare = with(
        &format!("{VM}/instancetype"),
        json!({"name": "i", "kind": "VirtualMachineInstancetype"}),
    );
    bare.pointer_mut(&format!("{VM}/template"))
        .unwrap()
        .as_object_mut()
        .unwrap()
        .remove("cpus");
    assert!(equal(&sized, &bare));
}

#[test]
fn a_setting_counts_in_the_letter_case_that_the_guest_reads() {
    let settings = |key: &str| with("/spec/providerSpec/value/operatingSystemSpec", json!({key: true}));
    assert!(
        !equal(&settings("distUpgradeOnBoot"), &settings("DistUpgradeOnBoot")),
        "the built-in bootstrap reads one"
    );
    assert!(
        !equal(&settings("DistUpgradeOnBoot"), &template()),
        "operating-system-manager reads both"
    );
}

#[test]
fn permissions_and_mirrors_count_as_the_guest_gets_them() {
    let machinist = |mode: &str, mirror: &str| {
        with(
            &format!("{CLOUD}/machinist"),
            json!({
                "files": [{"path": "/etc/motd", "permissions": mode}],
                "registries": {"mirrors": {"docker.io": [mirror]}},
            }),
        )
    };
    assert!(equal(
        &machinist("0644", "https://m"),
        &machinist("644", "https://m/")
    ));
    assert!(!equal(
        &machinist("0644", "https://m"),
        &machinist("0600", "https://m")
    ));
}

/// Nothing can be made of it: only what is absent does not count.
#[test]
fn what_cannot_be_decoded_is_compared_as_it_is() {
    let broken = |key: &str, value: Value| {
        let mut template = with(&format!("{VM}/foo"), json!(1));
        template.pointer_mut(VM).unwrap()[key] = value;
        template
    };
    assert!(equal(
        &broken("dnsPolicy", json!("")),
        &broken("dnsConfig", json!({"options": [], "searches": null}))
    ));
    assert!(!equal(
        &broken("evictionStrategy", json!("External")),
        &broken("dnsPolicy", json!(""))
    ));
}

#[test]
fn topology_that_admission_repeats_is_no_difference() {
    let located = with(&format!("{VM}/location"), json!({"region": "r"}));
    let mut labeled = located.clone();
    labeled["spec"]["metadata"]["labels"]["topology.kubernetes.io/region"] = json!("r");
    assert!(equal(&located, &labeled));
    labeled["spec"]["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("z");
    assert!(!equal(&located, &labeled), "no location says the zone");
}

#[test]
fn keys_of_the_value_match_in_any_letter_case() {
    let mut shouted = template();
    let value = shouted.pointer_mut("/spec/providerSpec/value").unwrap();
    let spec = value.as_object_mut().unwrap();
    for (key, other) in [
        ("cloudProvider", "CloudProvider"),
        ("cloudProviderSpec", "CLOUDPROVIDERSPEC"),
    ] {
        let value = spec.remove(key).unwrap();
        spec.insert(other.to_owned(), value);
    }
    assert!(equal(&template(), &shouted));
}

#[rstest]
#[case(json!(null))]
#[case(json!("x"))]
#[case(json!({"spec": {"providerSpec": {"value": []}}}))]
#[case(json!({"spec": [], "metadata": 1}))]
fn what_is_no_template_equals_itself_only(#[case] nonsense: Value) {
    assert!(equal(&nonsense, &nonsense.clone()));
    assert!(!equal(&nonsense, &template()) && !equal_in_place(&nonsense, &template()));
}

#[rstest]
#[case(0, "4")]
#[case(1_234_567_890, "56789bcdf4")]
#[case(u32::MAX, "86f8fbc6f9")]
fn a_names_end_is_the_hash_in_other_characters(#[case] hash: u32, #[case] want: &str) {
    assert_eq!(name_suffix(hash), want);
}
