//! What is in places, by its metadata only.

use futures::future::join_all;
use kube::api::ListParams;
use kube::core::{DynamicObject, ObjectMeta};
use kube::{Api, Client};
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kubevirt::orphans::{Namespace, ObservedObject};
use machinist_shared::api::names::label;

use crate::kind::Kind;
use crate::machines::PAGE;
use crate::places::{Place, Unseen};

/// What was seen in one place.
#[derive(Debug, Default)]
pub struct Sight {
    /// The objects.
    pub objects: Vec<(Kind, ObjectMeta)>,
    /// Kinds of which everything was seen that counts.
    pub complete: Vec<&'static str>,
}

impl Sight {
    /// To be judged.
    pub fn namespace(&self) -> Namespace<'_> {
        let objects = self.objects.iter().map(|(kind, metadata)| ObservedObject {
            kind: kind.name(),
            metadata,
        });
        Namespace::new(objects.collect(), &self.complete)
    }
}

/// Looks at everything there: at all VMs and disks, which may own each other, and at Secrets of that cluster.
pub async fn look(place: &Place, cluster_uid: &str) -> (Sight, Vec<Unseen>) {
    let ours = ListParams::default().labels(&format!("{}={cluster_uid}", label::CLUSTER_UID));
    let lists = Kind::ALL.map(|kind| {
        let params = match kind {
            Kind::Secret => ours.clone(),
            _ => ListParams::default(),
        };
        async move { (kind, list(place, kind, params).await) }
    });
    let (mut sight, mut unseen) = (Sight::default(), Vec::new());
    for (kind, listed) in join_all(lists).await {
        match listed {
            Ok(objects) => {
                sight.complete.push(kind.name());
                let objects = objects.into_iter().map(|metadata| (kind, metadata));
                sight.objects.extend(objects);
            }
            Err(error) => unseen.push(Unseen {
                what: format!("{} in {place}", kind.resource_name()),
                why: error.to_string(),
            }),
        }
    }
    (sight, unseen)
}

/// Looks one object up, by the rights that listing takes, or else by that to get it.
pub async fn one(place: &Place, kind: Kind, name: &str) -> Result<Option<ObjectMeta>, RemoteError> {
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = match list(place, kind, params).await {
        Err(refused) if refused.is_refusal() => {
            let get = async |client: Client| -> Result<_, RemoteError> {
                Ok(api(client, place, kind).get_metadata_opt(name).await?)
            };
            let found = place.ask(get).await.map_err(|_| refused)?;
            found.map(|found| found.metadata)
        }
        listed => listed?.into_iter().next(),
    };
    Ok(found.filter(|metadata| metadata.name.as_deref() == Some(name)))
}

async fn list(place: &Place, kind: Kind, params: ListParams) -> Result<Vec<ObjectMeta>, RemoteError> {
    let pages = async |client: Client| -> Result<_, RemoteError> {
        let api = api(client, place, kind);
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
    place.ask(pages).await
}

/// Objects of a kind there.
pub fn api(client: Client, place: &Place, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client, &place.namespace, &kind.resource())
}
