//! Whether what a spec names on the infra cluster exists, and what does instead.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ResourceQuota};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use machinist_shared::field::{ErrorKind, FieldPath, Report, did_you_mean};
use machinist_shared::kubevirt::facts::{CLUSTER_INSTANCETYPE, INSTANCETYPE};
use machinist_shared::kubevirt::spec::Matcher;
use serde_json::Value;
use tokio::time::Instant;

use super::{Question, Unreachable};
use crate::client::RemoteError;

/// How long it is believed that something exists.
const TTL: Duration = Duration::from_mins(1);
/// How many names that exist are told.
const SHOWN: usize = 10;

/// What exists, and what of it counts.
#[derive(Debug, Default)]
pub(super) struct Existence {
    known: Mutex<HashMap<Named, (Instant, Value)>>,
    quotas: Mutex<Option<(Instant, Option<Vec<ResourceQuota>>)>>,
}

/// What was found on the way.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `spec` of the instancetype.
    pub(super) instancetype: Value,
}

/// An object that a spec names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Named {
    kind: Kind,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Instancetype,
    ClusterInstancetype,
    Preference,
    ClusterPreference,
    StorageClass,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::Instancetype => INSTANCETYPE,
            Self::ClusterInstancetype => CLUSTER_INSTANCETYPE,
            Self::Preference => "VirtualMachinePreference",
            Self::ClusterPreference => "VirtualMachineClusterPreference",
            Self::StorageClass => "StorageClass",
        }
    }

    fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        let gvk = match self {
            Self::StorageClass => GroupVersionKind::gvk("storage.k8s.io", "v1", self.text()),
            _ => GroupVersionKind::gvk("instancetype.kubevirt.io", "v1beta1", self.text()),
        };
        let resource = ApiResource::from_gvk(&gvk);
        match self {
            Self::Instancetype | Self::Preference => {
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
            _ => Api::all_with(client.clone(), &resource),
        }
    }
}

/// One thing to ask for: a name that one of these kinds may bear.
#[derive(Debug)]
struct Wanted {
    path: FieldPath,
    kinds: Vec<Kind>,
    name: String,
}

fn wanted(question: &Question<'_>) -> Vec<Wanted> {
    let vm = question.path.child("virtualMachine");
    let template = vm.child("template");
    let mut wanted = Vec::new();
    let mut want = |path: FieldPath, kinds: Vec<Kind>, name: &str| {
        if !name.is_empty() {
            let name = name.to_owned();
            wanted.push(Wanted { path, kinds, name });
        }
    };
    if let Some(it) = &question.spec.instancetype {
        want(
            vm.child("instancetype").child("name"),
            instancetype_kinds(it),
            &it.name,
        );
    }
    if let Some(it) = &question.spec.preference {
        let kinds = match it.kind.as_str() {
            "VirtualMachinePreference" => vec![Kind::Preference],
            // KubeVirt takes it for the cluster-wide kind.
            _ => vec![Kind::ClusterPreference],
        };
        want(vm.child("preference").child("name"), kinds, &it.name);
    }
    let primary = template.child("primaryDisk").child("storageClassName");
    want(
        primary,
        vec![Kind::StorageClass],
        &question.spec.primary_disk.storage_class,
    );
    for (index, disk) in question.spec.secondary_disks.iter().enumerate() {
        let path = template
            .child("secondaryDisks")
            .index(index)
            .child("storageClassName");
        want(path, vec![Kind::StorageClass], &disk.storage_class);
    }
    wanted
}

fn instancetype_kinds(matcher: &Matcher) -> Vec<Kind> {
    match matcher.kind.as_str() {
        "" => vec![Kind::Instancetype, Kind::ClusterInstancetype],
        INSTANCETYPE => vec![Kind::Instancetype],
        _ => vec![Kind::ClusterInstancetype],
    }
}

impl Existence {
    /// `spec` of an instancetype, if the credential sees one.
    pub(super) async fn instancetype(
        &self,
        client: &Client,
        namespace: &str,
        matcher: &Matcher,
    ) -> Result<Option<Value>, RemoteError> {
        for kind in instancetype_kinds(matcher) {
            match self.get(client, namespace, kind, &matcher.name).await? {
                Get::There(spec) => return Ok(Some(spec)),
                Get::Missing | Get::Hidden => {}
            }
        }
        Ok(None)
    }

    /// An error for each name that nothing bears.
    pub(super) async fn judge(
        &self,
        client: &Client,
        question: &Question<'_>,
        report: &mut Report,
    ) -> Result<Found, Unreachable> {
        let wanted = wanted(question);
        let looks = wanted
            .iter()
            .map(|wanted| self.look(client, question.namespace, wanted));
        let mut found = Found::default();
        for (wanted, look) in wanted.iter().zip(future::join_all(looks).await) {
            match look {
                Ok(Look::There(spec))
                    if wanted
                        .kinds
                        .iter()
                        .any(|kind| kind.text().ends_with("nstancetype")) =>
                {
                    found.instancetype = spec;
                }
                Ok(Look::There(_) | Look::Hidden) => {}
                Ok(Look::Missing(others)) => {
                    report.error(&wanted.path, ErrorKind::NotFound, missing(wanted, &others));
                }
                Err(error) => {
                    return super::refused(question, &error, std::mem::take(report)).map(|told| {
                        *report = told;
                        found
                    });
                }
            }
        }
        Ok(found)
    }

