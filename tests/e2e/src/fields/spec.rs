//! Each field of `cloudProviderSpec`, and environment variables that replace some.

use serde_json::{Value, json};

use super::Row;

/// A pointer below `spec.template.spec`.
macro_rules! ts {
    ($rest:literal) => {
        concat!("/spec/template/spec", $rest)
    };
}

/// A path below the primary disk.
macro_rules! disk {
    ($rest:literal) => {
        concat!("virtualMachine.template.primaryDisk.", $rest)
    };
}

const STORAGE: &str = "/spec/dataVolumeTemplates/0/spec/storage";
const SIZE: &str = "/spec/dataVolumeTemplates/0/spec/storage/resources/requests/storage";
const CLASS: &str = "/spec/dataVolumeTemplates/0/spec/storage/storageClassName";
const MODES: &str = "/spec/dataVolumeTemplates/0/spec/storage/accessModes";
const SOURCE: &str = "/spec/dataVolumeTemplates/0/spec/source";
const CLUSTER: &str = "/metadata/labels/cluster.x-k8s.io~1cluster-name";
const PROJECT: &str = "/metadata/labels/kubermatic.k8c.io~1project-id";
const INSTANCETYPE: &str = "/spec/instancetype";
const PREFERENCE: &str = "/spec/preference";

pub(super) fn rows() -> Vec<Row> {
    [
        cluster(),
        matchers(),
        sizes(),
        primary_disk(),
        image(),
        secondary_disks(),
        network(),
        scheduling(),
        environment(),
    ]
    .concat()
}

fn cluster() -> Vec<Row> {
    vec![
        Row::new("2/clusterName")
            .given("clusterName", "prod")
            .becomes(CLUSTER, "prod"),
        Row::new("2/clusterName/a-number")
            .given("clusterName", 7)
            .becomes(CLUSTER, "7")
            .remark("A number or a boolean is its text."),
        Row::new("2/clusterName/absent")
            .given("clusterName", Value::Null)
            .becomes(CLUSTER, ""),
        Row::new("2/projectID")
            .given("projectID", "p1")
            .becomes(PROJECT, "p1"),
        Row::new("2/projectID/absent").becomes(PROJECT, ""),
        Row::new("2/auth.kubeconfig")
            .given("auth.kubeconfig", "c2VzYW1l")
            .leaves_out("c2VzYW1l")
            .remark("It says where the VirtualMachine is made."),
    ]
}

