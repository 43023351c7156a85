//! `providerSpec.value`: its fields (2.1), how it is decoded (2.2), and the network (2.5).

use serde_json::json;

use super::Row;
use super::base::{Edit, SSH_KEY, VALUE, cloud, machine, value};

pub(super) fn rows() -> Vec<Row> {
    [fields(), decoding(), network()].concat()
}

fn fields() -> Vec<Row> {
    vec![
        Row::create("2.1/sshPublicKeys", value("sshPublicKeys", json!([SSH_KEY]))),
        Row::create("2.1/sshPublicKeys-null", value("sshPublicKeys", json!(null))),
        Row::create("2.1/sshPublicKeys-type", value("sshPublicKeys", json!(SSH_KEY)))
            .rejects(&["spec.providerSpec.value.sshPublicKeys"]),
        Row::create(
            "2.1/sshPublicKeys-item-type",
            value("sshPublicKeys", json!([SSH_KEY, 1])),
        )
        .rejects(&["spec.providerSpec.value.sshPublicKeys[1]"]),
        Row::create("2.1/caPublicKey", value("caPublicKey", json!("anything"))),
        Row::create("2.1/caPublicKey-null", value("caPublicKey", json!(null))),
        Row::create("2.1/caPublicKey-type", value("caPublicKey", json!(1)))
            .rejects(&["spec.providerSpec.value.caPublicKey"]),
        Row::create(
            "2.1/cloudProvider-missing",
            machine().without(&format!("{VALUE}/cloudProvider")),
        )
        .rejects(&["spec.providerSpec.value.cloudProvider"]),
        Row::create("2.1/cloudProvider-null", value("cloudProvider", json!(null)))
            .rejects(&["spec.providerSpec.value.cloudProvider"]),
        Row::create(
            "2.1/cloudProvider-type",
            value("cloudProvider", json!(["kubevirt"])),
        )
        .rejects(&["spec.providerSpec.value.cloudProvider"]),
        Row::create("2.1/cloudProvider-empty", value("cloudProvider", json!("")))
            .rejects(&["spec.providerSpec.value.cloudProvider"]),
        Row::create(
            "2.1/cloudProvider-unregistered",
            value("cloudProvider", json!("kubvirt")),
        )
        .rejects(&["spec.providerSpec.value.cloudProvider"])
        .message_contains("\"kubvirt\" is not supported")
        .message_contains("did you mean \"kubevirt\"?"),
        Row::create(
            "2.1/cloudProvider-not-ours",
            value("cloudProvider", json!("packet")),
        )
        .rejects(&["spec.providerSpec.value.cloudProvider"]),
        Row::create(
            "2.1/cloudProvider-exact",
            value("cloudProvider", json!("KubeVirt")),
        )
        .rejects(&["spec.providerSpec.value.cloudProvider"]),
        Row::create(
            "2.1/cloudProviderSpec-missing",
            machine().without(&format!("{VALUE}/cloudProviderSpec")),
        )
        .rejects(&["spec.providerSpec.value.cloudProviderSpec"]),
        Row::create(
            "2.1/cloudProviderSpec-null",
            value("cloudProviderSpec", json!(null)),
        )
        .rejects(&["spec.providerSpec.value.cloudProviderSpec"]),
        Row::create(
            "2.1/cloudProviderSpec-type",
            value("cloudProviderSpec", json!("x")),
        )
        .rejects(&["spec.providerSpec.value.cloudProviderSpec"]),
        Row::create(
            "2.1/operatingSystem-missing",
            machine().without(&format!("{VALUE}/operatingSystem")),
        )
        .rejects(&["spec.providerSpec.value.operatingSystem"]),
        Row::create(
            "2.1/overwriteCloudConfig",
            value("overwriteCloudConfig", json!("anything")),
        ),
        Row::create(
            "2.1/overwriteCloudConfig-null",
            value("overwriteCloudConfig", json!(null)),
        ),
        Row::create(
            "2.1/overwriteCloudConfig-type",
            value("overwriteCloudConfig", json!({})),
        )
        .rejects(&["spec.providerSpec.value.overwriteCloudConfig"]),
    ]
}

