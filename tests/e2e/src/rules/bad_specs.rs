//! Invalid specs, each with the exact causes of the refusal: what cannot be rendered, and what KubeVirt and CDI would
//! reject only later, when the Machine is already created.

use serde_json::{Value, json};

use super::Row;
use super::base::{Edit as _, cloud, machine};

/// A row that sets a value in `cloudProviderSpec`, with the expected causes: field below it, and message.
macro_rules! bad {
    ($id:literal, $at:expr, $value:tt, $($field:literal: $message:expr),+ $(,)?) => {
        Row::create(concat!("kubevirt/", $id), cloud($at, json!($value)))
            .causes(&[$((concat!("spec.providerSpec.value.cloudProviderSpec", $field), $message)),+])
    };
}

/// A path of the VM's template.
macro_rules! template {
    ($rest:literal) => {
        concat!("virtualMachine/template/", $rest)
    };
}

const WORD: &str = "must be letters, digits, '-', '_' or '.', with a letter or digit at both ends";
const SOURCE: &str = "is not a source that CDI can import; write http://…, https://…, docker://…, oci-archive://… or the name of a PVC";

pub(super) fn rows() -> Vec<Row> {
    [
        labels(),
        matchers(),
        sizes(),
        disks(),
        images(),
        claims(),
        network(),
        affinity(),
        spread(),
        around(),
    ]
    .concat()
}

