//! Node groups of the cluster-autoscaler: what a node of a group will have that has none. No watch tells of instancetypes, so
//! they are asked for, beside the passes, and kept.

mod capacity;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::ListParams;
use machinist_infra::client::{ClientOptions, RemoteError};
use machinist_infra::inquiry::Inquiry;
use machinist_infra::kubeconfig::{AddressPolicy, InfraKubeconfig};
use machinist_infra::store::Key;
use machinist_shared::autoscaler;
use machinist_shared::config_var::{ConfigVarString, KeyRef, LookupError, RefKind};
use machinist_shared::field::{FieldPath, Report};
use machinist_shared::kubevirt::resolved;
use machinist_shared::kubevirt::spec::Matcher;
use machinist_shared::provider_spec::ProviderConfig;
use serde_json::Value;
use tokio::time::Instant;

use crate::context::Context;

pub(crate) use capacity::{corrections, may_be_one, object};

/// How long an answer is believed.
const EVERY: Duration = Duration::from_mins(5);
/// How soon it is asked again after no answer, or for what does not exist.
const AGAIN: Duration = Duration::from_mins(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the cluster-autoscaler may take for a node group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Group {
    /// A MachineDeployment.
    Deployment(Key),
    /// A MachineSet that stands alone.
    Set(Key),
}

/// What is known of the instancetype of that object, if it is a node group; what is not, is asked for.
pub(crate) fn look(context: &Arc<Context>, group: &Group, object: Option<&Value>) -> Looked {
    let wanted = object.and_then(Wanted::of);
    let looked = context.instancetypes.look(group, wanted.as_ref(), Instant::now());
    if let Some(wanted) = wanted.filter(|_| looked.ask) {
        ask(context, group, wanted);
    }
    looked
}

/// An instancetype, and whose credential may read it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    matcher: Matcher,
    kubeconfig: ConfigVarString,
}

impl Wanted {
    /// What must be read before the capacity of a node group is known.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let matcher = autoscaler::instancetype_needed(None, object)?;
        let value = object.pointer("/spec/template/spec/providerSpec/value");
        let config = ProviderConfig::decode(value, &FieldPath::new("spec"), &mut Report::new());
        let kubeconfig = config.cloud_provider_spec?.credential().clone();
        Some(Self { matcher, kubeconfig })
    }
}

/// What was found, and when.
#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    spec: Option<Value>,
    /// When to ask again; nothing while it is being asked.
    due: Option<Instant>,
}

/// What is known of an instancetype.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Looked {
    /// Its `spec`, if it was ever seen.
    pub(crate) spec: Option<Value>,
    /// It must be asked for now.
    pub(crate) ask: bool,
    /// How long until it must be asked for again.
    pub(crate) again: Option<Duration>,
}

/// The instancetypes of node groups.
#[derive(Debug)]
pub struct Instancetypes {
    inquiry: Inquiry,
    addresses: AddressPolicy,
    known: Mutex<HashMap<Group, Entry>>,
}

impl Instancetypes {
    /// None known yet; asked for with clients of these options.
    pub fn new(options: ClientOptions) -> Self {
        Self {
            addresses: options.addresses,
            inquiry: Inquiry::new(options),
            known: Mutex::default(),
        }
    }

    /// What is known for that group. If the answer says so, whoever looks must [`ask`].
    fn look(&self, group: &Group, wanted: Option<&Wanted>, now: Instant) -> Looked {
        let mut known = self.lock();
        let Some(wanted) = wanted else {
            known.remove(group);
            return Looked::default();
        };
        let entry = known.entry(group.clone()).or_insert_with(|| Entry {
            wanted: wanted.clone(),
            spec: None,
            due: Some(now),
        });
        if entry.wanted != *wanted {
            *entry = Entry {
                wanted: wanted.clone(),
                spec: None,
                due: Some(now),
            };
        }
        let ask = entry.due.is_some_and(|due| due <= now);
        if ask {
            entry.due = None;
        }
        Looked {
            spec: entry.spec.clone(),
            ask,
            again: entry.due.map(|due| due.duration_since(now)),
        }
    }

    /// What came of asking. What nobody answers stays as it was known; what is not there is not known.
    fn answered(&self, group: &Group, wanted: &Wanted, answer: Result<Option<Value>, String>, now: Instant) {
        let mut known = self.lock();
        let Some(entry) = known.get_mut(group).filter(|entry| entry.wanted == *wanted) else {
            return;
        };
        let found = matches!(answer, Ok(Some(_)));
        if let Ok(spec) = answer {
            entry.spec = spec;
        }
        entry.due = Some(now + if found { EVERY } else { AGAIN });
    }

