//! Fields of the VirtualMachine without a field in the manifest, and those that depend on more than one.

use serde_json::{Value, json};

use super::Row;

const SOURCE: &str = "/spec/dataVolumeTemplates/0/spec/source";
const IMAGE: &str = "virtualMachine.template.primaryDisk.osImage";
const DISKS: &str = "virtualMachine.template.secondaryDisks";
const SUBNET: &str = "virtualMachine.providerNetwork";
const SPREAD: &str = "/spec/template/spec/topologySpreadConstraints";

pub(super) fn rows() -> Vec<Row> {
    [
        labels(),
        annotations(),
        vm(),
        disks(),
        images(),
        scheduling(),
        rest(),
    ]
    .concat()
}

fn labels() -> Vec<Row> {
    vec![
        Row::new("9.1/region-and-zone")
            .facts(|facts| {
                facts.region = Some("north".to_owned());
                facts.zone = Some("north-1".to_owned());
            })
            .becomes("/metadata/labels/topology.kubernetes.io~1region", "north")
            .becomes("/metadata/labels/topology.kubernetes.io~1zone", "north-1")
            .remark("The StorageClass allows one region and one zone."),
        Row::new("9.1/region-and-zone/of-the-spec")
            .given("virtualMachine.location", json!({"region": "south"}))
            .facts(|facts| facts.region = Some("north".to_owned()))
            .becomes("/metadata/labels/topology.kubernetes.io~1region", "south"),
        Row::new("9.1/region-and-zone/of-the-machine")
            .given("/metadata/labels/topology.kubernetes.io~1region", "west")
            .given("virtualMachine.location", json!({"region": "south"}))
            .becomes("/metadata/labels/topology.kubernetes.io~1region", "west"),
        Row::new("9.1/machine-labels")
            .given("/metadata/labels/team", "blue")
            .becomes("/metadata/labels/team", "blue")
            .becomes("/spec/template/metadata/labels/team", "blue"),
        Row::new("9.1/vm")
            .given("/metadata/labels/kubevirt.io~1vm", "forged")
            .becomes("/metadata/labels/kubevirt.io~1vm", "m")
            .becomes("/spec/template/metadata/labels/kubevirt.io~1vm", "m"),
        Row::new("9.1/md")
            .becomes("/metadata/labels/md", "web")
            .becomes("/spec/template/metadata/labels/md", "web"),
        Row {
            deployment: None,
            ..Row::new("9.1/md/without-a-MachineDeployment").becomes("/metadata/labels/md", Value::Null)
        },
        Row::new("9.1/cluster")
            .given("clusterName", "prod")
            .given("projectID", "p1")
            .given("/metadata/labels/cluster.x-k8s.io~1role", "forged")
            .becomes("/metadata/labels/cluster.x-k8s.io~1cluster-name", "prod")
            .becomes("/metadata/labels/cluster.x-k8s.io~1role", "worker")
            .becomes("/metadata/labels/kubermatic.k8c.io~1project-id", "p1")
            .becomes("/metadata/labels/kubermatic.k8c.io~1cluster-id", "prod"),
        Row::new("9.1/cluster/whose-it-is")
            .becomes(
                "/metadata/labels/machinist.dev~1machine-uid",
                "4f8c9a1e-0000-4000-8000-000000000001",
            )
            .becomes(
                "/metadata/labels/machinist.dev~1cluster-uid",
                "c7a1d2b3-0000-4000-8000-000000000002",
            )
            .remark("Machinist's own."),
    ]
}

