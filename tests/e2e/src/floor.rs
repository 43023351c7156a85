//! The minimum time of a number of writes on these API servers: a client that only sends as many writes of the same verbs, on
//! objects of the same size.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use testbed::Cluster;

/// Writes in flight on each cluster.
const AT_ONCE: usize = 32;
/// Bytes of an object, about those of a VirtualMachine, and of a patch.
const OBJECT: usize = 3000;
const PATCH: usize = 500;
const NAMESPACE: &str = "default";

/// Writes of all clients to one API server, by verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Writes {
    /// POST.
    pub creates: usize,
    /// PATCH and PUT.
    pub patches: usize,
    /// DELETE.
    pub deletes: usize,
}

impl Writes {
    /// Those that the API server has answered so far, by its own count.
    pub async fn so_far(cluster: &Cluster) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = cluster.client().request_text(request).await?;
        let mut writes = Self::default();
        for line in text
            .lines()
            .filter(|line| line.starts_with("apiserver_request_total{"))
        {
            let (labels, count) = line.rsplit_once(' ').context("a metric without a value")?;
            // Access reviews and token requests store nothing.
            if labels.contains("reviews\"") || labels.contains("subresource=\"token\"") {
                continue;
            }
            let count = whole(count)?;
            let verb = |verb: &str| labels.contains(&format!("verb=\"{verb}\""));
            if verb("POST") {
                writes.creates += count;
            } else if verb("PATCH") || verb("PUT") || verb("APPLY") {
                writes.patches += count;
            } else if verb("DELETE") {
                writes.deletes += count;
            }
        }
        Ok(writes)
    }

    /// Those since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            creates: self.creates - earlier.creates,
            patches: self.patches - earlier.patches,
            deletes: self.deletes - earlier.deletes,
        }
    }

    /// All of them.
    pub fn total(self) -> usize {
        self.creates + self.patches + self.deletes
    }
}

/// A count as Prometheus writes it, like `1.234567e+06`.
fn whole(count: &str) -> Result<usize> {
    let count: f64 = count.parse()?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of requests are far below 2^52"
    )]
    Ok(count as usize)
}

/// How long as many writes take on both clusters at once, through their proxies like those of the controller.
pub async fn run(clusters: [(&Cluster, Writes); 2]) -> Result<Duration> {
    let [(user, user_writes), (infra, infra_writes)] = clusters;
    let (user, infra) = (client(user).await?, client(infra).await?);
    tokio::try_join!(prepare(&user, user_writes), prepare(&infra, infra_writes))?;
    let begun = Instant::now();
    tokio::try_join!(write(&user, user_writes), write(&infra, infra_writes))?;
    let took = begun.elapsed();
    for client in [user, infra] {
        let left: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let mine = kube::api::ListParams::default().labels("floor");
        left.delete_collection(&DeleteParams::default(), &mine).await?;
    }
    Ok(took)
}

async fn client(cluster: &Cluster) -> Result<Client> {
    let server = cluster.proxy().listen_as("floor")?;
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&cluster.admin_kubeconfig_for(&server))?;
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(Client::try_from(config)?)
}

/// Creates the objects to patch and to delete, beyond those that are created anyway.
async fn prepare(client: &Client, writes: Writes) -> Result<()> {
    create(client, writes.creates..objects(writes)).await
}

async fn write(client: &Client, writes: Writes) -> Result<()> {
    create(client, 0..writes.creates).await?;
    let api = &Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    each(0..writes.patches, |n| async move {
        let patch = Patch::Merge(json!({"data": {"y": format!("{n:0>PATCH$}")}}));
        api.patch(
            &format!("floor-{}", n % objects(writes)),
            &PatchParams::default(),
            &patch,
        )
        .await?;
        Ok(())
    })
    .await?;
    each(0..writes.deletes, |n| async move {
        api.delete(&format!("floor-{n}"), &DeleteParams::default())
            .await?;
        Ok(())
    })
    .await
}

fn objects(writes: Writes) -> usize {
    writes.creates.max(writes.deletes).max(1)
}

async fn create(client: &Client, numbers: Range<usize>) -> Result<()> {
    let api = &Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    each(numbers, |n| async move {
        let object = json!({
            "metadata": {"name": format!("floor-{n}"), "labels": {"floor": ""}}, "data": {"x": "x".repeat(OBJECT)},
        });
        api.create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
        Ok(())
    })
    .await
}

async fn each<Done>(numbers: Range<usize>, one: impl Fn(usize) -> Done) -> Result<()>
where
    Done: Future<Output = Result<()>>,
{
    stream::iter(numbers)
        .map(one)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}
