//! `cloudProviderSpec` is decoded strictly, at every level except those of references (2.2).

use serde_json::json;

use super::Row;
use super::base::cloud;

/// A row that sets a value in `cloudProviderSpec`, and expects a refusal that names the given field.
macro_rules! unknown {
    ($id:literal, $at:literal, $value:tt, $rejected:literal) => {
        Row::create(concat!("2.2/strict-in-", $id), cloud($at, json!($value)))
            .rejects(&[concat!("spec.providerSpec.value.cloudProviderSpec.", $rejected)])
    };
}

pub(super) fn rows() -> Vec<Row> {
    [machine_controllers(), ours()].concat()
}

/// The object `machinist`, which only Machinist has.
fn ours() -> Vec<Row> {
    vec![
        unknown!("machinist", "machinist", {"fils": []}, "machinist.fils"),
        unknown!(
            "machinist-files",
            "machinist",
            {"files": [{"path": "/etc/motd", "mode": "0600"}]},
            "machinist.files[0].mode"
        ),
        unknown!("machinist-commands", "machinist", {"commands": {"pre": []}}, "machinist.commands.pre"),
        unknown!("machinist-kubelet", "machinist", {"kubelet": {"args": {}}}, "machinist.kubelet.args"),
        unknown!("machinist-registries", "machinist", {"registries": {"mirror": {}}}, "machinist.registries.mirror"),
        unknown!("machinist-proxy", "machinist", {"proxy": {"ftp": "x"}}, "machinist.proxy.ftp"),
    ]
}

fn machine_controllers() -> Vec<Row> {
    vec![
        unknown!("the-spec", "clusterNam", "c", "clusterNam")
            .message_contains("did you mean \"clusterName\"?"),
        unknown!("auth", "auth/token", "x", "auth.token"),
        unknown!(
            "virtualMachine",
            "virtualMachine/evictionStrateg",
            "x",
            "virtualMachine.evictionStrateg"
        ),
        unknown!(
            "instancetype",
            "virtualMachine/instancetype",
            {"name": "a", "nam": "b"},
            "virtualMachine.instancetype.nam"
        ),
        unknown!(
            "preference",
            "virtualMachine/preference",
            {"name": "a", "kid": "b"},
            "virtualMachine.preference.kid"
        ),
        unknown!("flavor", "virtualMachine/flavor", {"size": "b"}, "virtualMachine.flavor.size"),
        unknown!(
            "dnsConfig",
            "virtualMachine/dnsConfig",
            {"nameserver": []},
            "virtualMachine.dnsConfig.nameserver"
        ),
        unknown!(
            "dnsConfig-options",
            "virtualMachine/dnsConfig",
            {"options": [{"name": "a", "vlaue": "b"}]},
            "virtualMachine.dnsConfig.options[0].vlaue"
        ),
        unknown!("location", "virtualMachine/location", {"regoin": "r"}, "virtualMachine.location.regoin"),
        unknown!(
            "providerNetwork",
            "virtualMachine/providerNetwork",
            {"nmae": "x"},
            "virtualMachine.providerNetwork.nmae"
        ),
        unknown!(
            "vpc",
            "virtualMachine/providerNetwork",
            {"vpc": {"subnets": {}}},
            "virtualMachine.providerNetwork.vpc.subnets"
        ),
        unknown!(
            "subnet",
            "virtualMachine/providerNetwork",
            {"vpc": {"subnet": {"nme": "x"}}},
            "virtualMachine.providerNetwork.vpc.subnet.nme"
        ),
        unknown!(
            "template",
            "virtualMachine/template/cpu",
            "2",
            "virtualMachine.template.cpu"
        ),
        unknown!(
            "vcpus",
            "virtualMachine/template/vcpus",
            {"cores": 2, "sockets": 1},
            "virtualMachine.template.vcpus.sockets"
        )
        .warns("template.cpus: has no effect together with vcpus.cores"),
        unknown!(
            "primaryDisk",
            "virtualMachine/template/primaryDisk/sise",
            "1Gi",
            "virtualMachine.template.primaryDisk.sise"
        ),
        unknown!(
            "secondaryDisks",
            "virtualMachine/template/secondaryDisks",
            [{"size": "1Gi", "storageClassName": "standard", "osImage": "x"}],
            "virtualMachine.template.secondaryDisks[0].osImage"
        ),
        unknown!("affinity", "affinity", {"nodeAffinity": {}}, "affinity.nodeAffinity"),
        unknown!(
            "nodeAffinityPreset",
            "affinity",
            {"nodeAffinityPreset": {"weight": 1}},
            "affinity.nodeAffinityPreset.weight"
        ),
        unknown!(
            "topologySpreadConstraints",
            "topologySpreadConstraints",
            [{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 1}],
            "topologySpreadConstraints[0].minDomains"
        ),
        Row::create(
            "2.2/miscased-keys-at-every-level",
            cloud(
                "Affinity",
                json!({"NodeAffinityPreset": {"Type": "Hard", "KEY": "a", "Values": [1]}}),
            ),
        ),
    ]
}