fn matchers() -> Vec<Row> {
    let instancetype = |id, value: Value| Row::new(id).given("virtualMachine.instancetype", value);
    let preference = |id, value: Value| Row::new(id).given("virtualMachine.preference", value);
    vec![
        Row::new("2/virtualMachine.flavor.name")
            .given("virtualMachine.flavor", json!({"name": "flavorful"}))
            .leaves_out("flavorful")
            .remark("Deprecated: a warning names `instancetype`."),
        Row::new("2/virtualMachine.flavor.profile")
            .given("virtualMachine.flavor", json!({"profile": "flavorful"}))
            .leaves_out("flavorful"),
        instancetype(
            "2/virtualMachine.instancetype.name",
            json!({"name": "standard-2"}),
        )
        .becomes(
            INSTANCETYPE,
            json!({"name": "standard-2", "kind": "VirtualMachineClusterInstancetype"}),
        ),
        instancetype(
            "2/virtualMachine.instancetype.kind",
            json!({"name": "standard-2", "kind": "VirtualMachineInstancetype"}),
        )
        .becomes(
            INSTANCETYPE,
            json!({"name": "standard-2", "kind": "VirtualMachineInstancetype"}),
        ),
        instancetype(
            "2/virtualMachine.instancetype.revisionName",
            json!({"name": "standard-2", "revisionName": "standard-2-v1"}),
        )
        .becomes("/spec/instancetype/revisionName", "standard-2-v1"),
        instancetype(
            "2/virtualMachine.instancetype.inferFromVolume",
            json!({"inferFromVolume": "datavolumedisk"}),
        )
        .given("virtualMachine.template.primaryDisk.osImage", "images/ubuntu")
        .becomes(INSTANCETYPE, json!({"inferFromVolume": "datavolumedisk"})),
        instancetype(
            "2/virtualMachine.instancetype.inferFromVolume/beside-a-name",
            json!({"name": "standard-2", "inferFromVolume": "datavolumedisk"}),
        )
        .becomes("/spec/instancetype/inferFromVolume", Value::Null)
        .remark("A warning."),
        instancetype(
            "2/virtualMachine.instancetype.inferFromVolumeFailurePolicy",
            json!({"inferFromVolume": "datavolumedisk", "inferFromVolumeFailurePolicy": "Ignore"}),
        )
        .given("virtualMachine.template.primaryDisk.osImage", "images/ubuntu")
        .becomes("/spec/instancetype/inferFromVolumeFailurePolicy", "Ignore"),
        preference("2/virtualMachine.preference.name", json!({"name": "ubuntu"}))
            .becomes(PREFERENCE, json!({"name": "ubuntu"})),
        preference(
            "2/virtualMachine.preference.kind",
            json!({"name": "ubuntu", "kind": "VirtualMachinePreference"}),
        )
        .becomes(
            PREFERENCE,
            json!({"name": "ubuntu", "kind": "VirtualMachinePreference"}),
        ),
        preference(
            "2/virtualMachine.preference.revisionName",
            json!({"name": "ubuntu", "revisionName": "ubuntu-v1"}),
        )
        .becomes("/spec/preference/revisionName", "ubuntu-v1"),
        preference(
            "2/virtualMachine.preference.inferFromVolume",
            json!({"inferFromVolume": "datavolumedisk"}),
        )
        .given("virtualMachine.template.primaryDisk.osImage", "images/ubuntu")
        .becomes(PREFERENCE, json!({"inferFromVolume": "datavolumedisk"})),
        preference(
            "2/virtualMachine.preference.inferFromVolumeFailurePolicy",
            json!({"inferFromVolume": "datavolumedisk", "inferFromVolumeFailurePolicy": "Reject"}),
        )
        .given("virtualMachine.template.primaryDisk.osImage", "images/ubuntu")
        .becomes("/spec/preference/inferFromVolumeFailurePolicy", "Reject"),
    ]
}

fn sizes() -> Vec<Row> {
    const CPUS: &str = "virtualMachine.template.cpus";
    const CORES: &str = "virtualMachine.template.vcpus.cores";
    vec![
        Row::new("2/virtualMachine.template.vcpus.cores")
            .given(CORES, 4)
            .given(CPUS, Value::Null)
            .becomes(ts!("/domain/cpu"), json!({"cores": 4}))
            .becomes(ts!("/domain/resources/requests"), json!({"memory": "4Gi"}))
            .becomes(ts!("/domain/resources/limits"), json!({"memory": "4Gi"})),
        Row::new("2/virtualMachine.template.vcpus.cores/beside-cpus")
            .given(CORES, 4)
            .given(CPUS, "2")
            .becomes(ts!("/domain/cpu"), json!({"cores": 4}))
            .becomes(ts!("/domain/resources/requests/cpu"), Value::Null)
            .remark("A warning."),
        Row::new("2/virtualMachine.template.cpus")
            .given(CPUS, "500m")
            .becomes(ts!("/domain/resources/requests/cpu"), "500m")
            .becomes(ts!("/domain/resources/limits/cpu"), "500m")
            .becomes(ts!("/domain/cpu"), Value::Null),
        Row::new("2/virtualMachine.template.cpus/a-number")
            .given(CPUS, 3)
            .becomes(ts!("/domain/resources/requests/cpu"), "3"),
        Row::new("2/virtualMachine.template.memory")
            .given("virtualMachine.template.memory", "8Gi")
            .becomes(ts!("/domain/resources/requests/memory"), "8Gi")
            .becomes(ts!("/domain/resources/limits/memory"), "8Gi"),
    ]
}