fn annotations() -> Vec<Row> {
    vec![
        Row {
            ignition: Some("{\"ignition\":{\"version\":\"3.3.0\"}}"),
            ..Row::new("9.2/ignition")
                .given("/spec/providerSpec/value/operatingSystem", "flatcar")
                .becomes(
                    "/spec/template/metadata/annotations/kubevirt.io~1ignitiondata",
                    "{\"ignition\":{\"version\":\"3.3.0\"}}",
                )
                .becomes(
                    "/spec/template/metadata/annotations/kubevirt.io~1placePCIDevicesOnRootComplex",
                    "true",
                )
                .remark("The user data, for what boots by Ignition.")
        },
        Row::new("9.2/ignition/otherwise")
            .becomes(
                "/spec/template/metadata/annotations/kubevirt.io~1ignitiondata",
                Value::Null,
            )
            .becomes(
                "/spec/template/metadata/annotations/kubevirt.io~1placePCIDevicesOnRootComplex",
                Value::Null,
            ),
        Row::new("9.2/pod-bridge-migration").becomes(
            "/spec/template/metadata/annotations/kubevirt.io~1allow-pod-bridge-network-live-migration",
            "true",
        ),
        Row::new("9.2/ovn")
            .becomes(
                "/spec/template/metadata/annotations/ovn.kubernetes.io~1allow_live_migration",
                "true",
            )
            .becomes(
                "/spec/template/metadata/annotations/ovn.kubernetes.io~1logical_switch",
                Value::Null,
            ),
        Row::new("9.2/machine-annotations")
            .given("/metadata/annotations/note", "n")
            .becomes("/spec/template/metadata/annotations/note", "n")
            .becomes("/metadata/annotations", Value::Null),
        Row::new("9.2/machine-annotations/win")
            .given(
                "/metadata/annotations/ovn.kubernetes.io~1allow_live_migration",
                "false",
            )
            .becomes(
                "/spec/template/metadata/annotations/ovn.kubernetes.io~1allow_live_migration",
                "false",
            ),
        Row::new("9.2/machine-annotations/of-CDI")
            .given(
                "/metadata/annotations/cdi.kubevirt.io~1storage.bind.immediate.requested",
                "true",
            )
            .becomes(
                "/spec/dataVolumeTemplates/0/metadata/annotations",
                json!({"cdi.kubevirt.io/storage.bind.immediate.requested": "true"}),
            )
            .becomes(
                "/spec/template/metadata/annotations/cdi.kubevirt.io~1storage.bind.immediate.requested",
                Value::Null,
            ),
        Row::new("9.2/machine-annotations/of-kubectl")
            .given(
                "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration",
                "{\"sesame\":1}",
            )
            .leaves_out("sesame")
            .remark("It may hold a kubeconfig."),
    ]
}

