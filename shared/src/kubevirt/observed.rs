//! Statuses as KubeVirt and CDI write them, projected to the fields with the reasons why a VM does not run.
//!
//! Fields that are false or empty are absent there, never `false`; absent and null read as the default here.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Maximum number of list items that are read; KubeVirt's own lists have far fewer. A small document can have a
/// million.
const MAX_ITEMS: usize = 256;

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The first items of a list; none for null.
pub fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Bounded<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_seq(self)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut first = Vec::new();
            while first.len() < MAX_ITEMS {
                match list.next_element()? {
                    Some(element) => first.push(element),
                    None => return Ok(first),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(first)
        }
    }
    deserializer.deserialize_option(Bounded(PhantomData))
}

/// A condition of a VM, VMI or DataVolume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// CamelCase reason, or empty.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// Human-readable message.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
}

/// The condition of that type and status.
pub fn find<'a>(conditions: &'a [Condition], kind: &str, status: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.kind == kind && c.status == status)
}

/// `status` of a VirtualMachine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VmStatus {
    /// One-word summary; `Stopped` is also the initial value.
    #[serde(deserialize_with = "nullable")]
    pub printable_status: String,
    /// Conditions, the VMI's mirrored among them.
    #[serde(deserialize_with = "bounded")]
    pub conditions: Vec<Condition>,
    /// Whether a VMI exists.
    #[serde(deserialize_with = "nullable")]
    pub created: bool,
    /// Set while starts fail.
    #[serde(deserialize_with = "nullable")]
    pub start_failure: Option<StartFailure>,
}

/// `status.startFailure` of a VirtualMachine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StartFailure {
    /// Number of consecutive failed starts.
    #[serde(deserialize_with = "nullable")]
    pub consecutive_fail_count: i64,
}

/// `status` of a VirtualMachineInstance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VmiStatus {
    /// Pending, Scheduling, Scheduled, Running, Succeeded, Failed, Unknown or empty.
    #[serde(deserialize_with = "nullable")]
    pub phase: String,
    /// CamelCase, for phase Failed.
    #[serde(deserialize_with = "nullable")]
    pub reason: String,
    /// Conditions.
    #[serde(deserialize_with = "bounded")]
    pub conditions: Vec<Condition>,
    /// The infra node that it runs on.
    #[serde(deserialize_with = "nullable")]
    pub node_name: String,
    /// The infra node that it must leave.
    #[serde(deserialize_with = "nullable")]
    pub evacuation_node_name: String,
    /// All its phases so far, in order.
    #[serde(deserialize_with = "bounded")]
    pub phase_transition_timestamps: Vec<Transition>,
    /// Network interfaces, including those that only the guest reports.
    #[serde(deserialize_with = "bounded")]
    pub interfaces: Vec<Interface>,
}

/// A phase of a VMI. Its time is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Transition {
    /// As in [`VmiStatus::phase`].
    #[serde(deserialize_with = "nullable")]
    pub phase: String,
}

/// A network interface of a VMI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    /// Name of the network in the spec; empty for interfaces that only the guest knows.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Bounded address.
    #[serde(deserialize_with = "nullable")]
    pub ip_address: String,
    /// All addresses.
    #[serde(deserialize_with = "bounded")]
    pub ip_addresses: Vec<String>,
    /// KubeVirt's sources of information about the interface; the guest controls what the guest agent reports.
    #[serde(rename = "infoSource", deserialize_with = "is_without_guest_agent")]
    pub beside_agent: bool,
}

/// Whether a source is set and none is the guest agent: `domain`, but not `domain, guest-agent`.
fn is_without_guest_agent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let source = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    Ok(!source.is_empty() && !source.split(',').any(|one| one.trim() == "guest-agent"))
}