fn labels() -> Vec<Row> {
    vec![
        bad!("cluster-name-with-a-space", "clusterName", "my cluster",
            ".clusterName": r#""my cluster" becomes a label of the VM: must be letters, digits, '-', '_' or '.', with a letter or digit at both ends"#),
        bad!("cluster-name-too-long", "clusterName", "c123456789c123456789c123456789c123456789c123456789c123456789c123",
            ".clusterName": r#""c123456789c123456789c123456789c123456789c123456789c123456789c123" becomes a label of the VM: must be no more than 63 characters"#),
        bad!("project-with-a-dash-first", "projectID", "-p",
            ".projectID": r#""-p" becomes a label of the VM: must be letters, digits, '-', '_' or '.', with a letter or digit at both ends"#),
        bad!("region-with-a-slash", "virtualMachine/location", {"region": "eu/north"},
            ".virtualMachine.location.region": r#""eu/north" becomes a label of the VM: must be letters, digits, '-', '_' or '.', with a letter or digit at both ends"#),
        bad!("zone-with-a-dot-last", "virtualMachine/location", {"zone": "north-1."},
            ".virtualMachine.location.zone": r#""north-1." becomes a label of the VM: must be letters, digits, '-', '_' or '.', with a letter or digit at both ends"#),
        bad!("kubeconfig-not-base64", "auth/kubeconfig", "apiVersion: v1",
            ".auth.kubeconfig": "the inline value is not base64; encode the kubeconfig with `base64 -w0`, or refer to a Secret by secretKeyRef"),
    ]
}

fn matchers() -> Vec<Row> {
    const INSTANCETYPE: &str = "names a VirtualMachineInstancetype or VirtualMachineClusterInstancetype";
    const PREFERENCE: &str = "names a VirtualMachinePreference or VirtualMachineClusterPreference";
    vec![
        bad!("instancetype-without-name", "virtualMachine/instancetype", {},
            ".virtualMachine.instancetype.name": INSTANCETYPE),
        bad!("instancetype-with-a-kind-only", "virtualMachine/instancetype", {"kind": "VirtualMachineInstancetype"},
            ".virtualMachine.instancetype.name": INSTANCETYPE),
        bad!("preference-of-an-unknown-kind", "virtualMachine/preference", {"name": "a", "kind": "VirtualMachinePreference2"},
            ".virtualMachine.preference.kind": r#""VirtualMachinePreference2" is not supported; allowed: "VirtualMachinePreference", "VirtualMachineClusterPreference"; did you mean "VirtualMachinePreference"?"#),
        bad!("instancetype-in-capitals", "virtualMachine/instancetype", {"name": "Standard-2"},
            ".virtualMachine.instancetype.name": r#""Standard-2" is not an object name: must be lower-case letters, digits, '-' or '.', with a letter or digit at both ends"#),
        bad!("instancetype-from-a-volume-that-is-not-there", "virtualMachine/instancetype", {"inferFromVolume": "rootdisk"},
            ".virtualMachine.instancetype.inferFromVolume": r#""rootdisk" is not a disk of the VM; the operating system is on datavolumedisk"#),
        bad!("instancetype-from-a-further-disk-that-is-not-there", "virtualMachine/instancetype", {"inferFromVolume": "m-secondarydisk0"},
            ".virtualMachine.instancetype.inferFromVolume": r#""m-secondarydisk0" is not a disk of the VM; the operating system is on datavolumedisk"#),
        bad!("instancetype-with-an-unknown-policy", "virtualMachine", {
                "instancetype": {"inferFromVolume": "datavolumedisk", "inferFromVolumeFailurePolicy": "Reject!"},
                "template": {"primaryDisk": {"osImage": "images/ubuntu", "size": "10Gi", "storageClassName": "standard"}},
            },
            ".virtualMachine.instancetype.inferFromVolumeFailurePolicy": r#""Reject!" is not supported; allowed: "Reject", "Ignore"; did you mean "Reject"?"#),
        bad!("instancetype-from-an-image", "virtualMachine/instancetype", {"inferFromVolume": "datavolumedisk"},
            ".virtualMachine.instancetype.inferFromVolume": "KubeVirt can infer from a cloned PVC, but not from an imported image; give a name instead"),
        bad!("instancetype-from-a-volume-and-of-a-kind", "virtualMachine", {
                "instancetype": {"inferFromVolume": "datavolumedisk", "kind": "VirtualMachineInstancetype"},
                "template": {"primaryDisk": {"osImage": "images/ubuntu", "size": "10Gi", "storageClassName": "standard"}},
            },
            ".virtualMachine.instancetype.kind": "is mutually exclusive with inferFromVolume, which determines the kind; remove it"),
        bad!("preference-twice", "virtualMachine/preference", {"name": "a", "inferFromVolume": "datavolumedisk"},
            ".virtualMachine.preference.inferFromVolume": "is mutually exclusive with name; keep one of them"),
        bad!("preference-without-name", "virtualMachine/preference", {},
            ".virtualMachine.preference.name": PREFERENCE),
        bad!("preference-of-an-instancetypes-kind", "virtualMachine/preference", {"name": "a", "kind": "VirtualMachineInstancetype"},
            ".virtualMachine.preference.kind": r#""VirtualMachineInstancetype" is not supported; allowed: "VirtualMachinePreference", "VirtualMachineClusterPreference""#),
        bad!("preference-is-a-text", "virtualMachine/preference", "ubuntu",
            ".virtualMachine.preference": "must be an object, not a string"),
    ]
}

fn sizes() -> Vec<Row> {
    vec![
        bad!("no-sizes", "virtualMachine/template", {"primaryDisk": {"osImage": "http://x/y.img", "size": "10Gi", "storageClassName": "standard"}},
            ".virtualMachine.template.memory": "is required without an instancetype, like 4Gi",
            ".virtualMachine.template.cpus": "no CPUs configured: set cpus or vcpus.cores, or an instancetype"),
        bad!("memory-in-gb", template!("memory"), "4GB",
            ".virtualMachine.template.memory": r#""4GB" is not a quantity; write one like 2, 500m, 4Gi or 10G"#),
        bad!("memory-of-nothing", template!("memory"), 0,
            ".virtualMachine.template.memory": r#""0" must be more than zero"#),
        bad!("memory-below-zero", template!("memory"), "-4Gi",
            ".virtualMachine.template.memory": r#""-4Gi" must be more than zero"#),
        bad!("memory-of-kilobytes", template!("memory"), "640k",
            ".virtualMachine.template.memory": r#""640k" is less than 1M, which KubeVirt rejects; a node needs gigabytes"#),
        bad!("memory-with-a-space", template!("memory"), "4 Gi",
            ".virtualMachine.template.memory": r#""4 Gi" is not a quantity; write one like 2, 500m, 4Gi or 10G"#),
        bad!("memory-with-exponent-and-suffix", template!("memory"), "1e3Mi",
            ".virtualMachine.template.memory": r#""1e3Mi" is not a quantity; write one like 2, 500m, 4Gi or 10G"#),
        bad!("memory-that-is-a-unit", template!("memory"), "Gi",
            ".virtualMachine.template.memory": r#""Gi" is not a quantity; write one like 2, 500m, 4Gi or 10G"#),
        bad!("cpus-in-words", template!("cpus"), "two",
            ".virtualMachine.template.cpus": r#""two" is not a quantity; write one like 2, 500m, 4Gi or 10G"#),
        bad!("cpus-of-nothing", template!("cpus"), "0",
            ".virtualMachine.template.cpus": r#""0" must be more than zero"#),
        bad!("cpus-as-a-list", template!("cpus"), [2],
            ".virtualMachine.template.cpus": "must be a string, a number, a boolean or an object with value, secretKeyRef or configMapKeyRef, not a list",
            ".virtualMachine.template.cpus": "no CPUs configured: set cpus or vcpus.cores, or an instancetype"),
        bad!("cores-below-zero", template!("vcpus"), {"cores": -2},
            ".virtualMachine.template.vcpus.cores": "-2 is not a number of cores"),
        bad!("cores-beyond-32-bits", template!("vcpus"), {"cores": 4_294_967_296_u64},
            ".virtualMachine.template.vcpus.cores": "4294967296 is not a number of cores"),
        bad!("cores-quoted", template!("vcpus"), {"cores": "4"},
            ".virtualMachine.template.vcpus.cores": "must be an integer, not a string"),
    ]
}

fn disks() -> Vec<Row> {
    const CLASS: &str = "is required; names a StorageClass of the infra cluster";
    vec![
        bad!("no-disk", template!("primaryDisk"), {},
            ".virtualMachine.template.primaryDisk.size": "is required, a quantity like 10Gi",
            ".virtualMachine.template.primaryDisk.storageClassName": CLASS,
            ".virtualMachine.template.primaryDisk.osImage": "is required; names the image to boot: a URL, a registry image or a PVC"),
        bad!("disk-of-nothing", template!("primaryDisk/size"), "0Gi",
            ".virtualMachine.template.primaryDisk.size": r#""0Gi" must be more than zero"#),
        bad!("disk-in-gb", template!("primaryDisk/size"), "10Gb",
            ".virtualMachine.template.primaryDisk.size": r#""10Gb" is not a quantity; write one like 2, 500m, 4Gi or 10G"#),
        bad!("class-empty", template!("primaryDisk/storageClassName"), "",
            ".virtualMachine.template.primaryDisk.storageClassName": CLASS),
        bad!("class-in-capitals", template!("primaryDisk/storageClassName"), "Standard",
            ".virtualMachine.template.primaryDisk.storageClassName": r#""Standard" is not an object name: must be lower-case letters, digits, '-' or '.', with a letter or digit at both ends"#),
        bad!("access-mode-in-short", template!("primaryDisk/storageAccessType"), "RWX",
            ".virtualMachine.template.primaryDisk.storageAccessType": r#""RWX" is not supported; allowed: "ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod""#),
        bad!("access-mode-with-a-typo", template!("primaryDisk/storageAccessType"), "ReadWriteMan",
            ".virtualMachine.template.primaryDisk.storageAccessType": r#""ReadWriteMan" is not supported; allowed: "ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod"; did you mean "ReadWriteMany"?"#),
        bad!("further-disk-of-nothing", template!("secondaryDisks"), [{}],
            ".virtualMachine.template.secondaryDisks[0].size": "is required, a quantity like 10Gi",
            ".virtualMachine.template.secondaryDisks[0].storageClassName": CLASS),
        bad!("second-further-disk", template!("secondaryDisks"), [{"size": "1Gi", "storageClassName": "standard"}, {"size": "1Tb", "storageClassName": "Standard"}],
            ".virtualMachine.template.secondaryDisks[1].size": r#""1Tb" is not a quantity; write one like 2, 500m, 4Gi or 10G"#,
            ".virtualMachine.template.secondaryDisks[1].storageClassName": r#""Standard" is not an object name: must be lower-case letters, digits, '-' or '.', with a letter or digit at both ends"#),
        bad!("further-disks-as-an-object", template!("secondaryDisks"), {"size": "1Gi"},
            ".virtualMachine.template.secondaryDisks": "must be a list, not an object"),
    ]
}

fn images() -> Vec<Row> {
    let image = |id, location: &'static str, message: String| {
        Row::create(
            id,
            cloud("virtualMachine/template/primaryDisk/osImage", json!(location)),
        )
        .causes(&[(
            "spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.primaryDisk.osImage",
            message.leak(),
        )])
    };
    let no_source = |location: &str| format!("{location:?} {SOURCE}");
    vec![
        image(
            "kubevirt/image-by-ftp",
            "ftp://x/y.img",
            no_source("ftp://x/y.img"),
        ),
        image(
            "kubevirt/image-with-a-tag",
            "ubuntu:24.04",
            no_source("ubuntu:24.04"),
        ),
        image(
            "kubevirt/image-on-a-path",
            "/images/ubuntu.img",
            no_source("/images/ubuntu.img"),
        ),
        image(
            "kubevirt/image-without-slashes",
            "http:x/y.img",
            no_source("http:x/y.img"),
        ),
        image(
            "kubevirt/image-without-host",
            "https:///y.img",
            "\"https:///y.img\" names no host".to_owned(),
        ),
        image(
            "kubevirt/image-without-name",
            "docker://",
            "\"docker://\" names no host".to_owned(),
        ),
        image(
            "kubevirt/image-with-a-space",
            "http://x/my image.img",
            "\"http://x/my image.img\" contains white space, which CDI rejects".to_owned(),
        ),
        bad!("image-empty", template!("primaryDisk/osImage"), "",
            ".virtualMachine.template.primaryDisk.osImage": "is required; names the image to boot: a URL, a registry image or a PVC"),
        bad!("registry-without-scheme", template!("primaryDisk"), {"osImage": "quay.io/x/y:1", "source": "registry", "size": "10Gi", "storageClassName": "standard"},
            ".virtualMachine.template.primaryDisk.osImage": r#""quay.io/x/y:1" is not a source that CDI can import; write http://…, https://…, docker://…, oci-archive://… or the name of a PVC"#),
        bad!("http-with-a-file-name", template!("primaryDisk"), {"osImage": "ubuntu.img", "source": "http", "size": "10Gi", "storageClassName": "standard"},
            ".virtualMachine.template.primaryDisk.osImage": r#""ubuntu.img" is not a source that CDI can import; write http://…, https://…, docker://…, oci-archive://… or the name of a PVC"#),
        bad!("pull-method-of-a-host", template!("primaryDisk/pullMethod"), "host",
            ".virtualMachine.template.primaryDisk.pullMethod": r#""host" is not supported; allowed: "node", "pod""#),
        bad!("headers-twice", template!("primaryDisk"), {"osImage": "http://x/y.img", "size": "10Gi", "storageClassName": "standard", "extraHeaders": ["A: b"], "extraHeadersSecretRef": "headers"},
            ".virtualMachine.template.primaryDisk.extraHeadersSecretRef": "is mutually exclusive with extraHeaders; keep one of them"),
        bad!("headers-as-a-map", template!("primaryDisk/extraHeaders"), {"A": "b"},
            ".virtualMachine.template.primaryDisk.extraHeaders": "must be a list, not an object"),
        bad!("secret-with-a-namespace", template!("primaryDisk/dataVolumeSecretRef"), "images/keys",
            ".virtualMachine.template.primaryDisk.dataVolumeSecretRef": r#""images/keys" is not an object name: must be lower-case letters, digits, '-' or '.', with a letter or digit at both ends"#),
        bad!("secret-of-headers-in-capitals", template!("primaryDisk/extraHeadersSecretRef"), "Headers",
            ".virtualMachine.template.primaryDisk.extraHeadersSecretRef": r#""Headers" is not an object name: must be lower-case letters, digits, '-' or '.', with a letter or digit at both ends"#),
    ]
}

fn claims() -> Vec<Row> {
    let claim = |id, location: &'static str, name: &str| {
        let image = "an image on a server starts with http://, https:// or docker://";
        let message =
            format!("{location:?} is not a PVC, NAME or NAMESPACE/NAME: {name:?} is not a name; {image}");
        Row::create(
            id,
            cloud("virtualMachine/template/primaryDisk/osImage", json!(location)),
        )
        .causes(&[(
            "spec.providerSpec.value.cloudProviderSpec.virtualMachine.template.primaryDisk.osImage",
            message.leak(),
        )])
    };
    vec![
        claim("kubevirt/claim-in-capitals", "Ubuntu", "Ubuntu"),
        claim("kubevirt/claim-without-name", "images/", ""),
        claim(
            "kubevirt/claim-with-an-underscore",
            "images/ubuntu_24",
            "ubuntu_24",
        ),
        claim(
            "kubevirt/claim-in-a-namespace-in-capitals",
            "Images/ubuntu",
            "Images",
        ),
        bad!("claim-that-is-a-url", template!("primaryDisk"), {"osImage": "http://x/y.img", "source": "pvc", "size": "10Gi", "storageClassName": "standard"},
            ".virtualMachine.template.primaryDisk.osImage": r#""http://x/y.img" is not a PVC, NAME or NAMESPACE/NAME: "http:" is not a name; an image on a server starts with http://, https:// or docker://"#),
    ]
}

fn network() -> Vec<Row> {
    vec![
        bad!("dns-policy-in-small-letters", "virtualMachine/dnsPolicy", "none",
            ".virtualMachine.dnsPolicy": r#""none" is not supported; allowed: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"; did you mean "None"?"#),
        bad!("dns-policy-none-without-config", "virtualMachine/dnsPolicy", "None",
            ".virtualMachine.dnsConfig.nameservers": "at least one nameserver is required with dnsPolicy None"),
        bad!("dns-of-four-servers", "virtualMachine/dnsConfig", {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]},
            ".virtualMachine.dnsConfig.nameservers": "KubeVirt accepts at most 3 nameservers, not 4"),
        bad!("dns-server-by-name", "virtualMachine/dnsConfig", {"nameservers": ["dns.example.com"]},
            ".virtualMachine.dnsConfig.nameservers[0]": r#""dns.example.com" is not an IP address"#),
        bad!("dns-search-with-a-star", "virtualMachine/dnsConfig", {"nameservers": ["1.1.1.1"], "searches": ["example.com", "*.example.com"]},
            ".virtualMachine.dnsConfig.searches[1]": r#""*.example.com" is not a DNS domain"#),
        bad!("dns-search-with-a-dot-last", "virtualMachine/dnsConfig", {"searches": ["example.com."]},
            ".virtualMachine.dnsConfig.searches[0]": r#""example.com." is not a DNS domain: KubeVirt rejects a trailing dot"#),
        bad!("dns-of-seven-searches", "virtualMachine/dnsConfig", {"searches": ["a", "b", "c", "d", "e", "f", "g"]},
            ".virtualMachine.dnsConfig.searches": "KubeVirt accepts at most 6 search domains, not 7"),
        bad!("dns-of-long-searches", "virtualMachine/dnsConfig", {"searches": [
                "a123456789.a123456789.a123456789.a123456789.a123456789.a123456789.a123456789.a123456789",
                "b123456789.b123456789.b123456789.b123456789.b123456789.b123456789.b123456789.b123456789",
                "c123456789.c123456789.c123456789.c123456789.c123456789.c123456789.c123456789.c123456789",
            ]},
            ".virtualMachine.dnsConfig.searches": "KubeVirt accepts at most 256 characters of search domains, not 263"),
        bad!("dns-option-without-name", "virtualMachine/dnsConfig", {"nameservers": ["1.1.1.1"], "options": [{"value": "2"}]},
            ".virtualMachine.dnsConfig.options[0].name": "is required, like ndots"),
        bad!("queues-quoted", "virtualMachine/enableNetworkMultiQueue", "true",
            ".virtualMachine.enableNetworkMultiQueue": "must be a boolean or an object with value, secretKeyRef or configMapKeyRef, not a string"),
        bad!("eviction-with-a-typo", "virtualMachine/evictionStrategy", "LiveMigrat",
            ".virtualMachine.evictionStrategy": r#""LiveMigrat" is not supported; allowed: "External", "LiveMigrate"; did you mean "LiveMigrate"?"#),
        bad!("eviction-that-kubevirt-knows", "virtualMachine/evictionStrategy", "None",
            ".virtualMachine.evictionStrategy": r#""None" is not supported; allowed: "External", "LiveMigrate""#),
        bad!("subnet-is-a-text", "virtualMachine/providerNetwork", {"vpc": {"subnet": "s"}},
            ".virtualMachine.providerNetwork.vpc.subnet": "must be an object, not a string"),
    ]
}

fn affinity() -> Vec<Row> {
    let preset = |id, preset: Value, causes: &[(&'static str, &'static str)]| {
        Row::create(id, cloud("affinity/nodeAffinityPreset", preset)).causes(causes)
    };
    vec![
        bad!("affinity-with-a-typo", "affinity/nodeAffinityPreset", {"type": "hrd", "key": "pool"},
            ".affinity.nodeAffinityPreset.type": r#""hrd" is not supported; allowed: "hard", "soft"; did you mean "hard"?"#),
        bad!("affinity-without-key", "affinity/nodeAffinityPreset", {"type": "soft"},
            ".affinity.nodeAffinityPreset.key": "is required with a type; name the label of the infra nodes"),
        bad!("affinity-with-an-empty-key", "affinity/nodeAffinityPreset", {"type": "hard", "key": ""},
            ".affinity.nodeAffinityPreset.key": "is required with a type; name the label of the infra nodes"),
        preset(
            "kubevirt/affinity-to-no-label",
            json!({"type": "hard", "key": "my pool", "values": ["a", "b c"]}),
            &[
                (
                    "spec.providerSpec.value.cloudProviderSpec.affinity.nodeAffinityPreset.key",
                    format!("\"my pool\" is not a label key: {WORD}").leak(),
                ),
                (
                    "spec.providerSpec.value.cloudProviderSpec.affinity.nodeAffinityPreset.values[1]",
                    format!("\"b c\" is not a label value: {WORD}").leak(),
                ),
            ],
        ),
    ]
}

fn spread() -> Vec<Row> {
    vec![
        bad!("spread-of-nothing", "topologySpreadConstraints", [{}],
            ".topologySpreadConstraints[0].maxSkew": "is required; write a number of at least 1",
            ".topologySpreadConstraints[0].topologyKey": "is required, like kubernetes.io/hostname; KubeVirt rejects a VM without it")
            .warns("whenUnsatisfiable: is empty, which KubeVirt rejects; ScheduleAnyway is used"),
        bad!("skew-of-zero", "topologySpreadConstraints", [{"maxSkew": 0, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
            ".topologySpreadConstraints[0].maxSkew": r#""0" is not a whole number of at least 1"#),
        bad!("skew-in-words", "topologySpreadConstraints", [{"maxSkew": "one", "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
            ".topologySpreadConstraints[0].maxSkew": r#""one" is not a whole number of at least 1"#),
        bad!("skew-beyond-32-bits", "topologySpreadConstraints", [{"maxSkew": "2147483648", "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
            ".topologySpreadConstraints[0].maxSkew": r#""2147483648" is not a whole number of at least 1"#),
        bad!("action-with-a-typo", "topologySpreadConstraints", [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyways"}],
            ".topologySpreadConstraints[0].whenUnsatisfiable": r#""ScheduleAnyways" is not supported; allowed: "DoNotSchedule", "ScheduleAnyway"; did you mean "ScheduleAnyway"?"#),
        bad!("key-that-is-no-label", "topologySpreadConstraints", [{"maxSkew": 1, "topologyKey": "kubernetes.io/host/name", "whenUnsatisfiable": "DoNotSchedule"}],
            ".topologySpreadConstraints[0].topologyKey": r#""kubernetes.io/host/name" is not a label key: must be letters, digits, '-', '_' or '.', with a letter or digit at both ends"#),
        bad!("spread-twice", "topologySpreadConstraints", [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}, {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": ""}],
            ".topologySpreadConstraints[1]": "repeats topologyKey and whenUnsatisfiable of an earlier item, which KubeVirt rejects"),
        bad!("spread-as-an-object", "topologySpreadConstraints", {"maxSkew": 1},
            ".topologySpreadConstraints": "must be a list, not an object"),
    ]
}

/// Fields of the Machine that the spec constrains, and many mistakes at once.
fn around() -> Vec<Row> {
    let with_a_disk = |name: &str| {
        cloud(
            "virtualMachine/template/secondaryDisks",
            json!([{"size": "1Gi", "storageClassName": "standard"}]),
        )
        .with("/metadata/name", json!(name))
    };
    vec![
        Row::create(
            "kubevirt/a-name-with-a-dot-and-a-further-disk",
            with_a_disk("web.one"),
        )
        .causes(&[(
            "metadata.name",
            "must have no dots with secondaryDisks: web.one-secondarydisk0 becomes a volume",
        )]),
        Row::create(
            "kubevirt/a-name-too-long-for-a-further-disk",
            with_a_disk("m123456789m123456789m123456789m123456789m12345678"),
        )
        .causes(&[(
            "metadata.name",
            "must be no more than 48 characters with secondaryDisks: \
             m123456789m123456789m123456789m123456789m12345678-secondarydisk0 becomes a volume",
        )]),
        Row::create(
            "kubevirt/a-reserved-label",
            machine().with("/metadata/labels/kubevirt.io~1schedulable", json!("true")),
        )
        .warns(
            "metadata.labels[kubevirt.io/schedulable]: is reserved for KubeVirt and is not copied to the VM",
        ),
        bad!("many-at-once", "virtualMachine", {
                "instancetyp": {"name": "a"}, "dnsPolicy": "none", "evictionStrategy": "External!",
                "template": {"cpus": "x", "memory": "y", "primaryDisk": {"size": "z", "storageClassName": "", "osImage": "ftp://a"}},
            },
            ".virtualMachine.instancetyp": r#"unknown field "instancetyp"; did you mean "instancetype"?"#,
            ".virtualMachine.dnsPolicy": r#""none" is not supported; allowed: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"; did you mean "None"?"#,
            ".virtualMachine.evictionStrategy": r#""External!" is not supported; allowed: "External", "LiveMigrate"; did you mean "External"?"#,
            ".virtualMachine.template.cpus": r#""x" is not a quantity; write one like 2, 500m, 4Gi or 10G"#,
            ".virtualMachine.template.memory": r#""y" is not a quantity; write one like 2, 500m, 4Gi or 10G"#,
            ".virtualMachine.template.primaryDisk.size": r#""z" is not a quantity; write one like 2, 500m, 4Gi or 10G"#,
            ".virtualMachine.template.primaryDisk.storageClassName": "is required; names a StorageClass of the infra cluster",
            ".virtualMachine.template.primaryDisk.osImage": r#""ftp://a" is not a source that CDI can import; write http://…, https://…, docker://…, oci-archive://… or the name of a PVC"#),
    ]
}
