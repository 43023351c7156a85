//! Warns if the namespace's ResourceQuotas do not allow the VMs. It is only a warning, because both may change before
//! they start.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::ResourceExt as _;
use machinist_shared::api::count::counted;
use machinist_shared::api::field::Report;
use machinist_shared::api::quantity;
use machinist_shared::kubevirt::resolved::ResolvedSpec;

use super::existence::Found;
use super::request::PreflightRequest;

/// Minimum memory of a launcher in addition to its guest: its own processes and an I/O thread, overhead for each vCPU,
/// and page tables. KubeVirt adds more for devices, depending on its release.
const LAUNCHER: f64 = 218.0 * MEBI;
const PER_VCPU: f64 = 8.0 * MEBI;
const PAGE_TABLES: f64 = 1.0 / 512.0;
const MEBI: f64 = 1024.0 * 1024.0;

/// Minimum requests of the pod of one VM.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Needed {
    pub(super) memory: f64,
    /// `None` if KubeVirt determines it, as for vCPUs.
    pub(super) cpu: f64,
    storage: f64,
    claims: f64,
    /// Storage and claims by StorageClass.
    classes: BTreeMap<String, (f64, f64)>,
}

impl Needed {
    pub(super) fn of(spec: &ResolvedSpec, found: &Found) -> Self {
        let of_type = found.instancetype["memory"]["guest"].as_str().unwrap_or_default();
        let memory = if spec.instancetype.is_some() {
            of_type
        } else {
            &spec.memory
        };
        let disks = || std::iter::once(&spec.primary_disk).chain(&spec.secondary_disks);
        let cpus = if spec.instancetype.is_none() && spec.vcpu_cores == 0 {
            quantity::parse(&spec.cpus).unwrap_or_default()
        } else {
            0.0
        };
        let vcpus = match &spec.instancetype {
            Some(_) => found.instancetype["cpu"]["guest"].as_f64().unwrap_or_default(),
            #[expect(clippy::cast_precision_loss, reason = "a number of cores")]
            None if spec.vcpu_cores > 0 => spec.vcpu_cores as f64,
            None => cpus.ceil(),
        };
        let mut classes = BTreeMap::<String, (f64, f64)>::new();
        for disk in disks() {
            let (storage, claims) = classes.entry(disk.storage_class.clone()).or_default();
            *storage += quantity::parse(&disk.size).unwrap_or_default();
            *claims += 1.0;
        }
        Self {
            memory: quantity::parse(memory).map_or(0.0, |guest| with_launcher(guest, vcpus)),
            cpu: cpus,
            classes,
            storage: disks().filter_map(|disk| quantity::parse(&disk.size)).sum(),
            claims: disks().map(|_| 1.0).sum(),
        }
    }

    /// The amount of a quota's resource that one VM uses.
    fn amount(&self, resource: &str) -> Option<f64> {
        if let Some((class, resource)) = resource.split_once(".storageclass.storage.k8s.io/") {
            let (storage, claims) = self.classes.get(class)?;
            return match resource {
                "requests.storage" => Some(*storage),
                "persistentvolumeclaims" => Some(*claims),
                _ => None,
            };
        }
        match resource {
            "cpu" | "requests.cpu" | "limits.cpu" => Some(self.cpu),
            "memory" | "requests.memory" | "limits.memory" => Some(self.memory),
            "requests.storage" => Some(self.storage),
            "persistentvolumeclaims" | "count/persistentvolumeclaims" => Some(self.claims),
            "pods"
            | "count/pods"
            | "count/virtualmachines.kubevirt.io"
            | "count/virtualmachineinstances.kubevirt.io" => Some(1.0),
            _ => None,
        }
    }
}

fn with_launcher(guest: f64, vcpus: f64) -> f64 {
    guest * (1.0 + PAGE_TABLES) + LAUNCHER + vcpus * PER_VCPU
}