fn decoding() -> Vec<Row> {
    vec![
        Row::create("2.2/no-providerSpec", machine().without("/spec/providerSpec"))
            .rejects(&["spec.providerSpec.value"]),
        Row::create("2.2/no-value", machine().without(VALUE)).rejects(&["spec.providerSpec.value"]),
        Row::create("2.2/value-null", machine().with(VALUE, json!(null)))
            .rejects(&["spec.providerSpec.value"]),
        Row::create("2.2/value-type", machine().with(VALUE, json!([{}])))
            .rejects(&["spec.providerSpec.value"]),
        Row::create("2.2/value-empty", machine().with(VALUE, json!({}))).rejects(&[
            "spec.providerSpec.value.cloudProvider",
            "spec.providerSpec.value.operatingSystem",
        ]),
        Row::create("2.2/unknown-key", value("sshPublicKey", json!([])))
            .rejects(&["spec.providerSpec.value.sshPublicKey"])
            .message_contains("did you mean \"sshPublicKeys\"?"),
        Row::create(
            "2.2/unknown-key-in-network",
            value("network", json!({"gatway": "10.0.0.1"})),
        )
        .rejects(&["spec.providerSpec.value.network.gatway"]),
        Row::create(
            "2.2/unknown-key-in-dns",
            value("network", json!({"dns": {"server": []}})),
        )
        .rejects(&["spec.providerSpec.value.network.dns.server"]),
        Row::create(
            "2.2/miscased-keys-are-respelt",
            machine()
                .without(&format!("{VALUE}/operatingSystem"))
                .with(&format!("{VALUE}/OperatingSystem"), json!("ubuntu")),
        )
        .stores("/spec/providerSpec/value/operatingSystem", json!("ubuntu"))
        .stores("/spec/providerSpec/value/OperatingSystem", json!(null)),
        Row::create(
            "2.2/the-exact-key-wins",
            value("OperatingSystem", json!("flatcar")),
        )
        .stores("/spec/providerSpec/value/operatingSystem", json!("ubuntu"))
        .stores("/spec/providerSpec/value/OperatingSystem", json!("flatcar")),
        Row::create(
            "2.2/miscased-network-is-respelt",
            value("Network", json!({"CIDR": "", "dns": {"Servers": []}})),
        )
        .stores(
            "/spec/providerSpec/value/network",
            json!({"cidr": "", "dns": {"servers": []}, "gateway": ""}),
        ),
        Row::create(
            "2.2/miscased-cloudProviderSpec-stays",
            cloud("ProjectID", json!("p")),
        )
        .stores("/spec/providerSpec/value/cloudProviderSpec/ProjectID", json!("p")),
        Row::create("2.2/cloudProviderSpec-strict", cloud("clustername2", json!("x")))
            .rejects(&["spec.providerSpec.value.cloudProviderSpec.clustername2"]),
        Row::create(
            "2.2/config-variables-are-not-strict",
            cloud("clusterName", json!({"value": "c", "vlaue": 1})),
        )
        .warns("cloudProviderSpec.clusterName.vlaue: unknown field"),
        Row::create(
            "2.2/operatingSystemSpec-is-not-strict",
            value("operatingSystemSpec", json!({"anything": {"x": 1}})),
        )
        .stores(
            "/spec/providerSpec/value/operatingSystemSpec",
            json!({"anything": {"x": 1}}),
        ),
    ]
}

fn network() -> Vec<Row> {
    vec![
        Row::create("2.5/empty", value("network", json!({})))
            .stores(
                "/spec/providerSpec/value/network",
                json!({"cidr": "", "dns": {"servers": null}, "gateway": ""}),
            ),
        Row::create("2.5/null", value("network", json!(null))),
        Row::create("2.5/any-family", value("network", json!({"ipFamily": "IPv5"})))
            .warns("network.ipFamily: \"IPv5\" is not one of IPv4, IPv6, IPv4+IPv6, IPv6+IPv4; IPv4 is used"),
        Row::create(
            "2.5/static-is-taken",
            value(
                "network",
                json!({"cidr": "10.0.0.2/8", "gateway": "10.0.0.1", "dns": {"servers": ["fd00::1"]}, "ipFamily": "IPv6"}),
            ),
        ),
        Row::create(
            "2.5/static-of-no-use-is-ignored",
            value(
                "network",
                json!({"cidr": "10.0.0.2/8", "gateway": "x", "dns": {"servers": ["y"]}, "ipFamily": "IPv6"}),
            ),
        )
        .warns("spec.providerSpec.value.network: the static address has no effect: gateway \"x\" is not an IP address"),
        Row::create(
            "2.5/dns-null",
            value("network", json!({"dns": {"servers": null}})),
        ),
        Row::create("2.5/dns-type", value("network", json!({"dns": []})))
            .rejects(&["spec.providerSpec.value.network.dns"]),
        Row::create(
            "2.5/dns-servers-are-texts",
            value("network", json!({"dns": {"servers": ["10.0.0.1", 1]}})),
        )
        .rejects(&["spec.providerSpec.value.network.dns.servers[1]"])
        .warns("network: the static address has no effect: cidr \"\" is not an address"),
        Row::create("2.5/type", value("network", json!("IPv4"))).rejects(&["spec.providerSpec.value.network"]),
        Row::create(
            "2.5/types-inside",
            value(
                "network",
                json!({"cidr": 1, "gateway": [], "ipFamily": true, "dns": {"servers": "x"}}),
            ),
        )
        .rejects(&[
            "spec.providerSpec.value.network.cidr",
            "spec.providerSpec.value.network.gateway",
            "spec.providerSpec.value.network.ipFamily",
            "spec.providerSpec.value.network.dns.servers",
        ]),
    ]
}
