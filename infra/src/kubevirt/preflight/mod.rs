//! Checks of a spec against the infra cluster before its VM is created: whether the referenced objects exist, and
//! whether KubeVirt admits the VM.
//!
//! They consist of reads and one dry-run. Positive results are cached for a minute by credential, so that no author
//! learns anything through the permissions of another; in the steady state a check is only the dry-run.

mod capacity;
mod existence;
mod field_mapping;
mod quota;
mod request;
mod requirements;
mod server_limiter;
mod unreachable;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kube::api::PostParams;
use kube::core::Request;
use kube::{Client, Resource as _};
use machinist_shared::api::field::{ErrorKind, FieldPath, Report};
use machinist_shared::kubevirt::facts::{facts_needed, topology};
use machinist_shared::kubevirt::render::{RenderInput, render};
use machinist_shared::kubevirt::spec::Matcher;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cache::ttl::TtlMap;
use crate::kube::client::{ClientOptions, infra_client};
use crate::kube::error::RemoteError;
use crate::kube::kubeconfig::InfraKubeconfig;
use crate::kubevirt::facts::{self, FactsCache};
use crate::kubevirt::objects::Vm;
use crate::provider::FactError;

use self::existence::{Existence, Found};
pub use self::request::{PreflightRequest, SecretDisclosure};
use self::server_limiter::ServerLimiter;
use self::unreachable::{Unreachable, refused, within};

/// Maximum number of cached credentials.
const MAX_CLIENTS: usize = 256;
/// How long an unused client is kept.
const IDLE_TTL: Duration = Duration::from_mins(10);

/// A placeholder for Ignition's user data, in a form that KubeVirt recognizes.
const IGNITION: &str = r#"{"ignition":{"version":"3.3.0"}}"#;

/// The result of the checks.
#[derive(Debug, Default)]
pub struct PreflightReport {
    /// Errors and warnings of the infra cluster, by fields of the spec.
    pub report: Report,
    /// Why the checks are incomplete, if they are.
    pub unreachable: Option<String>,
}

/// Checks specs against infra clusters.
#[derive(Debug)]
pub struct Preflight {
    options: ClientOptions,
    clusters: TtlMap<String, Arc<Cluster>>,
    /// By the server's URL: a server that does not respond to one credential responds to none.
    limiters: TtlMap<String, Arc<ServerLimiter>>,
}

/// Cached data for one credential.
#[derive(Debug)]
struct Cluster {
    client: ClientOf,
    facts: FactsCache,
    existence: Existence,
}

struct ClientOf(Client);

impl std::fmt::Debug for ClientOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Preflight {
    /// Uses clients with these limits.
    pub fn new(options: ClientOptions) -> Self {
        Self {
            options,
            clusters: TtlMap::default(),
            limiters: TtlMap::default(),
        }
    }

    /// Runs the checks, and returns the results known by `deadline`.
    pub async fn ask(&self, request: &PreflightRequest<'_>, deadline: Instant) -> PreflightReport {
        let mut report = Report::new();
        let asked = Box::pin(self.run_checks(request, deadline, &mut report));
        let asked = self.through_limiter(request.kubeconfig, deadline, asked).await;
        PreflightReport {
            report,
            unreachable: asked.err(),
        }
    }

    /// `spec` of an instancetype; `None` if it does not exist, or the credential cannot read it.
    pub async fn instancetype(
        &self,
        kubeconfig: &InfraKubeconfig,
        namespace: &str,
        requirements: &Matcher,
        deadline: Instant,
    ) -> Result<Option<Value>, String> {
        let ask = async {
            let cluster = self.cluster(kubeconfig).await?;
            let found = cluster
                .existence
                .instancetype(&cluster.client.0, namespace, requirements);
            Ok(found.await?)
        };
        let ask = async { within(deadline, ask).await? };
        self.through_limiter(kubeconfig, deadline, ask).await
    }

