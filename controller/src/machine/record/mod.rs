//! The record in `status.providerStatus`: where the VM was put, written before it is made, and which VM it is.
//!
//! It says *where*, never *whose*: ownership is decided from what is observed (see [`super::ownership`]).

mod legacy;
mod progress;

use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::jiff::Timestamp;
use machinist_infra::kube::kubeconfig::{CA_INSECURE, CA_SYSTEM};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::progress::{
    Deletion, Evacuation, IMPORT_FAILING, NodeLoss, Progress, Reservation, VmLoss, WaitingFor,
};
use super::node_metadata::Retired;
use crate::runtime::recreation::Recreated;

/// Where a Machine's VM was put, and which it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The infra cluster and namespace.
    pub infrastructure: Infrastructure,
    /// Where the credential came from; never the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialSource>,
    /// Region and zone, as the VM's labels have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_domain: Option<FailureDomain>,
    /// `metadata.uid` of the VM; absent until it is made.
    #[serde(default, rename = "vmUID", skip_serializing_if = "Option::is_none")]
    pub vm_uid: Option<String>,
    /// The Machine is being deleted, and its VM with it: that the VM goes is no loss. Written before the VM's deletion is
    /// asked for.
    #[serde(default, rename = "vmDeleting", skip_serializing_if = "std::ops::Not::not")]
    pub vm_deleting: bool,
    /// The host that the VM runs on, for people. Written with what else is written, or when it changes later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When it was first seen, by the clock of the user cluster's API server; absent for VMs that we did not make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_seen: Option<Timestamp>,
    /// ID of the bootstrap token in the VM's user data; absent for VMs that we did not make.
    #[serde(default, rename = "tokenID", skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// What the VM's user data was taken from, where it is operating-system-manager's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_secret: Option<BootstrapSecret>,
    /// The VM before this one, which vanished or had to be recreated; kept until the new one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<PreviousVm>,
    /// VMs in a row that were created in the place of others, until one has become a Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recreation: Option<Recreated>,
    /// A former VM of this Machine had become a Node: there is no hurry for this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
    /// The Machine's Node has been Ready: it starts no more (see [`super::start_limiter`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_been_ready: bool,
    /// `metadata.uid` of the Node that the VM became, once it was seen to be this Machine's.
    #[serde(default, rename = "nodeUID", skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<String>,
    /// UID of the Machine that the VM was made for, if that is gone and an admin gave the VM to this one, which was restored from a
    /// backup: the VM's Node has its providerID from that, and nothing changes a providerID.
    #[serde(default, rename = "formerMachineUID", skip_serializing_if = "Option::is_none")]
    pub former_machine_uid: Option<String>,
    /// System UUID of that Node, which is the firmware's of the VM that it joined from.
    #[serde(default, rename = "nodeSystemUUID", skip_serializing_if = "Option::is_none")]
    pub node_system_uuid: Option<String>,
    /// What the Node may have of the Machine that the Machine does not ask for any more; gone once the Node has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Retired>,
}

/// An infra cluster and namespace, by every facet known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Infrastructure {
    /// Namespace of the VM.
    pub namespace: String,
    /// UID of that namespace, where it may be read.
    #[serde(default, rename = "namespaceUID", skip_serializing_if = "Option::is_none")]
    pub namespace_uid: Option<String>,
    /// URL of the API server.
    pub server: String,
    /// SHA-256 of its CA.
    #[serde(default)]
    pub ca_digest: String,
}

/// Whether a CA tells its cluster from others: the world's CAs, or none at all, do not.
pub fn is_own_ca(digest: &str) -> bool {
    !["", CA_SYSTEM, CA_INSECURE].contains(&digest)
}

impl Infrastructure {
    /// Whether both are the same namespace of the same cluster: equal namespace UIDs where both know it, else an
    /// equal server or CA (one of them may have been rotated).
    pub fn is_same(&self, other: &Self) -> bool {
        if self.namespace != other.namespace {
            return false;
        }
        match (&self.namespace_uid, &other.namespace_uid) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => {
                self.server == other.server
                    || (is_own_ca(&self.ca_digest) && self.ca_digest == other.ca_digest)
            }
        }
    }
}