fn primary_disk() -> Vec<Row> {
    vec![
        Row::new("2/virtualMachine.template.primaryDisk.size")
            .given(disk!("size"), "25Gi")
            .becomes(SIZE, "25Gi"),
        Row::new("2/virtualMachine.template.primaryDisk.storageClassName")
            .given(disk!("storageClassName"), "fast")
            .becomes(CLASS, "fast"),
        Row::new("2/virtualMachine.template.primaryDisk.storageAccessType")
            .given(disk!("storageAccessType"), "ReadWriteMany")
            .becomes(MODES, json!(["ReadWriteMany"])),
        Row::new("2/virtualMachine.template.primaryDisk.storageTarget")
            .given(disk!("storageTarget"), "pvc")
            .becomes(
                "/spec/dataVolumeTemplates/0/spec/pvc",
                json!({"storageClassName": "standard", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}),
            )
            .becomes(STORAGE, Value::Null),
        Row::new("2/virtualMachine.template.primaryDisk.storageTarget/anything-else")
            .given(disk!("storageTarget"), "PVC")
            .becomes("/spec/dataVolumeTemplates/0/spec/pvc", Value::Null)
            .becomes(CLASS, "standard")
            .remark("A warning."),
    ]
}

fn image() -> Vec<Row> {
    let url = "https://images.example.com/rocky.qcow2";
    vec![
        Row::new("2/virtualMachine.template.primaryDisk.osImage")
            .given(disk!("osImage"), url)
            .becomes(SOURCE, json!({"http": {"url": url}})),
        Row::new("2/virtualMachine.template.primaryDisk.source")
            .given(disk!("source"), "pvc")
            .given(disk!("osImage"), "ubuntu")
            .becomes(
                SOURCE,
                json!({"pvc": {"namespace": "machinist-infra", "name": "ubuntu"}}),
            ),
        Row::new("2/virtualMachine.template.primaryDisk.source/anything-else")
            .given(disk!("source"), "HTTP")
            .becomes(
                SOURCE,
                json!({"http": {"url": "http://images.example.com/ubuntu.img"}}),
            )
            .remark("Guessed, with a warning."),
        Row::new("2/virtualMachine.template.primaryDisk.pullMethod")
            .given(disk!("pullMethod"), "pod")
            .given(disk!("osImage"), "docker://quay.io/x/ubuntu:24.04")
            .becomes(
                SOURCE,
                json!({"registry": {"url": "docker://quay.io/x/ubuntu:24.04", "pullMethod": "pod"}}),
            ),
        Row::new("2/virtualMachine.template.primaryDisk.dataVolumeSecretRef")
            .given(disk!("dataVolumeSecretRef"), "s3-keys")
            .becomes(
                "/spec/dataVolumeTemplates/0/spec/source/http/secretRef",
                "s3-keys",
            ),
        Row::new("2/virtualMachine.template.primaryDisk.dataVolumeSecretRef/for-another-source")
            .given(disk!("dataVolumeSecretRef"), "s3-keys")
            .given(disk!("osImage"), "docker://quay.io/x/ubuntu:24.04")
            .becomes("/spec/dataVolumeTemplates/0/spec/source/http", Value::Null)
            .leaves_out("s3-keys")
            .remark("A warning."),
        Row::new("2/virtualMachine.template.primaryDisk.extraHeaders")
            .given(disk!("extraHeaders"), json!(["X-Token: a", "X-Team: b"]))
            .becomes(
                "/spec/dataVolumeTemplates/0/spec/source/http/extraHeaders",
                json!(["X-Token: a", "X-Team: b"]),
            ),
        Row::new("2/virtualMachine.template.primaryDisk.extraHeadersSecretRef")
            .given(disk!("extraHeadersSecretRef"), "headers")
            .facts(|facts| facts.extra_headers = vec!["A: 1".to_owned(), "B: 2".to_owned()])
            .becomes(
                "/spec/dataVolumeTemplates/0/spec/source/http/extraHeaders",
                json!(["A: 1", "B: 2"]),
            )
            .leaves_out("\"headers\"")
            .remark("The Secret has the keys A and B."),
    ]
}

