//! The Nodes themselves, and the credentials of virt-handler on each.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;

use crate::objects::stamp;

/// KubeVirt considers a Node lost after five minutes without a heartbeat of virt-handler. This interval is shorter.
const HEARTBEAT: &str = "2100-01-01T00:00:00Z";
/// Namespace and ServiceAccount of virt-handler.
const HANDLER: (&str, &str) = ("kubevirt", "kubevirt-handler");
/// Kubernetes considers a Node lost when its Lease is 40 seconds old.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// Creates the Node, Ready and schedulable.
pub(crate) async fn register(client: &Client, name: &str) -> Result<Node, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let params = PatchParams::apply("kubevirt-sim").force();
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubevirt.io/schedulable": "true", "kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
            },
            "annotations": {"kubevirt.io/heartbeat": HEARTBEAT},
        },
    });
    let node = nodes.patch(name, &params, &Patch::Apply(node)).await?;
    let room = json!({"cpu": "1k", "memory": "1Ti", "pods": "1k", "devices.kubevirt.io/kvm": "1k"});
    let status = json!({"status": {
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
            "lastHeartbeatTime": stamp(Timestamp::now()), "lastTransitionTime": stamp(Timestamp::now()),
        }],
        "capacity": room, "allocatable": room,
    }});
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    tokio::spawn(live(client.clone(), name.to_owned()));
    Ok(node)
}

/// Renews the Lease until it is dropped.
async fn live(client: Client, name: String) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let params = PatchParams::apply("kubevirt-sim").force();
    loop {
        let renewed = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "renewTime": renewed, "leaseDurationSeconds": 40},
        });
        if let Err(error) = leases.patch(&name, &params, &Patch::Apply(lease)).await {
            tracing::debug!(node = name, %error, "Lease not renewed");
        }
        tokio::time::sleep(RENEW_INTERVAL).await;
    }
}

/// A client with a token of virt-handler's ServiceAccount that is bound to the Node: virt-api lets a virt-handler write only
/// VMIs of its own Node.
pub(crate) async fn handler(client: &Client, config: &Config, node: &Node) -> Result<Client, kube::Error> {
    let (namespace, account) = HANDLER;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: Vec::new(),
            expiration_seconds: Some(24 * 60 * 60),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.name_any()),
                uid: node.uid(),
            }),
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    let mut config = config.clone();
    config.auth_info = kube::config::AuthInfo {
        token: answer.status.map(|status| status.token.into()),
        ..kube::config::AuthInfo::default()
    };
    Client::try_from(config)
}