    /// The object is gone.
    pub(crate) fn forget(&self, group: &Group) {
        self.lock().remove(group);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Group, Entry>> {
        // Every change is complete before anything can panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks in the background, and has the object looked at when there is an answer: an infra cluster that is slow holds
/// up nobody.
fn ask(context: &Arc<Context>, group: &Group, wanted: Wanted) {
    let (context, group) = (context.clone(), group.clone());
    tokio::spawn(async move {
        let answer = tokio::time::timeout(PATIENCE, read(&context, &wanted)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if let Err(why) = &answer {
            tracing::warn!(
                ?group,
                instancetype = wanted.matcher.name,
                why,
                "the instancetype of a node group cannot be read"
            );
        }
        context
            .instancetypes
            .answered(&group, &wanted, answer, Instant::now());
        match group {
            Group::Deployment(key) => context.deployments.add(key),
            Group::Set(key) => context.sets.add(key),
        }
    });
}

async fn read(context: &Context, wanted: &Wanted) -> Result<Option<Value>, String> {
    let text = match wanted.kubeconfig.reference() {
        Some(reference) => referenced(context, reference).await,
        None => Err(LookupError::NoObject),
    };
    let found = resolved::kubeconfig(&wanted.kubeconfig, &context.env, &|_| text.clone());
    let found = found.map_err(|error| error.to_string())?;
    let kubeconfig = InfraKubeconfig::parse(found.text.expose(), context.instancetypes.addresses);
    let kubeconfig = kubeconfig.map_err(|error| format!("auth.kubeconfig: {error}"))?;
    let namespace = &context.env.infra_namespace;
    let inquiry = &context.instancetypes.inquiry;
    let deadline = Instant::now() + PATIENCE;
    inquiry
        .instancetype(&kubeconfig, namespace, &wanted.matcher, deadline)
        .await
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

#[cfg(test)]
mod tests {
    use super::*;
    use machinist_shared::names::autoscaler::MAX_SIZE;
    use serde_json::json;

    fn object(instancetype: &str) -> Value {
        json!({
            "metadata": {"annotations": {MAX_SIZE: "5"}},
            "spec": {"template": {"spec": {"providerSpec": {"value": {
                "cloudProvider": "kubevirt", "operatingSystem": "ubuntu", "cloudProviderSpec": {
                    "auth": {"kubeconfig": {"secretKeyRef": {"namespace": "n", "name": "s", "key": "k"}}},
                    "virtualMachine": {"instancetype": {"name": instancetype}, "template": {"primaryDisk": {"size": "10Gi"}}},
                },
            }}}}},
        })
    }

    #[test]
    fn an_instancetype_is_asked_for_once_and_again_after_a_while_and_at_once_if_it_is_another() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let all = Instancetypes::new(ClientOptions::default());
        let group = Group::Set(Key::new("ns", "s"));
        let other = Group::Deployment(Key::new("ns", "s"));
        let (wanted, start) = (Wanted::of(&object("small")).unwrap(), Instant::now());
        assert!(all.look(&group, Some(&wanted), start).ask);
        assert_eq!(
            all.look(&group, Some(&wanted), start),
            Looked::default(),
            "it is being asked for"
        );
        all.answered(&group, &wanted, Ok(Some(json!(1))), start);
        let looked = all.look(&group, Some(&wanted), start);
        assert_eq!(
            (looked.spec, looked.ask, looked.again),
            (Some(json!(1)), false, Some(EVERY))
        );

        // Nobody answers: what is known stays, and is asked for sooner.
        let later = start + EVERY;
        assert!(all.look(&group, Some(&wanted), later).ask);
        all.answered(&group, &wanted, Err("no".to_owned()), later);
        let looked = all.look(&group, Some(&wanted), later);
        assert_eq!((looked.spec, looked.again), (Some(json!(1)), Some(AGAIN)));

        assert!(all.look(&other, Some(&wanted), later).ask, "a namesake");
        let large = Wanted::of(&object("large")).unwrap();
        let looked = all.look(&group, Some(&large), later);
        assert_eq!((looked.spec, looked.ask), (None, true));
        // An answer to the question before says nothing.
        all.answered(&group, &wanted, Ok(Some(json!(2))), later);
        assert_eq!(all.look(&group, Some(&large), later), Looked::default());
    }

    #[test]
    fn what_is_no_node_group_needs_none() {
        let mut object = object("small");
        object["metadata"] = json!({});
        assert_eq!(Wanted::of(&object), None);
    }
}