fn vm() -> Vec<Row> {
    let amounts = json!({"cpu": "2", "memory": "4Gi"});
    vec![
        Row::new("9.3/kind-by-name")
            .given("virtualMachine.instancetype", json!({"name": "small"}))
            .facts(|facts| facts.instancetype_kind = Some("VirtualMachineInstancetype".to_owned()))
            .becomes("/spec/instancetype/kind", "VirtualMachineInstancetype")
            .remark("Both kinds have one of that name: the namespaced one is found first."),
        Row::new("9.4/metadata.name").becomes("/metadata/name", "m"),
        Row::new("9.4/metadata.namespace").becomes("/metadata/namespace", "machinist-infra"),
        Row::new("9.4/spec.runStrategy").becomes("/spec/runStrategy", "Once"),
        Row::new("9.4/spec.runStrategy/with-a-subnet")
            .given(SUBNET, json!({"vpc": {"subnet": {"name": "s"}}}))
            .becomes("/spec/runStrategy", "Always"),
        Row::new("9.4/spec.instancetype").becomes("/spec/instancetype", Value::Null),
        Row::new("9.4/spec.preference").becomes("/spec/preference", Value::Null),
        Row::new("9.4/evictionStrategy").becomes("/spec/template/spec/evictionStrategy", "External"),
        Row::new("9.4/terminationGracePeriodSeconds")
            .becomes("/spec/template/spec/terminationGracePeriodSeconds", 30),
        Row::new("9.4/networks").becomes("/spec/template/spec/networks", json!([{"name": "default", "pod": {}}])),
        Row::new("9.4/domain.devices.interfaces").becomes(
            "/spec/template/spec/domain/devices/interfaces",
            json!([{"name": "default", "bridge": {}}]),
        ),
        Row::new("9.4/domain.devices.networkInterfaceMultiqueue").becomes(
            "/spec/template/spec/domain/devices/networkInterfaceMultiqueue",
            true,
        ),
        Row::new("9.4/domain.devices.disks")
            .given(DISKS, json!([{"size": "5Gi", "storageClassName": "fast"}]))
            .becomes(
                "/spec/template/spec/domain/devices/disks",
                json!([
                    {"name": "datavolumedisk", "disk": {"bus": "virtio"}},
                    {"name": "cloudinitdisk", "disk": {"bus": "virtio"}},
                    {"name": "m-secondarydisk0", "disk": {"bus": "virtio"}},
                ]),
            ),
        Row::new("9.4/domain.cpu").becomes("/spec/template/spec/domain/cpu", Value::Null),
        Row::new("9.4/domain.resources").becomes(
            "/spec/template/spec/domain/resources",
            json!({"requests": amounts, "limits": amounts}),
        ),
        Row::new("9.4/domain.resources/with-an-instancetype")
            .given("virtualMachine.instancetype", json!({"name": "small"}))
            .given("virtualMachine.template.vcpus.cores", 4)
            .becomes("/spec/template/spec/domain/resources", json!({}))
            .becomes("/spec/template/spec/domain/cpu", Value::Null)
            .remark("A warning: beside an instancetype, sizes have no effect."),
        Row::new("9.4/never-written")
            .becomes("/spec/template/spec/domain/machine", Value::Null)
            .becomes("/spec/template/spec/domain/memory", Value::Null)
            .becomes("/spec/template/spec/domain/firmware", Value::Null)
            .becomes("/spec/template/spec/architecture", Value::Null)
            .becomes("/spec/template/spec/hostname", Value::Null)
            .becomes("/spec/template/spec/nodeSelector", Value::Null)
            .becomes("/spec/template/spec/tolerations", Value::Null)
            .becomes("/spec/template/spec/accessCredentials", Value::Null),
        Row::new("9.4/affinity").becomes("/spec/template/spec/affinity", json!({})),
        Row::new("9.4/topologySpreadConstraints").becomes(
            "/spec/template/spec/topologySpreadConstraints/0/topologyKey",
            "kubernetes.io/hostname",
        ),
        Row::new("9.4/dns")
            .becomes("/spec/template/spec/dnsPolicy", Value::Null)
            .becomes("/spec/template/spec/dnsConfig", Value::Null),
        Row::new("9.4/volumes[0]").becomes(
            "/spec/template/spec/volumes/0",
            json!({"name": "datavolumedisk", "dataVolume": {"name": "m"}}),
        ),
        Row::new("9.4/volumes[1]").becomes(
            "/spec/template/spec/volumes/1",
            json!({"name": "cloudinitdisk", "cloudInitNoCloud": {"secretRef": {"name": "userdata-m"}}}),
        ),
        Row::new("9.4/volumes[2+i]")
            .given(
                DISKS,
                json!([{"size": "5Gi", "storageClassName": "fast"}, {"size": "6Gi", "storageClassName": "fast"}]),
            )
            .becomes(
                "/spec/template/spec/volumes/3",
                json!({"name": "m-secondarydisk1", "dataVolume": {"name": "m-secondarydisk1"}}),
            ),
        Row::new("9.4/dataVolumeTemplates[0]")
            .becomes("/spec/dataVolumeTemplates/0/metadata", json!({"name": "m"})),
        Row::new("9.4/dataVolumeTemplates[1+i]")
            .given(DISKS, json!([{"size": "5Gi", "storageClassName": "fast"}]))
            .becomes(
                "/spec/dataVolumeTemplates/1/metadata",
                json!({"name": "m-secondarydisk0"}),
            ),
    ]
}

