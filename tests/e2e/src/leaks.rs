//! The leak checker: objects that no case may leave behind.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Node, PersistentVolumeClaim, Secret},
    events::v1::Event,
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::ListParams,
    core::{ApiResource, DynamicObject},
};
use machinist_shared::api::{Machine, names};
use serde::de::DeserializeOwned;
use testbed::{Testbed, seed::INFRA_NAMESPACE};

use crate::objects;

/// Garbage collection of disks follows the deletion of their VM. The time starts again with each object that disappears.
const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Fails if objects are left and none of them disappears any more. The `foreign` objects, each `Kind/name`, are excepted: they
/// must all still exist.
pub async fn check(bed: &Testbed, foreign: &[&str]) -> Result<()> {
    let (mut fewest, mut deadline) = (usize::MAX, Instant::now() + TIMEOUT);
    loop {
        let found = leftovers(bed).await?;
        let missing: Vec<_> = foreign
            .iter()
            .filter(|name| !found.iter().any(|left| left == *name))
            .collect();
        if !missing.is_empty() {
            bail!("foreign objects are gone: {missing:?}");
        }
        let leaked: Vec<_> = found
            .iter()
            .filter(|left| !foreign.iter().any(|name| name == left))
            .collect();
        if leaked.is_empty() {
            return Ok(());
        }
        if leaked.len() < fewest {
            (fewest, deadline) = (leaked.len(), Instant::now() + TIMEOUT);
        }
        if Instant::now() > deadline {
            bail!("left behind: {leaked:?}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Fails if there is any object except Machines and the `foreign` ones, each `Kind/name`, or if Machinist's servers have
/// written anything.
pub async fn check_nothing_was_created(bed: &Testbed, foreign: &[&str]) -> Result<()> {
    let mut found = leftovers(bed).await?;
    found.retain(|left| !left.starts_with("Machine/"));
    found.sort_unstable();
    let mut expected = foreign.to_vec();
    expected.sort_unstable();
    ensure!(
        found == expected,
        "there is {found:?}, and not {expected:?} alone"
    );
    for cluster in [bed.user(), bed.infra()] {
        let requests = cluster.proxy().requests();
        let write = requests.iter().find(|request| request.is_successful_write());
        ensure!(write.is_none(), "there was a write: {write:?}");
    }
    Ok(())
}

/// Everything on both clusters that a Machine may have caused, as `Kind/name`.
pub async fn leftovers(bed: &Testbed) -> Result<Vec<String>> {
    let (user, infra) = (bed.user().client(), bed.infra().client());
    let mut found = Vec::new();
    for resource in [
        objects::virtual_machine(),
        objects::virtual_machine_instance(),
        objects::data_volume(),
    ] {
        found.extend(dynamic(&objects::infra(infra.clone(), &resource), &resource).await?);
    }
    found.extend(
        names(
            &Api::<PersistentVolumeClaim>::namespaced(infra.clone(), INFRA_NAMESPACE),
            |_| true,
        )
        .await?,
    );
    // Tokens of ServiceAccounts belong to Kubernetes; every other Secret there is user data.
    let ours = |secret: &Secret| secret.type_.as_deref() != Some("kubernetes.io/service-account-token");
    found.extend(names(&Api::<Secret>::namespaced(infra, INFRA_NAMESPACE), ours).await?);

    let token = |secret: &Secret| secret.type_.as_deref() == Some(names::TOKEN_SECRET_TYPE);
    found.extend(names(&Api::<Secret>::namespaced(user.clone(), "kube-system"), token).await?);
    found.extend(names(&Api::<Machine>::all(user.clone()), |_| true).await?);
    found.extend(names(&Api::<Node>::all(user.clone()), |_| true).await?);
    // Kubernetes removes them after a day; a kubelet may have created one while its Machine was being deleted.
    let refused: Vec<String> = Api::<Event>::all(user.clone())
        .list(&ListParams::default())
        .await?
        .into_iter()
        .filter_map(|event| event.note)
        .filter(|note| note.contains("is being deleted"))
        .collect();
    let leaked = |request: &CertificateSigningRequest| {
        let name = request.name_any();
        is_undecided(request) && !refused.iter().any(|note| note.contains(&format!("{name} ")))
    };
    found.extend(names(&Api::<CertificateSigningRequest>::all(user), leaked).await?);
    Ok(found)
}

fn is_undecided(request: &CertificateSigningRequest) -> bool {
    let conditions = request
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    !conditions
        .into_iter()
        .flatten()
        .any(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied"))
}

async fn names<K>(api: &Api<K>, counts: impl Fn(&K) -> bool) -> Result<Vec<String>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let kind = K::kind(&());
    match api.list(&ListParams::default()).await {
        // Without the chart, the API server does not serve Machines.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        listed => {
            let named = |object: &K| format!("{kind}/{}", object.name_any());
            Ok(listed?
                .iter()
                .filter(|object| counts(object))
                .map(named)
                .collect())
        }
    }
}

async fn dynamic(api: &Api<DynamicObject>, resource: &ApiResource) -> Result<Vec<String>> {
    let listed = api.list(&ListParams::default()).await?;
    Ok(listed
        .iter()
        .map(|object| format!("{}/{}", resource.kind, object.name_any()))
        .collect())
}