    /// Region and zone of a StorageClass; empty if it does not exist, or the credential cannot read it.
    pub async fn topology(
        &self,
        kubeconfig: &InfraKubeconfig,
        storage_class: &str,
        deadline: Instant,
    ) -> Result<(Option<String>, Option<String>), String> {
        let ask = async {
            let cluster = self.cluster(kubeconfig).await?;
            let found = cluster.existence.storage_class(&cluster.client.0, storage_class);
            Ok(found.await?)
        };
        let ask = async { within(deadline, ask).await? };
        let class = self.through_limiter(kubeconfig, deadline, ask).await;
        let class = class?.unwrap_or_default();
        let terms = class["allowedTopologies"].as_array().into_iter().flatten();
        let expressions =
            terms.flat_map(|term| term["matchLabelExpressions"].as_array().into_iter().flatten());
        let expressions: Vec<(&str, Vec<String>)> = expressions
            .map(|it| {
                let values = it["values"].as_array().into_iter().flatten();
                let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
                (it["key"].as_str().unwrap_or_default(), values)
            })
            .collect();
        Ok(topology(
            expressions.iter().map(|(key, values)| (*key, values.as_slice())),
        ))
    }

    /// Sends the request unless the server is known to be unreachable, and records whether it responded; an error says why there
    /// is no response.
    async fn through_limiter<T>(
        &self,
        kubeconfig: &InfraKubeconfig,
        deadline: Instant,
        ask: impl Future<Output = Result<T, Unreachable>>,
    ) -> Result<T, String> {
        let limiter = self.limiter(kubeconfig);
        let place = limiter.acquire(deadline).await?;
        let answer = ask.await.map_err(|error| error.text(limiter.is_answering()));
        place.release(answer.as_ref().err().map(String::as_str));
        answer
    }

    fn limiter(&self, kubeconfig: &InfraKubeconfig) -> Arc<ServerLimiter> {
        let server = kubeconfig.server().to_owned();
        self.limiters.renew_or_insert(server, IDLE_TTL, Arc::default)
    }

    async fn run_checks(
        &self,
        request: &PreflightRequest<'_>,
        deadline: Instant,
        report: &mut Report,
    ) -> Result<(), Unreachable> {
        let cluster = within(deadline, self.cluster(request.kubeconfig)).await??;
        let client = &cluster.client.0;
        let judged = cluster.existence.check(client, request, deadline, report);
        let Some(found) = judged.await? else {
            return Ok(());
        };
        let mut needed = facts_needed(request.spec);
        // The checks need no Secret data, so they read none.
        needed.extra_headers_secret = None;
        let digest = request.kubeconfig.credential_digest();
        let facts = cluster.facts.get(&digest, client, request.namespace, &needed);
        let facts = match within(deadline, facts).await? {
            Ok(facts) => facts,
            // Already reported with its field, if the spec names it.
            Err(FactError::NotFound { .. }) if !report.is_ok() => return Ok(()),
            Err(error @ FactError::NotFound { .. }) => {
                report.error(
                    &origin_of(&error, request),
                    ErrorKind::NotFound,
                    error.to_string(),
                );
                return Ok(());
            }
            Err(FactError::Remote { error, .. }) if error.code() == Some(403) => {
                let path = request.kubeconfig_path();
                report.error(
                    &path,
                    ErrorKind::Forbidden,
                    format!("its user lacks a required permission: {error}"),
                );
                return Ok(());
            }
            Err(FactError::Remote { error, .. }) => return refused(request, &error, report),
        };
        let vm = render(&RenderInput {
            name: request.name,
            uid: "00000000-0000-0000-0000-000000000000",
            labels: request.labels,
            annotations: request.annotations,
            machine_deployment: request.machine_deployment,
            cluster_uid: "",
            namespace: request.namespace,
            spec: request.spec,
            facts: &facts,
            user_data_secret: "dry-run",
            ignition: request.ignition.as_ref().map(|_| IGNITION),
        });
        let claim = cluster.existence.check_claim(client, request, &vm, report);
        within(deadline, claim).await??;
        if !report.is_ok() {
            return Ok(());
        }
        let verdict = within(deadline, verdict(client, request, vm.clone(), report)).await?;
        if matches!(verdict, Ok(()) | Err(kube::Error::Api(_))) {
            self.limiter(request.kubeconfig).answered();
        }
        if let Err(error) = verdict {
            return match error {
                kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
                    field_mapping::map_fields(&status, request, &vm, report);
                    Ok(())
                }
                error => refused(request, &RemoteError::from(&error), report),
            };
        }
        // Failed hints do not make the cluster unreachable.
        let hints = cluster.hints(request, &found);
        if let Ok(hints) = within(deadline, hints).await {
            report.extend(hints);
        }
        Ok(())
    }

    /// The cluster with this credential.
    async fn cluster(&self, kubeconfig: &InfraKubeconfig) -> Result<Arc<Cluster>, Unreachable> {
        let digest = kubeconfig.credential_digest();
        if let Some(cluster) = self.clusters.renew(&digest, IDLE_TTL) {
            return Ok(cluster);
        }
        let client = infra_client(kubeconfig, &self.options)
            .await
            .map_err(|error| Unreachable::Failed(error.to_string()))?;
        let cluster = Arc::new(Cluster {
            client: ClientOf(client),
            facts: FactsCache::new(facts::TTL),
            existence: Existence::of(self.limiter(kubeconfig)),
        });
        if self.clusters.len() >= MAX_CLIENTS {
            self.clusters.clear();
        }
        self.clusters.insert(digest, Arc::clone(&cluster), IDLE_TTL);
        Ok(cluster)
    }
}

