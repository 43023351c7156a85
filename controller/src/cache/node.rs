//! A Node, projected to the fields that we use.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{NodeAddress, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer, Serialize};

use super::named::named;
use super::owner;

const READY: &str = "Ready";

/// A Node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Node {
    /// Metadata, without what is not used.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Spec.
    #[serde(default)]
    pub spec: NodeSpec,
    /// Status.
    #[serde(default)]
    pub status: NodeStatus,
}

/// Spec of a Node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Identity given by the kubelet, a CCM or us.
    #[serde(rename = "providerID")]
    pub provider_id: Option<String>,
    /// Taints.
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub unschedulable: bool,
}

/// Status of a Node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Addresses.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
    /// The condition Ready, without its heartbeat time.
    #[serde(deserialize_with = "ready")]
    pub conditions: Vec<NodeCondition>,
    /// What the kubelet says of its machine.
    #[serde(deserialize_with = "nullable")]
    pub node_info: NodeInfo,
}

/// A Node's condition without its heartbeat, so that heartbeats change nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCondition {
    /// Type.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// Reason.
    pub reason: Option<String>,
    /// Message.
    pub message: Option<String>,
    /// Since when the status is what it is.
    pub last_transition_time: Option<Time>,
}

/// What a kubelet says of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeInfo {
    /// Version, with a leading `v`.
    pub kubelet_version: String,
    /// UUID of the machine's firmware.
    #[serde(rename = "systemUUID")]
    pub system_uuid: String,
}

fn ready<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeCondition>, D::Error> {
    let mut conditions: Vec<NodeCondition> = nullable(deserializer)?;
    conditions.retain(|condition| condition.type_ == READY);
    conditions.shrink_to_fit();
    Ok(conditions)
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    ObjectMeta::deserialize(deserializer).map(owner::reduced)
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

named!(Node, metadata);

impl Node {
    /// Its addresses, each as [`IpAddr`] writes it; without names.
    pub fn own_addresses(&self) -> Vec<String> {
        let is_address =
            |address: &&NodeAddress| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP");
        let own = self.status.addresses.iter().filter(is_address);
        own.filter_map(|address| address.address.parse::<IpAddr>().ok())
            .map(|address| address.to_canonical().to_string())
            .collect()
    }

    /// A label's text.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Its Ready condition.
    pub fn ready(&self) -> Option<&NodeCondition> {
        self.status.conditions.iter().find(|c| c.type_ == READY)
    }

    /// Whether it is Ready.
    pub fn is_ready(&self) -> bool {
        self.ready().is_some_and(|c| c.status == "True")
    }
}

machinist_infra::projected!(Node, ClusterResourceScope, "Node", "", "v1", "nodes");

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_a_node_only_what_is_read_is_held() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"a": "b"}, "managedFields": [{"manager": "kubelet"}]},
            "status": {"conditions": [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        assert!(node.is_ready() && node.label("a") == Some("b"));
        assert!(node.metadata.managed_fields.is_none());
        assert_eq!(node.status.conditions.len(), 1);
    }
}