/// Where a credential came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "source")]
pub enum CredentialSource {
    /// A Secret of the user cluster.
    #[serde(rename_all = "camelCase")]
    SecretKeyRef {
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// Key in it.
        key: String,
    },
    /// A ConfigMap of the user cluster.
    #[serde(rename_all = "camelCase")]
    ConfigMapKeyRef {
        /// Namespace of the ConfigMap.
        namespace: String,
        /// Name of the ConfigMap.
        name: String,
        /// Key in it.
        key: String,
    },
    /// The spec itself.
    Inline,
    /// The controller's environment.
    Environment,
}

/// A bootstrap Secret of operating-system-manager, as one VM uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapSecret {
    /// Its revision, or empty.
    pub revision: String,
    /// Tells the Secret with the user data of this VM from that of a former one.
    pub id: String,
}

/// A VM that is to be, or was, replaced in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviousVm {
    /// `metadata.uid` of it.
    pub uid: String,
    /// Why it is replaced, for a person.
    pub why: String,
}

/// Region and zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureDomain {
    /// Region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// What a Machine's `providerStatus` holds; what takes time, of versions that wrote none, from its conditions.
pub fn read(provider_status: &Value, conditions: &[NodeCondition]) -> (Option<Record>, Progress) {
    let record = Record::read(provider_status);
    let vm_uid = record.as_ref().and_then(|record| record.vm_uid.as_deref());
    let progress = Progress::read(provider_status).unwrap_or_else(|| legacy::progress(conditions, vm_uid));
    (record, progress)
}

impl Record {
    /// Reads a record; anything that is none is no record.
    pub fn read(value: &Value) -> Option<Self> {
        let record = Self::deserialize(value).ok()?;
        (!record.infrastructure.server.is_empty()).then_some(record)
    }

    /// Whether the Machine's node has ever joined, maybe as a former VM's.
    pub fn has_joined(&self) -> bool {
        self.joined || self.node_uid.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn infra(uid: Option<&str>, server: &str, ca: &str) -> Infrastructure {
        Infrastructure {
            namespace: "vms".into(),
            namespace_uid: uid.map(str::to_owned),
            server: server.into(),
            ca_digest: ca.into(),
        }
    }

    #[rstest]
    #[case::equal_uid_beats_a_new_server_and_ca(infra(Some("u"), "a", "1"), infra(Some("u"), "b", "2"), true)]
    #[case::another_uid_beats_an_equal_server(infra(Some("u"), "a", "1"), infra(Some("v"), "a", "1"), false)]
    #[case::unknown_uid_and_equal_server(infra(None, "a", "1"), infra(Some("v"), "a", "2"), true)]
    #[case::unknown_uid_and_equal_ca(infra(None, "a", "1"), infra(None, "b", "1"), true)]
    #[case::nothing_equal(infra(None, "a", "1"), infra(None, "b", "2"), false)]
    #[case::the_worlds_cas_are_not_an_equal_ca(infra(None, "a", "system"), infra(None, "b", "system"), false)]
    #[case::an_unverified_ca_is_not_an_equal_ca(
        infra(None, "a", "insecure"),
        infra(None, "b", "insecure"),
        false
    )]
    #[case::no_ca_is_not_an_equal_ca(infra(None, "a", ""), infra(None, "b", ""), false)]
    fn the_same_infra_is_reported_by_its_facets(
        #[case] a: Infrastructure,
        #[case] b: Infrastructure,
        #[case] same: bool,
    ) {
        assert_eq!(a.is_same(&b), same);
        assert_eq!(b.is_same(&a), same);
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        let record = Record {
            infrastructure: infra(Some("u"), "https://a", "1"),
            credential: Some(CredentialSource::SecretKeyRef {
                namespace: "n".into(),
                name: "s".into(),
                key: "k".into(),
            }),
            vm_uid: Some("v".into()),
            ..Record::default()
        };
        assert_eq!(
            Record::read(&serde_json::to_value(&record).unwrap()),
            Some(record)
        );
    }

    #[test]
    fn what_machine_controller_or_a_person_wrote_there_is_no_record() {
        assert_eq!(Record::read(&serde_json::json!({"state": "running"})), None);
        assert_eq!(Record::read(&serde_json::json!("x")), None);
    }
}
