//! User data that turns a plain cloud image into a node: files and one service that finds or installs containerd and the
//! kubelet, which then joins with the Machine's own token.
//!
//! What a guest is to become is put together here ([`super::guest`]), and delivered to cloud-init ([`super::cloud_config`]) or
//! to Ignition ([`super::ignition`]).

use std::fmt;

use machinist_shared::provider_spec::operating_system::OperatingSystem;
use minijinja::context;
use serde_json::Value;

use super::cloud_config::{self, Reader};
use super::guest::{File, Guest, mode};
pub use super::input::{UserDataError, UserDataInput};
use super::{ignition, kubelet, network, proxy, registries, size, subscription, systemd, trust};

/// The script that finds or installs containerd and the kubelet.
const INSTALL_SCRIPT: &str = include_str!("../../templates/install.sh");
const INSTALL_UNIT: &str = include_str!("../../templates/install.service.j2");
const MODULES: &str = "overlay\nbr_netfilter\n";
const SYSCTL: &str = include_str!("../../templates/sysctl.conf");

/// The operating systems that user data can be made for.
pub const OPERATING_SYSTEMS: [OperatingSystem; 4] = [
    OperatingSystem::Ubuntu,
    OperatingSystem::RockyLinux,
    OperatingSystem::Rhel,
    OperatingSystem::Flatcar,
];

const SCRIPT: &str = "/opt/machinist/install.sh";
/// Its unit: cloud-init runs commands once, whether they succeed or not; systemd runs it until it has succeeded.
const INSTALL_SERVICE: &str = "machinist-install.service";
/// Scripts of a person's, run by the installation.
const PRE_INSTALL: &str = "/opt/machinist/pre-install.sh";
const POST_INSTALL: &str = "/opt/machinist/post-install.sh";

/// User data; it holds a token, and is never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum UserData {
    /// For cloud-init: text, or text compressed with gzip.
    CloudConfig(Vec<u8>),
    /// For Ignition: JSON.
    Ignition(Vec<u8>),
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[user data]")
    }
}

impl UserData {
    /// As it is stored in the Secret.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::CloudConfig(bytes) | Self::Ignition(bytes) => bytes,
        }
    }

    /// What KubeVirt passes to Ignition, if that is what reads it.
    pub fn ignition(&self) -> Option<&str> {
        match self {
            Self::CloudConfig(_) => None,
            Self::Ignition(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }
}

/// Renders the user data.
pub fn render(input: &UserDataInput<'_>) -> Result<UserData, UserDataError> {
    let os = input.operating_system;
    if !OPERATING_SYSTEMS.contains(&os) {
        return Err(UserDataError::UnsupportedOperatingSystem(os));
    }
    let guest = Guest {
        hostname: input.node_name,
        files: files(input)?,
        service: INSTALL_SERVICE,
        ssh_keys: input.ssh_keys,
        time_servers: &input.machinist.time_servers,
    };
    if os != OperatingSystem::Flatcar {
        return size::cloud_config(cloud_config::render(&guest, Reader::CloudInit))
            .map(UserData::CloudConfig);
    }
    if input.operating_system_spec["provisioningUtility"] == "cloud-init" {
        return size::cloud_config(cloud_config::render(&guest, Reader::CoreOs)).map(UserData::CloudConfig);
    }
    size::ignition(ignition::render(&guest)).map(UserData::Ignition)
}

fn files(input: &UserDataInput<'_>) -> Result<Vec<File>, UserDataError> {
    let (os, extras) = (input.operating_system, input.machinist);
    // Flatcar's /usr is read-only.
    let program = if os == OperatingSystem::Flatcar {
        "/opt/bin/kubelet"
    } else {
        "/usr/bin/kubelet"
    };
    let mut files = vec![
        File::new("/etc/modules-load.d/kubernetes.conf", mode::PUBLIC, MODULES),
        File::new("/etc/sysctl.d/99-kubernetes.conf", mode::PUBLIC, SYSCTL),
    ];
    files.extend(registries::files(
        &extras.registries,
        input.registry_credentials.expose(),
        os,
    )?);
    files.extend(kubelet::files(input, program)?);
    files.push(File::new(SCRIPT, mode::PROGRAM, INSTALL_SCRIPT));
    files.push(File::new(
        format!("/etc/systemd/system/{INSTALL_SERVICE}"),
        mode::PUBLIC,
        install_unit(input, program)?,
    ));
    files.extend(proxy::files(
        &extras.proxy,
        input.server,
        input.cluster_domain,
        &["containerd.service", "kubelet.service", INSTALL_SERVICE],
    )?);
    files.extend(trust::certificates(input.ca_bundle.expose(), os)?);
    files.extend(trust::ssh_ca(input.ssh_ca)?);
    files.extend(network::files(input.network));
    match os {
        OperatingSystem::Rhel => {
            files.extend(subscription::files(input.operating_system_spec));
            files.extend(upgrade(input.operating_system_spec));
        }
        OperatingSystem::Flatcar => {
            files.extend(time_servers(&extras.time_servers));
            files.extend(updates(input.operating_system_spec));
        }
        _ => files.extend(upgrade(input.operating_system_spec)),
    }
    for (path, commands) in [
        (PRE_INSTALL, &extras.commands.pre_install),
        (POST_INSTALL, &extras.commands.post_install),
    ] {
        if !commands.is_empty() {
            let script = format!("#!/bin/bash\nset -e\n{}\n", commands.join("\n"));
            files.push(File::new(path, mode::SECRET, script));
        }
    }
    let own = extras
        .files
        .iter()
        .map(|file| File::new(&file.path, file.mode(), &file.content));
    files.extend(own);
    Ok(files)
}

/// cloud-init has a module for them; Flatcar has systemd-timesyncd.
fn time_servers(servers: &[String]) -> Option<File> {
    (!servers.is_empty()).then(|| {
        File::new(
            "/etc/systemd/timesyncd.conf.d/machinist.conf",
            mode::PUBLIC,
            format!("[Time]\nNTP={}\n", servers.join(" ")),
        )
    })
}

/// `distUpgradeOnBoot`: the installation upgrades all packages where this file is. Not cloud-init, which would do so before
/// there is a subscription, and without the proxy.
fn upgrade(spec: &Value) -> Option<File> {
    (spec["distUpgradeOnBoot"] == true).then(|| File::new("/opt/machinist/upgrade", mode::PUBLIC, ""))
}

/// Services of Flatcar that `operatingSystemSpec` turns off: the installation masks those that are listed here.
fn updates(spec: &Value) -> Option<File> {
    let all = spec["disableAutoUpdate"] == true;
    let off = |key: &str| all || spec[key] == true;
    let units: String = [
        ("disableUpdateEngine", "update-engine.service\n"),
        ("disableLocksmithD", "locksmithd.service\n"),
    ]
    .iter()
    .filter(|(key, _)| off(key))
    .map(|(_, unit)| *unit)
    .collect();
    (!units.is_empty()).then(|| File::new("/opt/machinist/masked-units", mode::PUBLIC, units))
}

fn install_unit(input: &UserDataInput<'_>, program: &str) -> Result<String, UserDataError> {
    let version = systemd::word(input.kubelet_version.trim_start_matches('v'))?;
    systemd::fill(INSTALL_UNIT, &context! { version, program })
}

#[cfg(test)]
mod tests;
