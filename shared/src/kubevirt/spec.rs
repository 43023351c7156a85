//! `cloudProviderSpec` of the KubeVirt provider, decoded strictly: an unknown key is an error.

use k8s_openapi::api::core::v1::PodDNSConfig;
use serde_json::Value;

use crate::api::config_var::{ConfigVarBool, ConfigVarString, KeyRef};
use crate::api::decode::{Field, Fields};
use crate::api::field::{FieldPath, Report};
use crate::provider::machinist::{self, Machinist};

/// Access modes of claims.
pub const ACCESS_MODES: [&str; 4] = [
    "ReadWriteOnce",
    "ReadWriteMany",
    "ReadOnlyMany",
    "ReadWriteOncePod",
];

/// `cloudProviderSpec` as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CloudProviderSpec {
    /// Name of the user cluster, for labels. `CLUSTER_ID` in the environment wins.
    pub cluster_name: ConfigVarString,
    /// ID of the project, for labels. `PROJECT_ID` in the environment wins.
    pub project_id: ConfigVarString,
    /// Kubeconfig of the infra cluster: inline base64, or raw or base64 behind a reference.
    pub kubeconfig: ConfigVarString,
    /// The virtual machine.
    pub virtual_machine: VirtualMachine,
    /// Preset of a node affinity.
    pub node_affinity: NodeAffinityPreset,
    /// How VMs are spread over infra nodes.
    pub topology_spread: Vec<TopologySpread>,
    /// Machinist's own settings of the built-in bootstrap.
    pub machinist: Box<Machinist>,
}

/// `virtualMachine`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VirtualMachine {
    /// Instancetype; without one, CPUs and memory are required.
    pub instancetype: Option<Matcher>,
    /// Preference.
    pub preference: Option<Matcher>,
    /// Number of vCPUs as cores; 0 if unset. Wins over `cpus`.
    pub vcpu_cores: i64,
    /// CPUs, a quantity.
    pub cpus: ConfigVarString,
    /// Memory, a quantity.
    pub memory: ConfigVarString,
    /// The disk with the operating system.
    pub primary_disk: PrimaryDisk,
    /// Further disks.
    pub secondary_disks: Vec<SecondaryDisk>,
    /// DNS policy of the launcher pod.
    pub dns_policy: ConfigVarString,
    /// DNS configuration of the launcher pod.
    pub dns_config: Option<PodDNSConfig>,
    /// Region, a label only.
    pub region: String,
    /// Zone, a label only.
    pub zone: String,
    /// Name of the provider network's subnet.
    pub subnet: String,
    /// Multiple queues per network interface. Default true.
    pub network_multi_queue: ConfigVarBool,
    /// What an eviction of the launcher pod does: `External` (default) or `LiveMigrate`.
    pub eviction_strategy: String,
}

/// References an instancetype or preference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matcher {
    /// Name.
    pub name: String,
    /// Kind; discovered by name if empty.
    pub kind: String,
    /// ControllerRevision to use.
    pub revision_name: String,
    /// Volume to infer the name from.
    pub infer_from_volume: String,
    /// What to do if that fails.
    pub infer_from_volume_failure_policy: String,
}

/// `template.primaryDisk`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PrimaryDisk {
    /// Size, a quantity.
    pub size: ConfigVarString,
    /// StorageClass.
    pub storage_class: ConfigVarString,
    /// Access mode; from the StorageProfile if unset.
    pub access_mode: ConfigVarString,
    /// `pvc` or `storage` (default).
    pub storage_target: ConfigVarString,
    /// URL, image or claim of the operating system's image.
    pub os_image: ConfigVarString,
    /// `http`, `registry` or `pvc`; inferred from the image if unset.
    pub source: ConfigVarString,
    /// `node` (default) or `pod`, for registries.
    pub pull_method: ConfigVarString,
    /// Secret on the infra cluster with `accessKeyId` and `secretKey`.
    pub data_volume_secret: ConfigVarString,
    /// Headers of the image's download, `Name: value`.
    pub extra_headers: Vec<String>,
    /// Secret on the infra cluster with such headers.
    pub extra_headers_secret: ConfigVarString,
}