    async fn look(&self, client: &Client, namespace: &str, wanted: &Wanted) -> Result<Look, RemoteError> {
        let mut hidden = false;
        for kind in &wanted.kinds {
            match self.get(client, namespace, *kind, &wanted.name).await? {
                Get::There(spec) => return Ok(Look::There(spec)),
                Get::Missing => {}
                // Not every credential may look; KubeVirt will.
                Get::Hidden => hidden = true,
            }
        }
        if hidden {
            return Ok(Look::Hidden);
        }
        let mut others = Vec::new();
        for kind in &wanted.kinds {
            // Whoever may not list is told no names.
            if let Ok(list) = kind
                .api(client, namespace)
                .list_metadata(&ListParams::default())
                .await
            {
                others.extend(list.items.iter().map(ResourceExt::name_any));
            }
        }
        Ok(Look::Missing(others))
    }

    async fn get(
        &self,
        client: &Client,
        namespace: &str,
        kind: Kind,
        name: &str,
    ) -> Result<Get, RemoteError> {
        let named = Named {
            kind,
            name: name.to_owned(),
        };
        if let Some(spec) = self.known(&named) {
            return Ok(Get::There(spec));
        }
        match kind.api(client, namespace).get(name).await {
            Ok(object) => {
                let spec = object.data.get("spec").cloned().unwrap_or_default();
                self.learn(named, spec.clone());
                Ok(Get::There(spec))
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Get::Missing),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(Get::Hidden),
            Err(error) => Err(RemoteError::from(&error)),
        }
    }

    fn known(&self, named: &Named) -> Option<Value> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, spec) = known.get(named)?;
        (asked.elapsed() < TTL).then(|| spec.clone())
    }

    fn learn(&self, named: Named, spec: Value) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (asked, _)| asked.elapsed() < TTL);
        known.insert(named, (Instant::now(), spec));
    }

    /// The ResourceQuotas of the namespace; nothing where the credential may not see them, or nobody answers in time.
    pub(super) async fn quotas(&self, client: &Client, namespace: &str) -> Option<Vec<ResourceQuota>> {
        let lock = || self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, quotas)) = lock().as_ref()
            && asked.elapsed() < TTL
        {
            return quotas.clone();
        }
        let api = Api::<ResourceQuota>::namespaced(client.clone(), namespace);
        let quotas = api.list(&ListParams::default()).await.ok().map(|list| list.items);
        *lock() = Some((Instant::now(), quotas.clone()));
        quotas
    }
}

/// What came of one request.
enum Get {
    /// With its `spec`.
    There(Value),
    Missing,
    /// The credential may not look.
    Hidden,
}

enum Look {
    /// With its `spec`.
    There(Value),
    /// The credential may not look.
    Hidden,
    /// What there is instead.
    Missing(Vec<String>),
}

fn missing(wanted: &Wanted, others: &[String]) -> String {
    let kinds: Vec<_> = wanted.kinds.iter().map(|kind| kind.text()).collect();
    let kinds = kinds.join(" or ");
    let hint = did_you_mean(&wanted.name, others.iter().map(String::as_str));
    let text = format!(
        "{:?}: there is no {kinds} of that name on the infra cluster{hint}",
        wanted.name
    );
    let shown: Vec<_> = others.iter().take(SHOWN).map(String::as_str).collect();
    match others.len() {
        0 => text,
        all if all > SHOWN => format!("{text}; there are: {} and {} more", shown.join(", "), all - SHOWN),
        _ => format!("{text}; there are: {}", shown.join(", ")),
    }
}

/// Whether the claim that the primary disk is cloned from exists, where the credential may look.
pub(super) async fn judge_claim(
    client: &Client,
    question: &Question<'_>,
    vm: &Value,
    report: &mut Report,
) -> Result<(), Unreachable> {
    let source = &vm["spec"]["dataVolumeTemplates"][0]["spec"]["source"]["pvc"];
    let (Some(namespace), Some(name)) = (source["namespace"].as_str(), source["name"].as_str()) else {
        return Ok(());
    };
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let named = ListParams::default();
    // Only list and watch are needed of claims elsewhere, so the name is looked for in the list.
    match claims
        .list_metadata(&named.fields(&format!("metadata.name={name}")))
        .await
    {
        Ok(list) if list.items.is_empty() => {
            let others = claims.list_metadata(&ListParams::default()).await;
            let others: Vec<String> = others
                .map(|list| list.items.iter().map(ResourceExt::name_any).collect())
                .unwrap_or_default();
            let hint = did_you_mean(name, others.iter().map(String::as_str));
            let path = question
                .path
                .child("virtualMachine")
                .child("template")
                .child("primaryDisk")
                .child("osImage");
            let text = format!(
                "{name:?}: there is no PersistentVolumeClaim of that name in namespace {namespace} of the infra cluster{hint}"
            );
            report.error(&path, ErrorKind::NotFound, text);
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Err(error) => Err(Unreachable(RemoteError::from(&error).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_name_is_told_with_those_that_exist() {
        let wanted = Wanted {
            path: FieldPath::new("x"),
            kinds: vec![Kind::Instancetype, Kind::ClusterInstancetype],
            name: "standrad-2".to_owned(),
        };
        assert_eq!(
            missing(&wanted, &["standard-2".to_owned(), "large".to_owned()]),
            "\"standrad-2\": there is no VirtualMachineInstancetype or VirtualMachineClusterInstancetype of that name on \
             the infra cluster; did you mean \"standard-2\"?; there are: standard-2, large"
        );
        let many: Vec<String> = (0..12).map(|i| format!("other{i}")).collect();
        assert!(missing(&wanted, &many).ends_with("other9 and 2 more"));
        assert!(missing(&wanted, &[]).ends_with("on the infra cluster"));
    }
}
