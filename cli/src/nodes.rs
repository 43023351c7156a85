//! Nodes of the user cluster that Machines have left behind.

use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::core::ObjectMeta;
use kube::{Api, Client};
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kubevirt::orphans::of_node;
use machinist_shared::api::names::{annotation, label};

use crate::machines::{Living, PAGE};
use crate::report::{Orphan, Where};

/// The kind.
pub const KIND: &str = "Node";

/// All Nodes with the label of a Machine.
pub async fn list(client: &Client) -> Result<Vec<ObjectMeta>, RemoteError> {
    let api: Api<Node> = Api::all(client.clone());
    let (mut nodes, mut params) = (
        Vec::new(),
        ListParams::default().labels(label::OWNED_BY).limit(PAGE),
    );
    loop {
        let page = api.list_metadata(&params).await?;
        nodes.extend(page.items.into_iter().map(|node| node.metadata));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(nodes),
        }
    }
}

/// The Nodes without a Machine.
pub fn orphans(server: &str, nodes: &[ObjectMeta], living: &Living) -> Vec<Orphan> {
    let found = nodes.iter().filter_map(|node| {
        let machine_uid = of_node(node, &|machine| living.is_there(machine))?;
        let name = node.name.clone().unwrap_or_default();
        let annotations = node.annotations.as_ref();
        let machine = annotations.and_then(|all| all.get(annotation::MACHINE));
        let machine = machine.and_then(|machine| machine.split_once('/'));
        Some(Orphan {
            kind: KIND,
            infra_namespace: Where {
                server: server.to_owned(),
                namespace: String::new(),
            },
            machine: Some(machine.map_or_else(|| name.clone(), |(_, name)| name.to_owned())),
            name,
            machine_uid: machine_uid.to_owned(),
            owner: None,
            uid: node.uid.clone().unwrap_or_default(),
            created: node.creation_timestamp.as_ref().map(|time| time.0),
            deleting: node.deletion_timestamp.is_some(),
        })
    });
    found.collect()
}

/// Deletes a Node, if it is unchanged since the list; returns the result.
pub async fn delete(client: &Client, node: &Orphan) -> Result<&'static str, RemoteError> {
    if node.deleting {
        return Ok("is being deleted already");
    }
    let api: Api<Node> = Api::all(client.clone());
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(node.uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::background()
    };
    match api.delete(&node.name, &params).await {
        Ok(_) => Ok("deleted"),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok("is gone already"),
        Err(error) => Err(RemoteError::from(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::Machine;
    use serde_json::json;

    #[test]
    fn a_node_is_listed_with_its_machine_if_that_is_gone() {
        let node = |name: &str, owner: &str| -> ObjectMeta {
            serde_json::from_value(
                json!({"name": name, "uid": format!("node-{name}"), "labels": {label::OWNED_BY: owner},
                "annotations": {annotation::MACHINE: format!("ns/{name}")}}),
            )
            .unwrap()
        };
        let living = Living::new(&[Machine {
            namespace: "ns".to_owned(),
            name: "web-2".to_owned(),
            uid: "alive".to_owned(),
            ..Machine::default()
        }]);
        // The last is of a Machine that was made again.
        let nodes = [
            node("web-1", "gone"),
            node("web-2", "alive"),
            node("web-2", "gone"),
        ];
        let found = orphans("https://user", &nodes, &living);
        assert_eq!(found.len(), 1, "{found:?}");
        let found = &found[0];
        assert_eq!(
            (found.kind, found.name.as_str(), found.uid.as_str()),
            ("Node", "web-1", "node-web-1")
        );
        assert_eq!(
            (found.machine.as_deref(), found.machine_uid.as_str()),
            (Some("web-1"), "gone")
        );
    }
}