/// An item of `template.secondaryDisks`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SecondaryDisk {
    /// Size, a quantity.
    pub size: ConfigVarString,
    /// StorageClass.
    pub storage_class: ConfigVarString,
    /// Access mode; from the StorageProfile if unset.
    pub access_mode: ConfigVarString,
}

/// `affinity.nodeAffinityPreset`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeAffinityPreset {
    /// `hard`, `soft` or nothing.
    pub kind: ConfigVarString,
    /// Label key.
    pub key: ConfigVarString,
    /// Label values; any if empty.
    pub values: Vec<ConfigVarString>,
}

/// An item of `topologySpreadConstraints`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopologySpread {
    /// Maximum difference in VMs between two domains.
    pub max_skew: ConfigVarString,
    /// Label that identifies the domains.
    pub topology_key: ConfigVarString,
    /// `DoNotSchedule` or `ScheduleAnyway`.
    pub when_unsatisfiable: ConfigVarString,
}

impl CloudProviderSpec {
    /// Every value that a VM is rendered from and that may be behind a reference, with its field.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'static str, &ConfigVarString)> {
        let vm = &self.virtual_machine;
        let disk = &vm.primary_disk;
        let single = [
            ("clusterName", &self.cluster_name),
            ("projectID", &self.project_id),
            ("cpus", &vm.cpus),
            ("memory", &vm.memory),
            ("primaryDisk.size", &disk.size),
            ("primaryDisk.storageClassName", &disk.storage_class),
            ("primaryDisk.storageAccessType", &disk.access_mode),
            ("primaryDisk.storageTarget", &disk.storage_target),
            ("primaryDisk.osImage", &disk.os_image),
            ("primaryDisk.source", &disk.source),
            ("primaryDisk.pullMethod", &disk.pull_method),
            ("primaryDisk.dataVolumeSecretRef", &disk.data_volume_secret),
            ("primaryDisk.extraHeadersSecretRef", &disk.extra_headers_secret),
            ("dnsPolicy", &vm.dns_policy),
            ("nodeAffinityPreset.type", &self.node_affinity.kind),
            ("nodeAffinityPreset.key", &self.node_affinity.key),
        ];
        let secondary = vm.secondary_disks.iter().flat_map(|disk| {
            [
                ("secondaryDisks.size", &disk.size),
                ("secondaryDisks.storageClassName", &disk.storage_class),
                ("secondaryDisks.storageAccessType", &disk.access_mode),
            ]
        });
        let spread = self.topology_spread.iter().flat_map(|constraint| {
            [
                ("topologySpreadConstraints.maxSkew", &constraint.max_skew),
                ("topologySpreadConstraints.topologyKey", &constraint.topology_key),
                (
                    "topologySpreadConstraints.whenUnsatisfiable",
                    &constraint.when_unsatisfiable,
                ),
            ]
        });
        let values = self.node_affinity.values.iter();
        let values = values.map(|value| ("nodeAffinityPreset.values", value));
        single.into_iter().chain(secondary).chain(spread).chain(values)
    }

    /// Every reference to a Secret or ConfigMap of the user cluster.
    pub fn references(&self) -> Vec<&KeyRef> {
        self.texts()
            .map(|(_, text)| text)
            .chain([&self.kubeconfig])
            .flat_map(ConfigVarString::references)
            .chain(self.virtual_machine.network_multi_queue.references())
            .chain(self.machinist.references())
            .collect()
    }
}

/// Decodes `cloudProviderSpec`; all errors are reported. `None` if it is absent or not an object.
pub fn decode(field: &Field<'_>, report: &mut Report) -> Option<CloudProviderSpec> {
    if field.value.is_none() {
        report.required(&field.path, "is required for the provider kubevirt");
        return None;
    }
    let mut fields = field.object(report)?;
    let auth = nested(&mut fields, "auth", report);
    let mut spec = CloudProviderSpec {
        cluster_name: ConfigVarString::decode(&fields.take("clusterName"), report),
        project_id: ConfigVarString::decode(&fields.take("projectID"), report),
        ..CloudProviderSpec::default()
    };
    if let Some(mut auth) = auth {
        spec.kubeconfig = ConfigVarString::decode(&auth.take("kubeconfig"), report);
        auth.deny_unknown(report);
    }
    if let Some(vm) = nested(&mut fields, "virtualMachine", report) {
        spec.virtual_machine = virtual_machine(vm, report);
    }
    if let Some(affinity) = nested(&mut fields, "affinity", report) {
        spec.node_affinity = affinity_presets(affinity, report);
    }
    let spread = fields
        .take("topologySpreadConstraints")
        .items(report)
        .unwrap_or_default();
    spec.topology_spread = spread
        .iter()
        .filter_map(|item| topology_spread(item, report))
        .collect();
    *spec.machinist = machinist::decode(&fields.take("machinist"), report);
    fields.deny_unknown(report);
    Some(spec)
}