fn disks() -> Vec<Row> {
    let claim = |class: &str, size: &str| json!({"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
    let blocks = |row: Row| {
        row.facts(|facts| {
            facts
                .access_modes
                .insert("fast".to_owned(), "ReadWriteMany".to_owned());
            facts
                .block_only
                .insert(("fast".to_owned(), "ReadWriteMany".to_owned()));
        })
    };
    vec![
        Row::new("9.5/primary").becomes(
            "/spec/dataVolumeTemplates/0/spec",
            json!({"source": {"http": {"url": "http://images.example.com/ubuntu.img"}}, "storage": claim("standard", "10Gi")}),
        ),
        Row::new("9.5/secondary")
            .given(DISKS, json!([{"size": "5Gi", "storageClassName": "fast"}]))
            .becomes(
                "/spec/dataVolumeTemplates/1/spec",
                json!({"source": {"blank": {}}, "pvc": claim("fast", "5Gi")}),
            ),
        Row::new("9.5/secondary/with-the-image")
            .given("/metadata/annotations/machinist.dev~1secondary-disks", "copy")
            .given(DISKS, json!([{"size": "15Gi", "storageClassName": "fast"}]))
            .becomes(
                "/spec/dataVolumeTemplates/1/spec/source",
                json!({"http": {"url": "http://images.example.com/ubuntu.img"}}),
            )
            .remark("As machine-controller does it, for who asks."),
        Row::new("9.5/access-mode-of-the-profile")
            .facts(|facts| {
                facts
                    .access_modes
                    .insert("standard".to_owned(), "ReadWriteMany".to_owned());
            })
            .becomes(
                "/spec/dataVolumeTemplates/0/spec/storage/accessModes",
                json!(["ReadWriteMany"]),
            )
            .remark("The StorageProfile offers it."),
        blocks(Row::new("9.5/access-mode-of-the-profile/of-block-devices"))
            .given(DISKS, json!([{"size": "5Gi", "storageClassName": "fast"}]))
            .becomes("/spec/dataVolumeTemplates/1/spec/pvc/volumeMode", "Block")
            .becomes("/spec/dataVolumeTemplates/0/spec/storage/volumeMode", Value::Null)
            .remark("The StorageProfile offers `ReadWriteMany` for block devices only; with `storage`, CDI knows."),
        blocks(Row::new("9.5/access-mode-of-the-profile/of-block-devices/with-the-primary-mode"))
            .given("virtualMachine.template.primaryDisk.storageClassName", "fast")
            .given("virtualMachine.template.primaryDisk.storageAccessType", "ReadWriteMany")
            .given(DISKS, json!([{"size": "5Gi", "storageClassName": "fast"}]))
            .becomes("/spec/dataVolumeTemplates/1/spec/pvc/accessModes", json!(["ReadWriteMany"]))
            .becomes("/spec/dataVolumeTemplates/1/spec/pvc/volumeMode", "Block")
            .remark("A disk without a mode of its own has the primary's of the same StorageClass, and the volume mode that fits."),
        blocks(Row::new("9.5/access-mode-of-the-profile/of-block-devices/with-its-own-mode"))
            .given(DISKS, json!([{"size": "5Gi", "storageClassName": "fast", "storageAccessType": "ReadWriteMany"}]))
            .becomes("/spec/dataVolumeTemplates/1/spec/pvc/volumeMode", Value::Null)
            .remark("A mode that the spec names is taken as it is; no StorageProfile is read."),
    ]
}

fn images() -> Vec<Row> {
    const KIND: &str = "virtualMachine.template.primaryDisk.source";
    let image = |id, location: &str| Row::new(id).given(IMAGE, location);
    let registry = json!({"registry": {"url": "docker://quay.io/x:1", "pullMethod": "node"}});
    vec![
        image("9.6/http", "http://x/y.img")
            .given(KIND, "http")
            .becomes(SOURCE, json!({"http": {"url": "http://x/y.img"}})),
        image("9.6/registry", "docker://quay.io/x:1")
            .given(KIND, "registry")
            .becomes(SOURCE, registry.clone()),
        image("9.6/registry/with-a-secret", "docker://quay.io/x:1")
            .given("virtualMachine.template.primaryDisk.dataVolumeSecretRef", "s")
            .becomes(SOURCE, registry.clone()),
        image("9.6/pvc", "images/ubuntu")
            .given(KIND, "pvc")
            .becomes(SOURCE, json!({"pvc": {"namespace": "images", "name": "ubuntu"}})),
        image("9.6/pvc/of-the-same-namespace", "ubuntu")
            .given(KIND, "pvc")
            .becomes(
                SOURCE,
                json!({"pvc": {"namespace": "machinist-infra", "name": "ubuntu"}}),
            ),
        image("9.6/pvc/of-three-parts", "images/ubuntu/24.04")
            .becomes(SOURCE, json!({"pvc": {"namespace": "images", "name": "ubuntu"}}))
            .remark("A warning."),
        image("9.6/guessed-registry", "docker://quay.io/x:1").becomes(SOURCE, registry),
        image("9.6/guessed-registry/archive", "oci-archive://quay.io/x:1")
            .becomes(
                "/spec/dataVolumeTemplates/0/spec/source/registry/url",
                "oci-archive://quay.io/x:1",
            )
            .remark("A warning."),
        image("9.6/guessed-http", "https://x/y.img")
            .becomes(SOURCE, json!({"http": {"url": "https://x/y.img"}})),
        image("9.6/guessed-pvc", "images/ubuntu")
            .becomes(SOURCE, json!({"pvc": {"namespace": "images", "name": "ubuntu"}})),
        Row::new("9.6/headers-of-a-secret")
            .given(
                "virtualMachine.template.primaryDisk.extraHeadersSecretRef",
                "headers",
            )
            .facts(|facts| facts.extra_headers = vec!["A: 1".to_owned()])
            .becomes(
                SOURCE,
                json!({"http": {"url": "http://images.example.com/ubuntu.img", "extraHeaders": ["A: 1"]}}),
            )
            .remark("Sorted by key."),
    ]
}

fn scheduling() -> Vec<Row> {
    let preset = |row: Row, kind: &str| {
        row.given("affinity.nodeAffinityPreset.type", kind)
            .given("affinity.nodeAffinityPreset.key", "pool")
            .given("affinity.nodeAffinityPreset.values", json!(["a"]))
    };
    let expression = json!({"key": "pool", "operator": "In", "values": ["a"]});
    let constraint = |md: &str| json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"md": md}}}]);
    vec![
        preset(Row::new("9.7/hard"), "hard").becomes(
            "/spec/template/spec/affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}),
        ),
        preset(Row::new("9.7/soft"), "soft").becomes(
            "/spec/template/spec/affinity",
            json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [expression]}}]}}),
        ),
        preset(Row::new("9.7/none"), "")
            .becomes("/spec/template/spec/affinity", json!({}))
            .remark("A warning."),
        Row::new("9.8/given")
            .given(
                "topologySpreadConstraints",
                json!([
                    {"maxSkew": "1", "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
                    {"maxSkew": "3", "topologyKey": "room", "whenUnsatisfiable": "ScheduleAnyway"},
                ]),
            )
            .becomes(
                SPREAD,
                json!([
                    {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"md": "web"}}},
                    {"maxSkew": 3, "topologyKey": "room", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"md": "web"}}},
                ]),
            ),
        Row::new("9.8/default").becomes(SPREAD, constraint("web")),
        Row {
            deployment: None,
            ..Row::new("9.8/unknown-md").becomes(SPREAD, constraint(""))
        },
    ]
}

fn rest() -> Vec<Row> {
    vec![
        Row::new("9.9/name").becomes(
            "/spec/template/spec/volumes/1/cloudInitNoCloud/secretRef/name",
            "userdata-m",
        ),
        Row::new("9.10/reserved-labels")
            .given("/metadata/labels/kubevirt.io~1created-by", "x")
            .given("/metadata/labels/kubevirt.io~1schedulable", "x")
            .becomes("/metadata/labels/kubevirt.io~1created-by", Value::Null)
            .becomes(
                "/spec/template/metadata/labels/kubevirt.io~1created-by",
                Value::Null,
            )
            .becomes(
                "/spec/template/metadata/labels/kubevirt.io~1schedulable",
                Value::Null,
            )
            .remark("A warning."),
    ]
}
