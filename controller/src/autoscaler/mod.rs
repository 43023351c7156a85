//! Node groups of the cluster-autoscaler: what a node of a group will have that has none. No watch reports instancetypes, so
//! they are asked for, beside the reconciles, and kept.

mod cache;
mod capacity;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::ListParams;
use machinist_infra::kube::client::ClientOptions;
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kube::kubeconfig::{AddressPolicy, InfraKubeconfig};
use machinist_infra::kubevirt::preflight::Preflight;
use machinist_shared::api::config_var::{KeyRef, LookupError, RefKind};
use machinist_shared::provider;
use serde_json::Value;
use tokio::time::Instant;

use crate::context::Context;

pub use cache::Group;
use cache::{Instancetypes, Known, Wanted};
pub(crate) use capacity::{corrections, may_be_one, object};

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
    pub(crate) fn note(self: &Arc<Self>, group: &Group, object: Option<&Value>) {
        let wanted = object.and_then(Wanted::of);
        let is_due = self.instancetypes.note(group, wanted.as_ref(), Instant::now());
        if let Some(wanted) = wanted.filter(|_| is_due) {
            tokio::spawn(self.clone().ask(group.clone(), wanted));
        }
    }

    /// What is known of the instancetype of that group.
    pub(crate) fn known(&self, group: &Group) -> Known {
        self.instancetypes.known(group, Instant::now())
    }

    /// The object is gone.
    pub fn forget(&self, group: &Group) {
        self.instancetypes.forget(group);
    }

    /// Asks in the background, and has the object reconciled when there is an answer: an infra cluster that is slow holds up
    /// no other.
    async fn ask(self: Arc<Self>, group: Group, wanted: Wanted) {
        let answer = tokio::time::timeout(TIMEOUT, self.read(&wanted)).await;
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
        let queues = &self.context.queues;
        match group {
            Group::Deployment(key) => queues.deployments.add(key),
            Group::Set(key) => queues.sets.add(key),
        }
    }

    async fn read(&self, wanted: &Wanted) -> Result<Option<Value>, String> {
        let env = &self.context.env;
        let text = match wanted.kubeconfig.reference() {
            Some(reference) => referenced(&self.context, reference).await,
            None => Err(LookupError::NoObject),
        };
        let found = provider::kubeconfig(&wanted.kubeconfig, env, &|_| text.clone());
        let found = found.map_err(|error| error.to_string())?;
        let kubeconfig = InfraKubeconfig::parse(found.text.expose(), self.addresses);
        let kubeconfig = kubeconfig.map_err(|error| format!("auth.kubeconfig: {error}"))?;
        let deadline = Instant::now() + TIMEOUT;
        self.preflight
            .instancetype(&kubeconfig, &env.infra_namespace, &wanted.matcher, deadline)
            .await
    }
}

/// The text behind a reference; by a list of one, as the rights to watch it allow.
async fn referenced(context: &Context, reference: &KeyRef) -> Result<String, LookupError> {
    let (client, namespace) = (context.client.clone(), reference.namespace.as_str());
    let named = ListParams::default().fields(&format!("metadata.name={}", reference.name));
    let failed = |error: kube::Error| LookupError::Unavailable(RemoteError::from(&error).to_string());
    let text = match reference.kind {
        RefKind::Secret => {
            let found = Api::<Secret>::namespaced(client, namespace).list(&named).await;
            let secret = found.map_err(failed)?.items.into_iter().next();
            let data = secret.ok_or(LookupError::NoObject)?.data.unwrap_or_default();
            let bytes = data.get(&reference.key);
            bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        }
        RefKind::ConfigMap => {
            let found = Api::<ConfigMap>::namespaced(client, namespace).list(&named).await;
            let map = found.map_err(failed)?.items.into_iter().next();
            let data = map.ok_or(LookupError::NoObject)?.data.unwrap_or_default();
            data.get(&reference.key).cloned()
        }
    };
    text.ok_or(LookupError::NoKey)
}
