//! The objects in infra namespaces, by metadata.

use futures::future::join_all;
use kube::api::ListParams;
use kube::core::{DynamicObject, ObjectMeta};
use kube::{Api, Client};
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kubevirt::orphans::{Namespace, ObservedObject};
use machinist_shared::api::names::label;

use crate::infra_namespaces::{InfraNamespace, Skipped};
use crate::kind::Kind;
use crate::machines::PAGE;

/// The objects in one namespace.
#[derive(Debug, Default)]
pub struct Survey {
    /// The objects.
    pub objects: Vec<(Kind, ObjectMeta)>,
    /// Kinds with all relevant objects.
    pub complete: Vec<&'static str>,
}

impl Survey {
    /// For classification.
    pub fn namespace(&self) -> Namespace<'_> {
        let objects = self.objects.iter().map(|(kind, metadata)| ObservedObject {
            kind: kind.name(),
            metadata,
        });
        Namespace::new(objects.collect(), &self.complete)
    }
}

/// Lists all VMs and disks, which can own each other, and the Secrets of that cluster.
pub async fn look(infra_namespace: &InfraNamespace, cluster_uid: &str) -> (Survey, Vec<Skipped>) {
    let ours = ListParams::default().labels(&format!("{}={cluster_uid}", label::CLUSTER_UID));
    let lists = Kind::ALL.map(|kind| {
        let params = match kind {
            Kind::Secret => ours.clone(),
            _ => ListParams::default(),
        };
        async move { (kind, list(infra_namespace, kind, params).await) }
    });
    let (mut sight, mut unseen) = (Survey::default(), Vec::new());
    for (kind, listed) in join_all(lists).await {
        match listed {
            Ok(objects) => {
                sight.complete.push(kind.name());
                let objects = objects.into_iter().map(|metadata| (kind, metadata));
                sight.objects.extend(objects);
            }
            Err(error) => unseen.push(Skipped {
                what: format!("{} in {infra_namespace}", kind.resource_name()),
                why: error.to_string(),
            }),
        }
    }
    (sight, unseen)
}

/// Reads one object, with the permission to list or the one to get.
pub async fn one(
    infra_namespace: &InfraNamespace,
    kind: Kind,
    name: &str,
) -> Result<Option<ObjectMeta>, RemoteError> {
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = match list(infra_namespace, kind, params).await {
        Err(refused) if refused.is_refusal() => {
            let get = async |client: Client| -> Result<_, RemoteError> {
                Ok(api(client, infra_namespace, kind).get_metadata_opt(name).await?)
            };
            let found = infra_namespace.ask(get).await.map_err(|_| refused)?;
            found.map(|found| found.metadata)
        }
        listed => listed?.into_iter().next(),
    };
    Ok(found.filter(|metadata| metadata.name.as_deref() == Some(name)))
}

async fn list(
    infra_namespace: &InfraNamespace,
    kind: Kind,
    params: ListParams,
) -> Result<Vec<ObjectMeta>, RemoteError> {
    let pages = async |client: Client| -> Result<_, RemoteError> {
        let api = api(client, infra_namespace, kind);
        let (mut objects, mut params) = (Vec::new(), params.clone().limit(PAGE));
        loop {
            let page = api.list_metadata(&params).await?;
            objects.extend(page.items.into_iter().map(|object| object.metadata));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(objects),
            }
        }
    };
    infra_namespace.ask(pages).await
}

/// The API for a kind in the namespace.
pub fn api(client: Client, infra_namespace: &InfraNamespace, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client, &infra_namespace.namespace, &kind.resource())
}
