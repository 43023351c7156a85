//! The hosts of an infra cluster with KubeVirt's and CDI's own controllers, which need simulated replacements for everything that
//! runs on hosts. Two Nodes, a scheduler, kubelets, storage and virt-handler; the guests are the simulator's.

pub(crate) mod handler;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod volume;

use std::collections::BTreeMap;

use kube::{Client, Config};

use crate::simulator::StartError;
use crate::vmi::{NODE, other};

/// The Nodes, and what virt-handler on each of them writes with.
pub(crate) struct Hosts {
    handlers: BTreeMap<String, Client>,
}

impl Hosts {
    /// Registers the Nodes. Their Leases are renewed until the client's runtime ends.
    pub(crate) async fn start(client: &Client, config: &Config) -> Result<Self, StartError> {
        let mut handlers = BTreeMap::new();
        for name in [NODE, other(NODE)] {
            let node = node::register(client, name).await.map_err(StartError::Hosts)?;
            let handler = node::handler(client, config, &node)
                .await
                .map_err(StartError::Hosts)?;
            handlers.insert(name.to_owned(), handler);
        }
        Ok(Self { handlers })
    }

    /// virt-handler's client on this Node.
    pub(crate) fn handler(&self, node: &str) -> Option<&Client> {
        self.handlers.get(node)
    }

    /// Names of the Nodes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }
}
