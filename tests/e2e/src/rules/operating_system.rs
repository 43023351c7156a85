//! Operating systems and their specs (2.4).

use serde_json::json;

use super::Row;
use super::base::{machine, on, value};

const OS: &str = "spec.providerSpec.value.operatingSystem";
const SPEC: &str = "/spec/providerSpec/value/operatingSystemSpec";

pub(super) fn rows() -> Vec<Row> {
    let flatcar = |utility: &str, no_update: bool| {
        json!({
            "disableAutoUpdate": no_update, "disableLocksmithD": false, "disableUpdateEngine": false,
            "provisioningUtility": utility,
        })
    };
    let rhel = json!({
        "distUpgradeOnBoot": false, "attachSubscription": false, "rhelUseSatelliteServer": false,
        "rhelSatelliteServer": "", "rhelOrganizationName": "", "rhelActivationKey": "",
    });
    let upgrade = json!({"distUpgradeOnBoot": false});
    let kept = json!({"rhelOrganizationName": "x", "disableAutoUpdate": true});
    vec![
        Row::create("2.4/unknown", value("operatingSystem", json!("debian")))
            .rejects(&[OS])
            .message_contains("\"debian\"")
            .message_contains("\"rockylinux\""),
        Row::create("2.4/misspelled", value("operatingSystem", json!("ubunut")))
            .rejects(&[OS])
            .message_contains("did you mean \"ubuntu\"?"),
        Row::create("2.4/exact", value("operatingSystem", json!("Ubuntu"))).rejects(&[OS]),
        Row::create("2.4/empty", value("operatingSystem", json!(""))).rejects(&[OS]),
        Row::create("2.4/type", value("operatingSystem", json!(1))).rejects(&[OS]),
        Row::create(
            "2.4/amzn2-is-not-for-kubevirt",
            value("operatingSystem", json!("amzn2")),
        )
        .rejects(&[OS]),
        Row::create("2.4/absent", machine()).stores(SPEC, upgrade.clone()),
        Row::create("2.4/ubuntu", on("ubuntu", json!(null))).stores(SPEC, upgrade.clone()),
        Row::create("2.4/rockylinux", on("rockylinux", json!(null))).stores(SPEC, upgrade),
        Row::create("2.4/rhel", on("rhel", json!(null))).stores(SPEC, rhel),
        Row::create("2.4/flatcar", on("flatcar", json!(null))).stores(SPEC, flatcar("ignition", false)),
        Row::create("2.4/an-empty-spec-stays", on("ubuntu", json!({}))).stores(SPEC, json!({})),
        Row::create("2.4/an-empty-spec-of-rhel-stays", on("rhel", json!({}))).stores(SPEC, json!({})),
        Row::create("2.4/a-spec-of-any-type-stays", on("rockylinux", json!("x"))).stores(SPEC, json!("x")),
        Row::create("2.4/a-spec-stays-verbatim", on("ubuntu", kept.clone())).stores(SPEC, kept.clone()),
        Row::create("2.4/a-spec-of-rhel-stays-verbatim", on("rhel", kept.clone())).stores(SPEC, kept),
        Row::create(
            "2.4/an-empty-spec-of-flatcar-is-completed",
            on("flatcar", json!({})),
        )
        .stores(SPEC, flatcar("ignition", false)),
        Row::create(
            "2.4/a-spec-of-flatcar-is-rewritten",
            on("flatcar", json!({"disableAutoUpdate": true, "x": 1})),
        )
        .stores(SPEC, flatcar("ignition", true)),
        Row::create(
            "2.4/flatcar-ignores-what-it-cannot-decode",
            on("flatcar", json!({"disableAutoUpdate": "yes"})),
        )
        .stores(SPEC, flatcar("ignition", false)),
        Row::create(
            "2.4/flatcar-keeps-what-it-can-decode",
            on(
                "flatcar",
                json!({"disableAutoUpdate": "yes", "provisioningUtility": "cloud-init"}),
            ),
        )
        .stores(SPEC, flatcar("cloud-init", false)),
        Row::create(
            "2.4/flatcar-rewrites-a-spec-of-any-type",
            on("flatcar", json!("x")),
        )
        .stores(SPEC, flatcar("ignition", false)),
        Row::create(
            "2.4/flatcar-reads-keys-of-any-letter-case",
            on("flatcar", json!({"DisableAutoUpdate": true})),
        )
        .stores(SPEC, flatcar("ignition", true)),
        Row::create(
            "2.4/flatcar-takes-an-empty-utility-for-none",
            on("flatcar", json!({"provisioningUtility": ""})),
        )
        .stores(SPEC, flatcar("ignition", false)),
        Row::create(
            "2.4/flatcar-keeps-its-utility",
            on("flatcar", json!({"provisioningUtility": "cloud-init"})),
        )
        .stores(SPEC, flatcar("cloud-init", false)),
        Row::create(
            "2.4/flatcars-utility-is-not-judged",
            on("flatcar", json!({"provisioningUtility": "magic"})),
        )
        .stores(SPEC, flatcar("magic", false)),
    ]
}