fn secondary_disks() -> Vec<Row> {
    const DISKS: &str = "virtualMachine.template.secondaryDisks";
    let claim = |class: &str, mode: &str, size: &str| json!({"storageClassName": class, "accessModes": [mode], "resources": {"requests": {"storage": size}}});
    vec![
        Row::new("2/virtualMachine.template.secondaryDisks[].size")
            .given(DISKS, json!([{"size": "5Gi", "storageClassName": "standard"}]))
            .becomes(
                "/spec/dataVolumeTemplates/1/spec",
                json!({"source": {"blank": {}}, "pvc": claim("standard", "ReadWriteOnce", "5Gi")}),
            ),
        Row::new("2/virtualMachine.template.secondaryDisks[].storageClassName")
            .given(DISKS, json!([{"size": "5Gi", "storageClassName": "fast"}]))
            .becomes("/spec/dataVolumeTemplates/1/spec/pvc/storageClassName", "fast"),
        Row::new("2/virtualMachine.template.secondaryDisks[].storageAccessType")
            .given(
                DISKS,
                json!([{"size": "5Gi", "storageClassName": "fast", "storageAccessType": "ReadWriteMany"}]),
            )
            .becomes(
                "/spec/dataVolumeTemplates/1/spec/pvc/accessModes",
                json!(["ReadWriteMany"]),
            )
            .becomes(MODES, json!(["ReadWriteOnce"])),
    ]
}

