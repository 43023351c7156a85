//! Validation of the VM itself: size, disks and DNS.

use k8s_openapi::api::core::v1::PodDNSConfig;

use super::{image, is_empty, label_value, literal, matchers, object_name, positive, text};
use crate::api::config_var::ConfigVarString;
use crate::api::field::{FieldPath, Report};
use crate::api::{quantity, syntax};
use crate::kubevirt::spec::{ACCESS_MODES, VirtualMachine};

/// KubeVirt's minimum: 1M.
const MIN_MEMORY: f64 = 1e6;

/// CDI's minimum of a disk: 1Mi.
const MIN_DISK: f64 = 1024.0 * 1024.0;

/// Validates `virtualMachine`.
pub(super) fn validate(vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    let template = path.child("template");
    matchers::validate(vm, path, report);
    if vm.instancetype.is_some() {
        warn_sizes(vm, &template, report);
    } else {
        sizes(vm, &template, report);
    }
    if vm.vcpu_cores < 0 || vm.vcpu_cores > i64::from(u32::MAX) {
        report.invalid(
            &template.child("vcpus").child("cores"),
            format!("{} is not a number of cores", vm.vcpu_cores),
        );
    }
    disks(vm, &template, report);
    dns(vm, path, report);
    let location = path.child("location");
    label_value(Some(&vm.region), &location.child("region"), report);
    label_value(Some(&vm.zone), &location.child("zone"), report);
    eviction(vm, path, report);
}

/// CPUs and memory, for a VM without an instancetype.
fn sizes(vm: &VirtualMachine, template: &FieldPath, report: &mut Report) {
    if vm.memory.is_unset() {
        report.required(
            &template.child("memory"),
            "is required without an instancetype, like 4Gi",
        );
    } else if let Some(text) = literal(&vm.memory) {
        let path = template.child("memory");
        positive(text, &path, report);
        if quantity::parse(text).is_some_and(|amount| amount > 0.0 && amount < MIN_MEMORY) {
            report.invalid(
                &path,
                format!("{text:?} is less than 1M, which KubeVirt rejects; a node needs gigabytes"),
            );
        }
    }
    if vm.vcpu_cores != 0 {
        if !vm.cpus.is_unset() {
            report.warn(&template.child("cpus"), "has no effect together with vcpus.cores");
        }
    } else if vm.cpus.is_unset() {
        report.required(
            &template.child("cpus"),
            "no CPUs configured: set cpus or vcpus.cores, or an instancetype",
        );
    } else if let Some(text) = literal(&vm.cpus) {
        positive(text, &template.child("cpus"), report);
    }
}

fn warn_sizes(vm: &VirtualMachine, template: &FieldPath, report: &mut Report) {
    let set = [
        ("vcpus", vm.vcpu_cores != 0),
        ("cpus", !is_empty(&vm.cpus)),
        ("memory", !is_empty(&vm.memory)),
    ];
    for (key, _) in set.into_iter().filter(|(_, set)| *set) {
        report.warn(
            &template.child(key),
            "has no effect together with an instancetype",
        );
    }
}

fn disks(vm: &VirtualMachine, template: &FieldPath, report: &mut Report) {
    let (disk, path) = (&vm.primary_disk, template.child("primaryDisk"));
    size(&disk.size, &path, report);
    storage_class(&disk.storage_class, &path, report);
    if is_empty(&disk.os_image) {
        report.required(
            &path.child("osImage"),
            "is required; names the image to boot: a URL, a registry image or a PVC",
        );
    }
    if let Some(mode) = unknown_mode(&disk.access_mode) {
        report.not_supported(&path.child("storageAccessType"), mode, &ACCESS_MODES);
    }
    if let Some(target) = literal(&disk.storage_target)
        && !["", "pvc", "storage"].contains(&target)
    {
        report.warn(
            &path.child("storageTarget"),
            format!("{target:?} is not one of pvc, storage; storage is used"),
        );
    }
    image::validate(disk, &path, report);
    for (index, disk) in vm.secondary_disks.iter().enumerate() {
        let path = template.child("secondaryDisks").index(index);
        size(&disk.size, &path, report);
        storage_class(&disk.storage_class, &path, report);
        if let Some(mode) = unknown_mode(&disk.access_mode) {
            report.warn(
                &path.child("storageAccessType"),
                format!(
                    "{mode:?} is not one of {}; it is ignored",
                    ACCESS_MODES.join(", ")
                ),
            );
        }
    }
}