/// Adds a warning for each quota that does not allow all VMs.
pub(super) fn check(
    quotas: &[ResourceQuota],
    needed: &Needed,
    request: &PreflightRequest<'_>,
    report: &mut Report,
) {
    for quota in quotas {
        let status = quota.status.clone().unwrap_or_default();
        for (resource, hard) in status.hard.iter().flatten() {
            let Some(one) = needed.amount(resource).filter(|one| *one > 0.0) else {
                continue;
            };
            let used = status.used.as_ref().and_then(|used| used.get(resource));
            let used_text = used.map_or("0", |used| used.0.as_str());
            let (Some(most), Some(used)) = (quantity::parse(&hard.0), quantity::parse(used_text)) else {
                continue;
            };
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "as many as fit; the sizes are far below where a float loses a byte"
            )]
            let fitting = ((most - used) / one).max(0.0) as u64;
            if fitting < request.replicas {
                report.warn(
                    &request.path.child("virtualMachine"),
                    format!(
                        "ResourceQuota {} of namespace {} allows {resource} {}, of which {used_text} is used: there is room \
                         for {fitting} of {}",
                        quota.name_any(),
                        request.namespace,
                        hard.0,
                        counted(request.replicas, "more VM")
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ResourceQuotaStatus;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use machinist_shared::kubevirt::resolved::Disk;
    use serde_json::json;

    use super::super::request::fixture::request;
    use super::*;

    fn quota(resource: &str, hard: &str, used: &str) -> ResourceQuota {
        let amounts = |text: &str| Some([(resource.to_owned(), Quantity(text.to_owned()))].into());
        ResourceQuota {
            status: Some(ResourceQuotaStatus {
                hard: amounts(hard),
                used: amounts(used),
            }),
            ..ResourceQuota::default()
        }
    }

    fn warnings(quota: ResourceQuota, replicas: u64) -> usize {
        let spec = ResolvedSpec {
            memory: "2Gi".to_owned(),
            cpus: "2".to_owned(),
            primary_disk: Disk {
                size: "10Gi".to_owned(),
                storage_class: "fast".to_owned(),
                ..Disk::default()
            },
            ..ResolvedSpec::default()
        };
        let request = PreflightRequest {
            replicas,
            ..request(&spec)
        };
        let mut report = Report::new();
        check(
            &[quota],
            &Needed::of(&spec, &Found::default()),
            &request,
            &mut report,
        );
        report.warnings.len()
    }

    #[test]
    fn room_is_counted_for_all_replicas() {
        assert_eq!(warnings(quota("requests.memory", "9Gi", "4Gi"), 2), 0);
        assert_eq!(warnings(quota("requests.memory", "9Gi", "4Gi"), 3), 1);
        let launchers = "the launchers take some, too";
        assert_eq!(
            warnings(quota("requests.memory", "8Gi", "4Gi"), 2),
            1,
            "{launchers}"
        );
        assert_eq!(warnings(quota("requests.storage", "25Gi", "0"), 3), 1);
        assert_eq!(warnings(quota("pods", "3", "0"), 3), 0);
        assert_eq!(warnings(quota("pods", "3", "1"), 3), 1);
        assert_eq!(warnings(quota("requests.cpu", "8", "4"), 2), 0);
        assert_eq!(warnings(quota("limits.cpu", "8", "4"), 3), 1);
        let of_class = |class| {
            quota(
                &format!("{class}.storageclass.storage.k8s.io/requests.storage"),
                "25Gi",
                "0",
            )
        };
        assert_eq!(warnings(of_class("fast"), 2), 0);
        assert_eq!(warnings(of_class("fast"), 3), 1);
        assert_eq!(warnings(of_class("slow"), 3), 0, "no disk is of that class");
        assert_eq!(warnings(quota("pods", "3", "3"), 0), 0, "none is added");
    }

    #[test]
    fn an_instancetypes_memory_counts() {
        let spec = ResolvedSpec {
            instancetype: Some(machinist_shared::kubevirt::spec::Matcher::default()),
            ..ResolvedSpec::default()
        };
        let found = Found {
            instancetype: json!({"memory": {"guest": "4Gi"}, "cpu": {"guest": 2}}),
        };
        let mebibytes = Needed::of(&spec, &found).memory / MEBI;
        assert!(
            (mebibytes - (4096.0 + 8.0 + 218.0 + 16.0)).abs() < 1.0,
            "{mebibytes}"
        );
    }
}
