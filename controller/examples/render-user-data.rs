//! Writes the built-in bootstrap's user data to a folder, one file per operating system and setting, for linters to
//! read: `cargo run -p machinist-controller --example render-user-data DIRECTORY`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use k8s_openapi::api::core::v1::Taint;
use machinist_controller::bootstrap::user_data::{self, UserDataInput};
use secrecy::SecretString;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .context("usage: render-user-data DIRECTORY")?;
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory)?;
    let token = SecretString::from("abcdef.0123456789abcdef");
    let none = BTreeMap::new();
    let labels = BTreeMap::from([
        ("team".to_owned(), "a\"b %n $HOME".to_owned()),
        ("node-role.kubernetes.io/worker".to_owned(), String::new()),
    ]);
    let taints = ["NoSchedule", "NoExecute"].map(|effect| Taint {
        key: "example.com/dedicated".to_owned(),
        value: (effect == "NoExecute").then(|| "gpu".to_owned()),
        effect: effect.to_owned(),
        time_added: None,
    });
    let keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJq8T3vXcY1Jt0l6m3n9vBqUQ1c2m0m1yq0m6Q4v0b1S admin: \"it's\" # me".to_owned()];
    let dns = ["10.96.0.10", "fd00::a"].map(|address| address.parse().ok());
    let dns: Vec<_> = dns.into_iter().flatten().collect();

    for os in user_data::OPERATING_SYSTEMS {
        let plain = UserDataInput {
            operating_system: os,
            node_name: "web-1",
            kubelet_version: "1.33.4",
            server: "https://api.example.com:6443",
            ca_pem: "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
            token: &token,
            cluster_dns: &dns,
            cluster_domain: "cluster.local",
            taints: &[],
            labels: &none,
            provider_id: Some("kubermatic://kubevirt/6ee4b1a0-30a9-4d4c-a9a7-1f6f9c2f6d51"),
            serving_certificate: true,
            ssh_keys: &[],
            upgrade: false,
        };
        let settings = [
            ("plain", plain),
            (
                "tainted-and-labelled",
                UserDataInput {
                    taints: &taints,
                    labels: &labels,
                    ..plain
                },
            ),
            (
                "ssh-keys",
                UserDataInput {
                    ssh_keys: &keys,
                    ..plain
                },
            ),
            (
                "upgraded",
                UserDataInput {
                    upgrade: true,
                    ..plain
                },
            ),
            (
                "external-cloud-provider",
                UserDataInput {
                    provider_id: None,
                    cluster_dns: &[],
                    ..plain
                },
            ),
            (
                "everything",
                UserDataInput {
                    node_name: "pool-a.web-1",
                    kubelet_version: "v1.34.0",
                    taints: &taints,
                    labels: &labels,
                    ssh_keys: &keys,
                    upgrade: true,
                    ..plain
                },
            ),
        ];
        for (setting, input) in settings {
            let path = directory.join(format!("{os}-{setting}.yaml"));
            let text = user_data::render(&input).with_context(|| path.display().to_string())?;
            std::fs::write(&path, text)?;
        }
    }
    Ok(())
}