fn size(var: &ConfigVarString, disk: &FieldPath, report: &mut Report) {
    let path = disk.child("size");
    if var.is_unset() {
        report.required(&path, "is required, a quantity like 10Gi");
    } else if let Some(text) = literal(var) {
        positive(text, &path, report);
        if quantity::parse(text).is_some_and(|amount| amount > 0.0 && amount.ceil() < MIN_DISK) {
            let is_number = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let meant = if is_number {
                format!("; did you mean {text}Gi?")
            } else {
                String::new()
            };
            report.invalid(
                &path,
                format!("{text:?} is less than 1Mi, which CDI refuses{meant}"),
            );
        }
    }
}

fn storage_class(var: &ConfigVarString, disk: &FieldPath, report: &mut Report) {
    let path = disk.child("storageClassName");
    if is_empty(var) {
        report.required(&path, "is required; names a StorageClass of the infra cluster");
    }
    object_name(literal(var), &path, report);
}

/// The access mode, if it is unknown.
fn unknown_mode(var: &ConfigVarString) -> Option<&str> {
    text(var).filter(|mode| !ACCESS_MODES.contains(mode))
}

fn eviction(vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    let (path, strategy) = (path.child("evictionStrategy"), vm.eviction_strategy.as_str());
    if !["", "External", "LiveMigrate"].contains(&strategy) {
        report.not_supported(&path, strategy, &["External", "LiveMigrate"]);
    }
    let disks = vm.secondary_disks.iter().map(|disk| &disk.access_mode);
    let mut modes = std::iter::once(&vm.primary_disk.access_mode).chain(disks);
    if strategy == "LiveMigrate"
        && let Some(mode) = modes.find_map(|mode| {
            text(mode).filter(|mode| *mode != "ReadWriteMany" && ACCESS_MODES.contains(mode))
        })
    {
        let drain = "draining its host will hang";
        report.warn(
            &path,
            format!("a VM with a disk that is {mode} cannot migrate; {drain}"),
        );
    }
}

/// KubeVirt's rules for DNS, which are those of pods in older releases: few search domains, without a trailing dot.
fn dns(vm: &VirtualMachine, path: &FieldPath, report: &mut Report) {
    const POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    const MAX_SEARCHES: usize = 6;
    const MAX_SEARCH_CHARACTERS: usize = 256;
    let none = PodDNSConfig::default();
    let config = vm.dns_config.as_ref().unwrap_or(&none);
    let list = |list: &'_ Option<Vec<String>>| list.clone().unwrap_or_default();
    let (nameservers, searches) = (list(&config.nameservers), list(&config.searches));
    if let Some(policy) = text(&vm.dns_policy) {
        if !POLICIES.contains(&policy) {
            report.not_supported(&path.child("dnsPolicy"), policy, &POLICIES);
        } else if policy == "None" && nameservers.is_empty() {
            let path = path.child("dnsConfig").child("nameservers");
            report.required(&path, "at least one nameserver is required with dnsPolicy None");
        }
    }
    if vm.dns_config.is_none() {
        return;
    }
    let path = path.child("dnsConfig");
    if nameservers.len() > 3 {
        report.invalid(
            &path.child("nameservers"),
            format!(
                "KubeVirt accepts at most 3 nameservers, not {}",
                nameservers.len()
            ),
        );
    }
    for (index, server) in nameservers.iter().enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            report.invalid(
                &path.child("nameservers").index(index),
                format!("{server:?} is not an IP address"),
            );
        }
    }
    for (index, search) in searches.iter().enumerate() {
        if syntax::dns_subdomain(search).is_err() {
            let dot = if search.ends_with('.') {
                ": KubeVirt rejects a trailing dot"
            } else {
                ""
            };
            report.invalid(
                &path.child("searches").index(index),
                format!("{search:?} is not a DNS domain{dot}"),
            );
        }
    }
    if searches.len() > MAX_SEARCHES {
        report.invalid(
            &path.child("searches"),
            format!(
                "KubeVirt accepts at most {MAX_SEARCHES} search domains, not {}",
                searches.len()
            ),
        );
    }
    let length = searches.join(" ").len();
    if length > MAX_SEARCH_CHARACTERS {
        report.invalid(
            &path.child("searches"),
            format!(
                "KubeVirt accepts at most {MAX_SEARCH_CHARACTERS} characters of search domains, not {length}"
            ),
        );
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().is_none_or(str::is_empty) {
            report.required(
                &path.child("options").index(index).child("name"),
                "is required, like ndots",
            );
        }
    }
}