fn network() -> Vec<Row> {
    let dns = json!({
        "nameservers": ["1.1.1.1", "2001:4860:4860::8888"], "searches": ["example.com"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    });
    vec![
        Row::new("2/virtualMachine.dnsPolicy")
            .given("virtualMachine.dnsPolicy", "ClusterFirstWithHostNet")
            .becomes(ts!("/dnsPolicy"), "ClusterFirstWithHostNet"),
        Row::new("2/virtualMachine.dnsConfig")
            .given("virtualMachine.dnsPolicy", "None")
            .given("virtualMachine.dnsConfig", dns.clone())
            .becomes(ts!("/dnsPolicy"), "None")
            .becomes(ts!("/dnsConfig"), dns),
        Row::new("2/virtualMachine.location.region")
            .given("virtualMachine.location", json!({"region": "north"}))
            .becomes("/metadata/labels/topology.kubernetes.io~1region", "north")
            .becomes(
                "/spec/template/metadata/labels/topology.kubernetes.io~1region",
                "north",
            ),
        Row::new("2/virtualMachine.location.zone")
            .given("virtualMachine.location", json!({"zone": "north-1"}))
            .becomes("/metadata/labels/topology.kubernetes.io~1zone", "north-1"),
        Row::new("2/virtualMachine.providerNetwork.name")
            .given("virtualMachine.providerNetwork", json!({"name": "kubeovn"}))
            .becomes("/spec/runStrategy", "Once")
            .leaves_out("kubeovn"),
        Row::new("2/virtualMachine.providerNetwork.vpc.name")
            .given(
                "virtualMachine.providerNetwork",
                json!({"vpc": {"name": "my-vpc"}}),
            )
            .becomes("/spec/runStrategy", "Once")
            .leaves_out("my-vpc"),
        Row::new("2/virtualMachine.providerNetwork.vpc.subnet.name")
            .given(
                "virtualMachine.providerNetwork",
                json!({"vpc": {"subnet": {"name": "my-subnet"}}}),
            )
            .becomes(
                "/spec/template/metadata/annotations/ovn.kubernetes.io~1logical_switch",
                "my-subnet",
            )
            .becomes("/spec/runStrategy", "Always"),
        Row::new("2/virtualMachine.enableNetworkMultiQueue")
            .given("virtualMachine.enableNetworkMultiQueue", false)
            .becomes(ts!("/domain/devices/networkInterfaceMultiqueue"), false),
        Row::new("2/virtualMachine.evictionStrategy")
            .given("virtualMachine.evictionStrategy", "LiveMigrate")
            .becomes(ts!("/evictionStrategy"), "LiveMigrate"),
    ]
}

fn scheduling() -> Vec<Row> {
    const PRESET: &str = "affinity.nodeAffinityPreset.type";
    const KEY: &str = "affinity.nodeAffinityPreset.key";
    const VALUES: &str = "affinity.nodeAffinityPreset.values";
    const TERM: &str = ts!(
        "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0"
    );
    let spread = |id, item: Value| Row::new(id).given("topologySpreadConstraints", json!([item]));
    vec![
        Row::new("2/affinity.podAffinityPreset")
            .given("affinity.podAffinityPreset", "softly")
            .leaves_out("softly")
            .remark("Deprecated: a warning names `topologySpreadConstraints`."),
        Row::new("2/affinity.podAntiAffinityPreset")
            .given("affinity.podAntiAffinityPreset", "softly")
            .leaves_out("softly")
            .remark("Likewise."),
        Row::new("2/affinity.nodeAffinityPreset.type")
            .given(PRESET, "Hard")
            .given(KEY, "pool")
            .becomes(TERM, json!({"key": "pool", "operator": "Exists"})),
        Row::new("2/affinity.nodeAffinityPreset.key")
            .given(PRESET, "hard")
            .given(KEY, "example.com/pool")
            .becomes(TERM, json!({"key": "example.com/pool", "operator": "Exists"})),
        Row::new("2/affinity.nodeAffinityPreset.values[]")
            .given(PRESET, "hard")
            .given(KEY, "pool")
            .given(VALUES, json!(["a", "b"]))
            .becomes(
                TERM,
                json!({"key": "pool", "operator": "In", "values": ["a", "b"]}),
            ),
        spread(
            "2/topologySpreadConstraints[].maxSkew",
            json!({"maxSkew": "2", "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}),
        )
        .becomes(ts!("/topologySpreadConstraints/0/maxSkew"), 2),
        spread(
            "2/topologySpreadConstraints[].topologyKey",
            json!({"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}),
        )
        .becomes(ts!("/topologySpreadConstraints/0/topologyKey"), "rack"),
        spread(
            "2/topologySpreadConstraints[].whenUnsatisfiable",
            json!({"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}),
        )
        .becomes(
            ts!("/topologySpreadConstraints/0/whenUnsatisfiable"),
            "DoNotSchedule",
        ),
        spread(
            "2/topologySpreadConstraints[].whenUnsatisfiable/empty",
            json!({"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": ""}),
        )
        .becomes(
            ts!("/topologySpreadConstraints/0/whenUnsatisfiable"),
            "ScheduleAnyway",
        )
        .remark("A warning: KubeVirt rejects the empty text."),
    ]
}

fn environment() -> Vec<Row> {
    vec![
        Row::new("3/POD_NAMESPACE")
            .env("POD_NAMESPACE", "tenant-7")
            .becomes("/metadata/namespace", "tenant-7"),
        Row::new("3/POD_NAMESPACE/absent")
            .env("POD_NAMESPACE", "")
            .becomes("/metadata/namespace", "kube-system"),
        Row::new("3/KUBEVIRT_KUBECONFIG")
            .env("KUBEVIRT_KUBECONFIG", "c2VzYW1l")
            .leaves_out("c2VzYW1l")
            .remark("Used where the spec has none."),
        Row::new("3/CLUSTER_ID")
            .env("CLUSTER_ID", "from-env")
            .given("clusterName", "prod")
            .becomes(CLUSTER, "from-env")
            .becomes("/metadata/labels/kubermatic.k8c.io~1cluster-id", "from-env"),
        Row::new("3/PROJECT_ID")
            .env("PROJECT_ID", "from-env")
            .given("projectID", "p1")
            .becomes(PROJECT, "from-env"),
    ]
}