impl Cluster {
    /// Warns of missing capacity, as far as the credential can see it: the dry-run is for only one VM, and concurrent
    /// admissions count on the same capacity.
    async fn hints(&self, request: &PreflightRequest<'_>, found: &Found) -> Report {
        let mut report = Report::new();
        if request.replicas == 0 {
            return report;
        }
        let needed = quota::Needed::of(request.spec, found);
        let client = &self.client.0;
        let (quotas, nodes) = futures::join!(
            self.existence.quotas(client, request.namespace),
            self.existence.nodes(client)
        );
        quota::check(&quotas.unwrap_or_default(), &needed, request, &mut report);
        let Some(nodes) = nodes else {
            return report;
        };
        let pod_requests = self.existence.pod_requests(client).await;
        capacity::check(&nodes, pod_requests.as_deref(), &needed, request, &mut report);
        report
    }
}

/// Validates the VM by KubeVirt's own admission and the schema of its version. A field that this version does not know
/// is a warning, because the VM is created without it, and the rest is validated without it.
async fn verdict(
    client: &Client,
    request: &PreflightRequest<'_>,
    vm: Value,
    report: &mut Report,
) -> kube::Result<()> {
    match dry_run(client, request.namespace, vm.clone(), "Strict").await {
        Err(kube::Error::Api(status)) if status.code == 400 && status.message.contains("strict decoding") => {
            let text = RemoteError::from(&kube::Error::Api(status)).to_string();
            report.warn(
                &request.path.child("virtualMachine"),
                format!("the infra cluster's KubeVirt does not know a field of the VM and drops it: {text}"),
            );
            dry_run(client, request.namespace, vm, "Ignore").await
        }
        judged => judged,
    }
}

/// With a separate name: the real one may exist.
async fn dry_run(client: &Client, namespace: &str, mut vm: Value, validation: &str) -> kube::Result<()> {
    if let Some(metadata) = vm["metadata"].as_object_mut() {
        let name = metadata.remove("name").unwrap_or_default();
        let prefix = format!("{}-", name.as_str().unwrap_or_default());
        metadata.insert("generateName".to_owned(), json!(prefix));
    }
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let body = serde_json::to_vec(&vm).map_err(kube::Error::SerdeError)?;
    let request = Request::new(Vm::url_path(&(), Some(namespace))).create(&params, body);
    let mut request = request.map_err(kube::Error::BuildRequest)?;
    let uri = format!("{}&fieldValidation={validation}", request.uri());
    let uri = uri
        .parse()
        .map_err(|error: http::uri::InvalidUri| kube::Error::HttpError(error.into()))?;
    *request.uri_mut() = uri;
    client.request::<Value>(request).await.map(drop)
}

/// The field of the disk whose StorageProfile is missing: the spec itself names all other objects.
fn origin_of(error: &FactError, request: &PreflightRequest<'_>) -> FieldPath {
    let FactError::NotFound {
        kind: "StorageProfile",
        name,
    } = error
    else {
        return request.path.clone();
    };
    let template = request.path.child("virtualMachine").child("template");
    let primary = template.child("primaryDisk");
    let mut secondary = request.spec.secondary_disks.iter();
    let disk = if request.spec.primary_disk.storage_class == *name {
        primary
    } else {
        let index = secondary.position(|disk| disk.storage_class == *name);
        index.map_or(primary, |index| template.child("secondaryDisks").index(index))
    };
    disk.child("storageClassName")
}
