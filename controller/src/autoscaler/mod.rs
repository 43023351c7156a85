//! Node groups of the cluster-autoscaler: what a node of a group will have that has none. No watch reports instancetypes, so
//! they are asked for, beside the reconciles, and kept.
//!
//! The requests go through clients of their own, those of admission: the pool of infra clusters opens watches for each
//! user of a cluster, and a group without Machines needs none.

mod capacity;
mod instancetypes;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use machinist_infra::kube::client::ClientOptions;
use machinist_infra::kube::kubeconfig::{AddressPolicy, InfraKubeconfig};
use machinist_infra::kubevirt::preflight::Preflight;
use machinist_shared::api::config_var::LookupError;
use machinist_shared::provider;
use serde_json::Value;
use tokio::time::Instant;

use crate::cache::{self, NodeGroup, Reference, Referrer};
use crate::context::Context;

pub(crate) use capacity::{corrections, may_be_one, object};
use instancetypes::{InstancetypeSource, Instancetypes, Known};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The node groups, and what is known of their instancetypes.
pub struct NodeGroups {
    context: Arc<Context>,
    preflight: Preflight,
    addresses: AddressPolicy,
    instancetypes: Instancetypes,
}

impl std::fmt::Debug for NodeGroups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NodeGroups").field(&self.instancetypes).finish()
    }
}

impl NodeGroups {
    /// None known yet; asked for with clients of these options.
    pub fn new(context: Arc<Context>, options: ClientOptions) -> Arc<Self> {
        Arc::new(Self {
            context,
            addresses: options.addresses,
            preflight: Preflight::new(options),
            instancetypes: Instancetypes::default(),
        })
    }

    /// Asks for the instancetype of that object, if it is a node group, and the instancetype is not known.
    pub(crate) fn note(self: &Arc<Self>, group: &NodeGroup, object: Option<&Value>) {
        let wanted = object.and_then(InstancetypeSource::of);
        let references = &self.context.references;
        let referrer = Referrer::NodeGroup(group.clone());
        let reference = wanted.as_ref().and_then(|wanted| wanted.kubeconfig.reference());
        references.keep(&referrer, &reference.map(Reference::from).into_iter().collect());
        let credential = match reference {
            Some(reference) => references.value(reference, &referrer),
            None => Err(LookupError::NoObject),
        };
        let now = Instant::now();
        self.instancetypes.note(group, wanted.as_ref(), now);
        // When a credential that is pending is known, the group is reconciled.
        if let Some(wanted) = wanted
            && !credential.as_ref().is_err_and(cache::is_pending)
            && self.instancetypes.begin(group, now)
        {
            tokio::spawn(self.clone().ask(group.clone(), wanted, credential));
        }
    }

    /// What is known of the instancetype of that group.
    pub(crate) fn known(&self, group: &NodeGroup) -> Known {
        self.instancetypes.known(group, Instant::now())
    }

    /// The object is gone.
    pub fn forget(&self, group: &NodeGroup) {
        self.instancetypes.forget(group);
        let referrer = Referrer::NodeGroup(group.clone());
        self.context.references.keep(&referrer, &HashSet::default());
    }

    /// Asks in the background, and has the object reconciled when there is an answer: an infra cluster that is slow holds up
    /// no other.
    async fn ask(
        self: Arc<Self>,
        group: NodeGroup,
        wanted: InstancetypeSource,
        credential: Result<String, LookupError>,
    ) {
        let answer = tokio::time::timeout(TIMEOUT, self.read(&wanted, credential)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if let Err(why) = &answer {
            tracing::warn!(
                ?group,
                instancetype = wanted.matcher.name,
                why,
                "the instancetype of a node group cannot be read"
            );
        }
        self.instancetypes
            .answered(&group, &wanted, answer, Instant::now());
        self.retry(group);
    }

    /// What the group needs has changed.
    pub(crate) fn retry(&self, group: NodeGroup) {
        let queues = &self.context.queues;
        match group {
            NodeGroup::Deployment(key) => queues.deployments.add(key),
            NodeGroup::Set(key) => queues.sets.add(key),
        }
    }

    async fn read(
        &self,
        wanted: &InstancetypeSource,
        credential: Result<String, LookupError>,
    ) -> Result<Option<Value>, String> {
        let env = &self.context.env;
        let found = provider::kubeconfig(&wanted.kubeconfig, env, &|_| credential.clone());
        let found = found.map_err(|error| error.to_string())?;
        let kubeconfig = InfraKubeconfig::parse(found.text.expose(), self.addresses);
        let kubeconfig = kubeconfig.map_err(|error| format!("auth.kubeconfig: {error}"))?;
        let deadline = Instant::now() + TIMEOUT;
        self.preflight
            .instancetype(&kubeconfig, &env.infra_namespace, &wanted.matcher, deadline)
            .await
    }
}
