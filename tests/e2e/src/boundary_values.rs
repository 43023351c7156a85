//! Boundary values of the fields of a Machine. Whether Machinist accepts one does not matter here, but KubeVirt must accept each
//! that Machinist accepts.

use serde_json::{Value, json};

use crate::rules::machine;

const CLOUD: &str = "/spec/providerSpec/value/cloudProviderSpec";

/// A Machine with one boundary value.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The field and its value.
    pub what: String,
    /// The Machine.
    pub machine: Value,
}

/// All of them.
pub fn all() -> Vec<Edge> {
    let mut edges = Vec::new();
    for (pointer, values) in metadata() {
        edges.extend(values.into_iter().map(|value| edge(pointer, value)));
    }
    let below = [sizes(), disks(), matchers(), network(), scheduling()];
    for (path, values) in below.concat() {
        let pointer = format!("{CLOUD}/{path}");
        edges.extend(values.into_iter().map(|value| edge(&pointer, value)));
    }
    edges
}

fn edge(pointer: &str, value: Value) -> Edge {
    let what = format!("{}: {value}", pointer.strip_prefix(CLOUD).unwrap_or(pointer));
    let mut machine = machine();
    let mut place = &mut machine;
    for key in pointer.split('/').skip(1) {
        if place.is_null() {
            *place = json!({});
        }
        place = &mut place[key.replace("~1", "/")];
    }
    *place = value;
    Edge { what, machine }
}

type Fields = Vec<(&'static str, Vec<Value>)>;

fn texts(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| json!(text)).collect()
}

/// A name of so many characters.
fn long(length: usize) -> String {
    "n".repeat(length)
}

fn metadata() -> Fields {
    vec![
        (
            "/metadata/name",
            vec![
                json!("1"),
                json!("web.one"),
                json!(long(52)),
                json!(long(63)),
                json!(long(64)),
                json!(format!("{}.{}", long(63), long(63))),
                json!(long(253)),
            ],
        ),
        (
            "/metadata/labels",
            vec![
                json!({"kubevirt.io/created-by": "me"}),
                json!({"kubevirt.io/schedulable": "true"}),
                json!({"kubevirt.io/install-strategy": ""}),
                json!({"kubevirt.io/vm": "other"}),
                json!({"vm.kubevirt.io/name": "other"}),
                json!({"machinist.dev/machine-uid": "forged"}),
            ],
        ),
        (
            "/metadata/annotations",
            vec![
                json!({"kubevirt.io/ignitiondata": "{}"}),
                json!({"hooks.kubevirt.io/hookSidecars": "[{\"image\": \"x\"}]"}),
                json!({"kubevirt.io/pci-topology-version": "v1"}),
                json!({"kubevirt.io/placePCIDevicesOnRootComplex": "true"}),
                json!({"cdi.kubevirt.io/storage.usePopulator": "false"}),
                json!({"alpha.kubevirt.io/PreferNoSchedule": "x"}),
            ],
        ),
    ]
}

fn sizes() -> Fields {
    vec![
        (
            "virtualMachine/template/cpus",
            [
                texts(&[
                    "1", "2.0", "0.5", "100m", "1m", "0.0001", "1500m", "2000m", "1e2", "2k", "1Ki", "999",
                ]),
                vec![json!(2), json!(1.5)],
            ]
            .concat(),
        ),
        (
            "virtualMachine/template/memory",
            texts(&[
                "1", "1Ki", "1Mi", "1M", "500m", "1m", "512M", "1.5Gi", "1e9", "4G", "3Pi", "8Ei", "9E",
                "1e30",
            ]),
        ),
        (
            "virtualMachine/template/vcpus/cores",
            vec![
                json!(1),
                json!(3),
                json!(512),
                json!(100_000),
                json!(4_294_967_295_u64),
            ],
        ),
    ]
}

fn disks() -> Fields {
    let disk = |more: Value| {
        let mut disk = json!({"osImage": "http://x/y.img", "size": "10Gi", "storageClassName": "standard"});
        json_merge(&mut disk, &more);
        disk
    };
    let further = |count: usize| -> Value {
        let one = json!({"size": "1Gi", "storageClassName": "standard"});
        Value::Array(vec![one; count])
    };
    vec![
        (
            "virtualMachine/template/primaryDisk/size",
            texts(&["1", "1k", "0.5", "1m", "1.5Gi", "1e9", "9E", "1e30"]),
        ),
        (
            "virtualMachine/template/primaryDisk/storageClassName",
            vec![json!(long(63)), json!(long(64)), json!(long(253)), json!("a.b")],
        ),
        (
            "virtualMachine/template/primaryDisk",
            vec![
                disk(json!({"osImage": "docker://quay.io/x/y:1"})),
                disk(json!({"osImage": "docker://quay.io/x/y:1", "pullMethod": "pod"})),
                disk(json!({"osImage": "oci-archive://x"})),
                disk(json!({"osImage": "HTTPS://X/Y.IMG"})),
                disk(json!({"osImage": "ubuntu"})),
                disk(json!({"osImage": "images/ubuntu"})),
                disk(json!({"osImage": "images/ubuntu/24"})),
                disk(json!({"storageTarget": "pvc"})),
                disk(json!({"storageTarget": "storage"})),
                disk(json!({"storageTarget": "elsewhere"})),
                disk(json!({"storageAccessType": "ReadOnlyMany"})),
                disk(json!({"storageAccessType": "ReadWriteOncePod"})),
                disk(json!({"extraHeaders": ["A: b", "c"]})),
                disk(json!({"extraHeadersSecretRef": "headers", "dataVolumeSecretRef": "keys"})),
            ],
        ),
        (
            "virtualMachine/template/secondaryDisks",
            vec![json!([]), further(1), further(11), further(30)],
        ),
    ]
}