impl VmiStatus {
    /// Addresses of the VM's own interfaces, in order, without prefix lengths and duplicates, each as [`IpAddr`] writes
    /// it. Interfaces that only the guest agent reports (bridges, overlays) are skipped. So are addresses that are not
    /// reachable from outside the guest: loopback, link-local, multicast, unspecified. A guest that has ended has none:
    /// KubeVirt keeps them in its status, but assigns them to other guests.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses_of(|_| true)
    }

    /// The [`Self::addresses`] that the guest does not control: of interfaces that KubeVirt knows without the agent, or
    /// whose name is in `behind_pod`.
    pub fn addresses_beside_agent(&self, mut behind_pod: impl FnMut(&str) -> bool) -> Vec<String> {
        self.addresses_of(|interface| interface.beside_agent || behind_pod(&interface.name))
    }

    fn addresses_of(&self, mut counts: impl FnMut(&Interface) -> bool) -> Vec<String> {
        let mut addresses: Vec<String> = Vec::new();
        if self.is_final() {
            return addresses;
        }
        for interface in &self.interfaces {
            if interface.name.is_empty() || !counts(interface) {
                continue;
            }
            for address in std::iter::once(&interface.ip_address).chain(&interface.ip_addresses) {
                let address = address.split('/').next().unwrap_or_default();
                let Some(address) = address.parse().ok().filter(is_reachable) else {
                    continue;
                };
                let address = address.to_canonical().to_string();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    /// Whether the guest has ever run: one that waits for a host or for its disks has not.
    pub fn has_run(&self) -> bool {
        let passed = &self.phase_transition_timestamps;
        let mut phases = passed.iter().map(|passed| passed.phase.as_str());
        matches!(self.phase.as_str(), "Running" | "Succeeded") || phases.any(|phase| phase == "Running")
    }

    /// Whether the recorded phases show that the guest never ran. Without recorded phases, that is unknown.
    pub fn is_known_not_to_have_run(&self) -> bool {
        !self.phase_transition_timestamps.is_empty() && !self.has_run()
    }

    /// Whether the guest has ended.
    pub fn is_final(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// Whether an address is reachable from outside the guest.
fn is_reachable(address: &IpAddr) -> bool {
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(is_link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

/// `status` of a DataVolume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataVolumeStatus {
    /// Phase, or empty.
    #[serde(deserialize_with = "nullable")]
    pub phase: String,
    /// `N/A` or `42.31%`.
    #[serde(deserialize_with = "nullable")]
    pub progress: String,
    /// Number of restarts of the importer.
    #[serde(deserialize_with = "nullable")]
    pub restart_count: i64,
    /// Conditions.
    #[serde(deserialize_with = "bounded")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[test]
    fn of_a_list_without_end_the_first_are_read() {
        let million: Vec<Value> = (0..1_000_000).map(|_| json!({})).collect();
        let status: VmiStatus =
            serde_json::from_value(json!({"conditions": million, "interfaces": null})).unwrap();
        assert_eq!((status.conditions.len(), status.interfaces.len()), (MAX_ITEMS, 0));
    }

    #[test]
    fn only_the_vms_own_interfaces_count() {
        let status: VmiStatus = serde_json::from_value(json!({"interfaces": [
            {"name": "default", "ipAddress": "10.1.0.5", "ipAddresses": ["10.1.0.5", "fd00::5/64"]},
            {"interfaceName": "docker0", "ipAddress": "172.17.0.1", "infoSource": "guest-agent"},
        ]}))
        .unwrap();
        assert_eq!(status.addresses(), ["10.1.0.5", "fd00::5"]);
    }

    #[rstest]
    #[case::none(json!({}), false, true)]
    #[case::that_waits_for_a_host(json!({"phase": "Scheduling"}), false, true)]
    #[case::that_has_a_host(json!({"phase": "Scheduled"}), false, true)]
    #[case::that_runs(json!({"phase": "Running"}), true, true)]
    #[case::whose_host_is_lost(json!({"phase": "Unknown"}), true, true)]
    #[case::that_ended(json!({"phase": "Succeeded"}), true, false)]
    #[case::that_crashed(json!({"phase": "Failed"}), true, false)]
    fn a_guest(#[case] mut status: Value, #[case] runs: bool, #[case] has_addresses: bool) {
        status["interfaces"] = json!([{"name": "default", "ipAddress": "10.1.0.5"}]);
        let read = |status: &Value| -> VmiStatus { serde_json::from_value(status.clone()).unwrap() };
        assert_eq!(!read(&status).addresses().is_empty(), has_addresses);
        let by_itself = matches!(status["phase"].as_str(), Some("Running" | "Succeeded"));
        assert_eq!(
            read(&status).has_run(),
            by_itself,
            "as far as the phase alone tells"
        );
        let mut passed =
            vec![json!({"phase": "Scheduled", "phaseTransitionTimestamp": "2026-01-01T12:00:00Z"})];
        if runs {
            passed.insert(
                0,
                json!({"phase": "Running", "phaseTransitionTimestamp": "2026-01-01T12:00:01Z"}),
            );
        }
        status["phaseTransitionTimestamps"] = json!(passed);
        assert_eq!(read(&status).has_run(), runs);
    }

    #[test]
    fn unreachable_addresses_are_skipped_and_the_others_normalized() {
        let status: VmiStatus = serde_json::from_value(json!({"interfaces": [
            {"name": "default", "ipAddress": "fe80::1", "ipAddresses": [
                "fe80::1", "169.254.25.10", "127.0.0.53", "::1", "::", "224.0.0.1", "nonsense", "FD00:0::5", "::ffff:10.1.0.5"]},
        ]}))
        .unwrap();
        assert_eq!(status.addresses(), ["fd00::5", "10.1.0.5"]);
    }

    #[test]
    fn nulls_read_as_absent() {
        let status: VmStatus = serde_json::from_value(json!({"conditions": null, "created": null})).unwrap();
        assert_eq!(status, VmStatus::default());
    }
}