fn nested<'a>(fields: &mut Fields<'a>, key: &'static str, report: &mut Report) -> Option<Fields<'a>> {
    fields.take(key).object(report)
}

fn virtual_machine(mut fields: Fields<'_>, report: &mut Report) -> VirtualMachine {
    let flavor = fields.take("flavor");
    if flavor.value.is_some() {
        report.warn(
            &flavor.path,
            "is deprecated and has no effect; use virtualMachine.instancetype",
        );
        decode_flavor(&flavor, report);
    }
    let mut vm = VirtualMachine {
        instancetype: matcher(&fields.take("instancetype"), report),
        preference: matcher(&fields.take("preference"), report),
        dns_policy: ConfigVarString::decode(&fields.take("dnsPolicy"), report),
        dns_config: dns_config(&fields.take("dnsConfig"), report),
        network_multi_queue: ConfigVarBool::decode(&fields.take("enableNetworkMultiQueue"), report),
        eviction_strategy: fields.take("evictionStrategy").string(report).unwrap_or_default(),
        ..VirtualMachine::default()
    };
    if let Some(template) = nested(&mut fields, "template", report) {
        decode_template(&mut vm, template, report);
    }
    if let Some(mut location) = nested(&mut fields, "location", report) {
        vm.region = location.take("region").string(report).unwrap_or_default();
        vm.zone = location.take("zone").string(report).unwrap_or_default();
        location.deny_unknown(report);
    }
    if let Some(mut network) = nested(&mut fields, "providerNetwork", report) {
        // The names of network and VPC are free text without effect.
        network.take("name").string(report);
        if let Some(mut vpc) = nested(&mut network, "vpc", report) {
            vpc.take("name").string(report);
            if let Some(mut subnet) = nested(&mut vpc, "subnet", report) {
                vm.subnet = subnet.take("name").string(report).unwrap_or_default();
                subnet.deny_unknown(report);
            }
            vpc.deny_unknown(report);
        }
        network.deny_unknown(report);
    }
    fields.deny_unknown(report);
    vm
}

fn decode_flavor(flavor: &Field<'_>, report: &mut Report) {
    if let Some(mut fields) = flavor.object(report) {
        ConfigVarString::decode(&fields.take("name"), report);
        ConfigVarString::decode(&fields.take("profile"), report);
        fields.deny_unknown(report);
    }
}

fn decode_template(vm: &mut VirtualMachine, mut fields: Fields<'_>, report: &mut Report) {
    if let Some(mut vcpus) = nested(&mut fields, "vcpus", report) {
        vm.vcpu_cores = vcpus.take("cores").integer(report).unwrap_or_default();
        vcpus.deny_unknown(report);
    }
    vm.cpus = ConfigVarString::decode(&fields.take("cpus"), report);
    vm.memory = ConfigVarString::decode(&fields.take("memory"), report);
    if let Some(disk) = nested(&mut fields, "primaryDisk", report) {
        vm.primary_disk = primary_disk(disk, report);
    }
    let disks = fields.take("secondaryDisks").items(report).unwrap_or_default();
    for item in disks {
        let Some(mut disk) = Fields::of(item.value.unwrap_or(&Value::Null), item.path.clone(), report) else {
            continue;
        };
        vm.secondary_disks.push(SecondaryDisk {
            size: ConfigVarString::decode(&disk.take("size"), report),
            storage_class: ConfigVarString::decode(&disk.take("storageClassName"), report),
            access_mode: ConfigVarString::decode(&disk.take("storageAccessType"), report),
        });
        disk.deny_unknown(report);
    }
    fields.deny_unknown(report);
}