/// The cluster has the instancetype `standard-2` and the preference `sockets-advantage`, cluster-wide and in the namespace.
fn matchers() -> Fields {
    let inferred =
        |policy: &str| json!({"inferFromVolume": "datavolumedisk", "inferFromVolumeFailurePolicy": policy});
    let named = |name: &str, kind: &str| json!({"name": name, "kind": kind});
    let of = |name: &'static str, what: &str| {
        vec![
            json!({"name": name}),
            json!({"name": "unknown"}),
            json!({"name": name, "revisionName": "r"}),
            named(name, &format!("VirtualMachine{what}")),
            named(name, &format!("VirtualMachineCluster{what}")),
            named(name, &format!("virtualmachine{}s", what.to_lowercase())),
            named(name, "Flavor"),
            inferred("Ignore"),
            inferred("Reject"),
            inferred(""),
            json!({"name": name, "inferFromVolume": "datavolumedisk"}),
            json!({"name": name, "inferFromVolumeFailurePolicy": "Reject"}),
            json!({"kind": format!("VirtualMachine{what}"), "inferFromVolume": "datavolumedisk"}),
        ]
    };
    vec![
        ("virtualMachine/instancetype", of("standard-2", "Instancetype")),
        ("virtualMachine/preference", of("sockets-advantage", "Preference")),
    ]
}

fn network() -> Fields {
    let servers =
        |policy: &str, servers: &[&str]| json!({"dnsPolicy": policy, "dnsConfig": {"nameservers": servers}});
    let with = |more: Value| {
        let mut vm = machine()
            .pointer(&format!("{CLOUD}/virtualMachine"))
            .cloned()
            .unwrap_or_default();
        json_merge(&mut vm, &more);
        vm
    };
    let searches = |count: usize, length: usize| {
        let one = format!("{}.example", long(length));
        with(json!({"dnsConfig": {"searches": vec![one; count]}}))
    };
    vec![
        (
            "virtualMachine/dnsPolicy",
            texts(&["", "Default", "ClusterFirst", "ClusterFirstWithHostNet", "None"]),
        ),
        (
            "virtualMachine",
            vec![
                with(servers("None", &["1.1.1.1", "2606:4700::1111", "::ffff:1.2.3.4"])),
                with(servers("ClusterFirst", &["1.1.1.1"])),
                with(json!({"dnsConfig": {}})),
                with(json!({"dnsConfig": {"nameservers": ["01.1.1.1"]}})),
                with(json!({"dnsConfig": {"nameservers": ["fe80::1%eth0"]}})),
                with(json!({"dnsConfig": {"searches": [".", "example.com.", "svc"]}})),
                with(json!({"dnsConfig": {"searches": ["_msdcs.example.com"]}})),
                with(json!({"dnsConfig": {"searches": [""]}})),
                with(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}})),
                with(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "many"}]}})),
                searches(6, 10),
                searches(7, 10),
                searches(32, 10),
                searches(33, 10),
                searches(32, 60),
                searches(40, 63),
                with(json!({"evictionStrategy": "LiveMigrate"})),
                with(json!({"evictionStrategy": "External"})),
                with(json!({"enableNetworkMultiQueue": true, "template": {"cpus": "500m"}})),
                with(json!({"enableNetworkMultiQueue": false})),
                with(json!({"location": {"region": long(63), "zone": "z"}})),
                with(
                    json!({"providerNetwork": {"name": "kubeovn", "vpc": {"name": "v", "subnet": {"name": "s"}}}}),
                ),
                with(json!({"providerNetwork": {"vpc": {"subnet": {"name": "a b/c"}}}})),
            ],
        ),
    ]
}

fn scheduling() -> Fields {
    let spread = |skew: Value, key: &str, when: &str| json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when});
    vec![
        (
            "affinity/nodeAffinityPreset",
            vec![
                json!({"type": "hard", "key": "pool"}),
                json!({"type": "Soft", "key": "pool", "values": []}),
                json!({"type": "hard", "key": "pool", "values": ["a", ""]}),
                json!({"type": "soft", "key": format!("example.com/{}", long(63)), "values": ["a", "a"]}),
                json!({"type": "hard", "key": format!("{}.com/x", long(253))}),
                json!({"key": "no type"}),
            ],
        ),
        (
            "topologySpreadConstraints",
            vec![
                json!([]),
                json!([spread(json!(1), "rack", "")]),
                json!([spread(json!("5"), "rack", "DoNotSchedule")]),
                json!([spread(json!(i32::MAX), "rack", "ScheduleAnyway")]),
                json!([
                    spread(json!(1), "rack", "DoNotSchedule"),
                    spread(json!(1), "rack", "ScheduleAnyway")
                ]),
                json!([
                    spread(json!(1), "rack", "DoNotSchedule"),
                    spread(json!(1), "zone", "DoNotSchedule")
                ]),
            ],
        ),
        ("clusterName", texts(&["", "c", &long(63)])),
        ("projectID", texts(&["", "p", &long(63)])),
    ]
}

fn json_merge(object: &mut Value, with: &Value) {
    match (object, with) {
        (Value::Object(fields), Value::Object(more)) => {
            for (key, value) in more {
                json_merge(fields.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (place, value) => *place = value.clone(),
    }
}
