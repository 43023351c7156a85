//! A cache of facts about an infra cluster that rendering requires.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use machinist_shared::kubevirt::facts::{
    ClaimModes, Facts, FactsNeeded, NamedInstancetype, claim_modes, topology,
};
use machinist_shared::kubevirt::kinds::{CLUSTER_INSTANCETYPE, instancetypes};
use serde::de::DeserializeOwned;

use crate::cache::ttl::TtlMap;
use crate::kube::client::is_object_name;
use crate::kube::error::RemoteError;
use crate::provider::FactError;

/// Default time that a fact is cached.
pub const TTL: Duration = Duration::from_mins(5);
/// Maximum time that a fact with headers is cached: they are credentials, and may be rotated.
const HEADERS_TTL: Duration = Duration::from_secs(10);

/// The credential's digest, and the facts.
type Asked = (String, FactsNeeded);

/// Facts about one infra cluster, by credential and request: permissions are not shared. Only existing objects are
/// cached, so that a new object is found immediately.
#[derive(Debug)]
pub struct FactsCache {
    ttl: Duration,
    answers: TtlMap<Asked, Facts>,
}

impl FactsCache {
    /// An empty cache that keeps facts for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            answers: TtlMap::default(),
        }
    }

    /// The facts, from the cache or by requests with `client`, whose credential has that digest.
    pub async fn get(
        &self,
        credential: &str,
        client: &Client,
        namespace: &str,
        needed: &FactsNeeded,
    ) -> Result<Facts, FactError> {
        let key = (credential.to_owned(), needed.clone());
        if let Some(facts) = self.answers.get(&key) {
            return Ok(facts);
        }
        let facts = ask(client, namespace, needed).await?;
        self.answers.insert(key, facts.clone(), self.ttl_of(needed));
        Ok(facts)
    }

    /// Clears the cache.
    pub fn clear(&self) {
        self.answers.clear();
    }

    /// How long a fact is cached.
    fn ttl_of(&self, needed: &FactsNeeded) -> Duration {
        match needed.extra_headers_secret {
            Some(_) => self.ttl.min(HEADERS_TTL),
            None => self.ttl,
        }
    }
}

async fn ask(client: &Client, namespace: &str, needed: &FactsNeeded) -> Result<Facts, FactError> {
    let mut facts = Facts::default();
    let classes: Api<StorageClass> = Api::all(client.clone());
    let class = get(&classes, "StorageClass", &needed.storage_class).await?;
    let terms = class.allowed_topologies.unwrap_or_default();
    let expressions = terms
        .iter()
        .flat_map(|term| term.match_label_expressions.iter().flatten());
    (facts.region, facts.zone) = topology(expressions.map(|e| (e.key.as_str(), e.values.as_slice())));
    for name in &needed.storage_profiles {
        let claim_modes = profile(client, name).await?;
        facts
            .access_modes
            .insert(name.clone(), claim_modes.access_mode.to_owned());
        let block_only = claim_modes.block_only.into_iter();
        facts
            .block_only
            .extend(block_only.map(|mode| (name.clone(), mode.to_owned())));
    }
    if let Some(wanted) = &needed.instancetype {
        facts.instancetype_kind = Some(instancetype_kind(client, namespace, wanted).await?);
    }
    if let Some(name) = &needed.extra_headers_secret {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = get(&secrets, "Secret", name).await?;
        let data: BTreeMap<_, _> = secret.data.unwrap_or_default();
        facts.extra_headers = data
            .into_iter()
            .map(|(key, value)| {
                let text = String::from_utf8_lossy(&value.0).into_owned();
                format!("{key}: {}", text.strip_suffix('\n').unwrap_or(&text))
            })
            .collect();
    }
    Ok(facts)
}

async fn profile(client: &Client, name: &str) -> Result<ClaimModes, FactError> {
    let profiles = Api::<DynamicObject>::all_with(
        client.clone(),
        &resource("cdi.kubevirt.io", "v1beta1", "StorageProfile"),
    );
    let profile = get(&profiles, "StorageProfile", name).await?;
    Ok(claim_modes(profile.data.pointer("/status/claimPropertySets")))
}

/// The kind of the instancetype with that name: the one in the spec, otherwise the other. An object that the credential
/// cannot get counts as absent, but if none is found, the kind in the spec is used.
async fn instancetype_kind(
    client: &Client,
    namespace: &str,
    wanted: &NamedInstancetype,
) -> Result<String, FactError> {
    let mut refused = None;
    for kind in instancetypes(&wanted.kind) {
        let resource = resource("instancetype.kubevirt.io", "v1beta1", kind);
        let api: Api<DynamicObject> = if kind == CLUSTER_INSTANCETYPE {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), namespace, &resource)
        };
        match get(&api, "instancetype", &wanted.name).await {
            Ok(_) => return Ok(kind.to_owned()),
            Err(FactError::NotFound { .. }) => {}
            Err(FactError::Remote { kind, name, error }) if error.code() == Some(403) => {
                refused = Some(FactError::Remote { kind, name, error });
            }
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(_) if !wanted.kind.is_empty() => Ok(wanted.kind.clone()),
        Some(error) => Err(error),
        None => Err(FactError::NotFound {
            kind: "instancetype",
            name: wanted.name.clone(),
        }),
    }
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

async fn get<K>(api: &Api<K>, kind: &'static str, name: &str) -> Result<K, FactError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    if !is_object_name(name) {
        return Err(FactError::NotFound {
            kind,
            name: name.to_owned(),
        });
    }
    api.get(name).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 404 => FactError::NotFound {
            kind,
            name: name.to_owned(),
        },
        error => FactError::Remote {
            kind,
            name: name.to_owned(),
            error: RemoteError::from(&error),
        },
    })
}