fn primary_disk(mut fields: Fields<'_>, report: &mut Report) -> PrimaryDisk {
    let mut var = |key: &'static str, report: &mut Report| ConfigVarString::decode(&fields.take(key), report);
    let mut disk = PrimaryDisk {
        size: var("size", report),
        storage_class: var("storageClassName", report),
        access_mode: var("storageAccessType", report),
        storage_target: var("storageTarget", report),
        os_image: var("osImage", report),
        source: var("source", report),
        pull_method: var("pullMethod", report),
        data_volume_secret: var("dataVolumeSecretRef", report),
        extra_headers_secret: var("extraHeadersSecretRef", report),
        extra_headers: Vec::new(),
    };
    disk.extra_headers = fields.take("extraHeaders").strings(report).unwrap_or_default();
    fields.deny_unknown(report);
    disk
}

fn matcher(field: &Field<'_>, report: &mut Report) -> Option<Matcher> {
    field.value?;
    let mut fields = field.object(report)?;
    let mut text =
        |key: &'static str, report: &mut Report| fields.take(key).string(report).unwrap_or_default();
    let matcher = Matcher {
        name: text("name", report),
        kind: text("kind", report),
        revision_name: text("revisionName", report),
        infer_from_volume: text("inferFromVolume", report),
        infer_from_volume_failure_policy: text("inferFromVolumeFailurePolicy", report),
    };
    fields.deny_unknown(report);
    Some(matcher)
}

/// Empty is absent, in each field and as a whole.
fn dns_config(field: &Field<'_>, report: &mut Report) -> Option<PodDNSConfig> {
    let mut fields = field.object(report)?;
    let mut strings = |key: &'static str, report: &mut Report| {
        let strings = fields.take(key).strings(report);
        strings.filter(|strings| !strings.is_empty())
    };
    let (nameservers, searches) = (strings("nameservers", report), strings("searches", report));
    let items = fields.take("options").items(report).unwrap_or_default();
    let mut options = Vec::new();
    for item in items {
        let Some(mut option) = item.object(report) else {
            continue;
        };
        options.push(k8s_openapi::api::core::v1::PodDNSConfigOption {
            name: option.take("name").string(report).filter(|name| !name.is_empty()),
            value: option.take("value").string(report),
        });
        option.deny_unknown(report);
    }
    fields.deny_unknown(report);
    let config = PodDNSConfig {
        nameservers,
        searches,
        options: Some(options).filter(|options| !options.is_empty()),
    };
    (config != PodDNSConfig::default()).then_some(config)
}

fn affinity_presets(mut fields: Fields<'_>, report: &mut Report) -> NodeAffinityPreset {
    for key in ["podAffinityPreset", "podAntiAffinityPreset"] {
        let preset = fields.take(key);
        if preset.value.is_some() {
            report.warn(
                &preset.path,
                "is deprecated and has no effect; use topologySpreadConstraints",
            );
            ConfigVarString::decode(&preset, report);
        }
    }
    let mut preset = NodeAffinityPreset::default();
    if let Some(mut node) = nested(&mut fields, "nodeAffinityPreset", report) {
        preset.kind = ConfigVarString::decode(&node.take("type"), report);
        preset.key = ConfigVarString::decode(&node.take("key"), report);
        let values = node.take("values").items(report).unwrap_or_default();
        preset.values = values
            .iter()
            .map(|value| ConfigVarString::decode(value, report))
            .collect();
        node.deny_unknown(report);
    }
    fields.deny_unknown(report);
    preset
}

fn topology_spread(item: &Field<'_>, report: &mut Report) -> Option<TopologySpread> {
    let mut fields = Fields::of(item.value.unwrap_or(&Value::Null), item.path.clone(), report)?;
    let constraint = TopologySpread {
        max_skew: ConfigVarString::decode(&fields.take("maxSkew"), report),
        topology_key: ConfigVarString::decode(&fields.take("topologyKey"), report),
        when_unsatisfiable: ConfigVarString::decode(&fields.take("whenUnsatisfiable"), report),
    };
    fields.deny_unknown(report);
    Some(constraint)
}

/// Path of `cloudProviderSpec` below a Machine's spec at `spec`.
pub fn path(spec: &FieldPath) -> FieldPath {
    spec.child("providerSpec")
        .child("value")
        .child("cloudProviderSpec")
}
