//! What only the infra cluster knows of a spec before its VM is made: whether what it names exists, and what KubeVirt
//! would say to the VM.
//!
//! Reads only, and one dry-run. Answers that something exists are kept for a minute, by credential, so that nobody learns
//! anything through somebody else's rights; in the steady state a question is the dry-run alone.

mod blame;
mod existence;
mod quota;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::api::{DynamicObject, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client};
use machinist_shared::field::{ErrorKind, FieldPath, Report};
use machinist_shared::kubevirt::facts::facts_needed;
use machinist_shared::kubevirt::render::{RenderInput, render};
use machinist_shared::kubevirt::resolved::ResolvedSpec;
use machinist_shared::kubevirt::spec::Matcher;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{ClientOptions, RemoteError, infra_client};
use crate::facts::{FactError, FactsCache};
use crate::kubeconfig::InfraKubeconfig;
use crate::objects::Vm;

use existence::{Existence, Found};

/// How many credentials are remembered at once.
const CLIENTS: usize = 256;
/// How long a client of nobody's is kept.
const IDLE: Duration = Duration::from_mins(10);

/// A VM that is to be.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Where it is to be.
    pub kubeconfig: &'a InfraKubeconfig,
    /// In which namespace.
    pub namespace: &'a str,
    /// Name of the Machine, or of what makes many of them.
    pub name: &'a str,
    /// Labels of the Machine.
    pub labels: &'a std::collections::BTreeMap<String, String>,
    /// Annotations of the Machine.
    pub annotations: &'a std::collections::BTreeMap<String, String>,
    /// Name of the MachineDeployment above the Machine.
    pub machine_deployment: Option<&'a str>,
    /// What is asked for.
    pub spec: &'a ResolvedSpec,
    /// How many of them.
    pub replicas: u64,
    /// Where that is written: `….cloudProviderSpec`.
    pub path: FieldPath,
}

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    /// Errors and warnings of the infra cluster, by our fields.
    Judged(Report),
    /// It could not be asked; why.
    Unreachable(String),
}

/// Asks infra clusters.
#[derive(Debug)]
pub struct Inquiry {
    options: ClientOptions,
    clusters: Mutex<HashMap<String, (Instant, Arc<Cluster>)>>,
}

/// What is known through one credential.
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

/// Why nobody could be asked.
struct Unreachable(String);

impl Inquiry {
    /// Asks with clients of these limits.
    pub fn new(options: ClientOptions) -> Self {
        Self {
            options,
            clusters: Mutex::default(),
        }
    }

    /// Asks. Never takes longer than the client's limits, and is to be given a deadline.
    pub async fn ask(&self, question: &Question<'_>) -> Answer {
        match self.try_ask(question).await {
            Ok(report) => Answer::Judged(report),
            Err(Unreachable(why)) => Answer::Unreachable(why),
        }
    }

    /// `spec` of an instancetype; nothing if there is none of that name, or the credential may not look.
    pub async fn instancetype(
        &self,
        kubeconfig: &InfraKubeconfig,
        namespace: &str,
        wanted: &Matcher,
    ) -> Result<Option<Value>, String> {
        let cluster = self.cluster(kubeconfig).await.map_err(|Unreachable(why)| why)?;
        let found = cluster
            .existence
            .instancetype(&cluster.client.0, namespace, wanted);
        found.await.map_err(|error| error.to_string())
    }

    async fn try_ask(&self, question: &Question<'_>) -> Result<Report, Unreachable> {
        let mut report = Report::new();
        let cluster = self.cluster(question.kubeconfig).await?;
        let found = cluster
            .existence
            .judge(&cluster.client.0, question, &mut report)
            .await?;
        let facts = cluster
            .facts
            .get(
                &question.kubeconfig.credential_digest(),
                &cluster.client.0,
                question.namespace,
                &facts_needed(question.spec),
            )
            .await;
        let facts = match facts {
            Ok(facts) => facts,
            // Told by its field already, if it is one that we ask for by name.
            Err(FactError::NotFound { .. }) if !report.is_ok() => return Ok(report),
            Err(error @ FactError::NotFound { .. }) => {
                report.error(&question.path, ErrorKind::NotFound, error.to_string());
                return Ok(report);
            }
            Err(FactError::Remote { error, .. }) if error.code() == Some(403) => {
                let path = kubeconfig_path(question);
                report.error(
                    &path,
                    ErrorKind::Forbidden,
                    format!("its user lacks a right that is needed: {error}"),
                );
                return Ok(report);
            }
            Err(FactError::Remote { error, .. }) => return refused(question, &error, report),
        };
        let vm = render(&RenderInput {
            name: question.name,
            uid: "00000000-0000-0000-0000-000000000000",
            labels: question.labels,
            annotations: question.annotations,
            machine_deployment: question.machine_deployment,
            cluster_uid: "",
            namespace: question.namespace,
            spec: question.spec,
            facts: &facts,
            user_data_secret: "dry-run",
            ignition: None,
        });
        existence::judge_claim(&cluster.client.0, question, &vm, &mut report).await?;
        if !report.is_ok() {
            return Ok(report);
        }
        if let Err(error) = dry_run(&cluster.client.0, question.namespace, vm).await {
            return match error {
                kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
                    blame::blame(&status, question, &mut report);
                    Ok(report)
                }
                error => refused(question, &RemoteError::from(&error), report),
            };
        }
        self.judge_quota(&cluster, question, found, &mut report).await;
        Ok(report)
    }

    async fn judge_quota(
        &self,
        cluster: &Cluster,
        question: &Question<'_>,
        found: Found,
        report: &mut Report,
    ) {
        // More than one VM asks for room that nobody has looked at; the same room is asked for by each admission.
        let needed = quota::Needed::of(question.spec, &found);
        if let Some(quotas) = cluster
            .existence
            .quotas(&cluster.client.0, question.namespace)
            .await
        {
            quota::judge(&quotas, &needed, question, report);
        }
    }

    /// The cluster through this very credential.
    async fn cluster(&self, kubeconfig: &InfraKubeconfig) -> Result<Arc<Cluster>, Unreachable> {
        let digest = kubeconfig.credential_digest();
        if let Some((used, cluster)) = self.lock().get_mut(&digest) {
            *used = Instant::now();
            return Ok(Arc::clone(cluster));
        }
        let client = infra_client(kubeconfig, &self.options)
            .await
            .map_err(|error| Unreachable(error.to_string()))?;
        let cluster = Arc::new(Cluster {
            client: ClientOf(client),
            facts: FactsCache::default(),
            existence: Existence::default(),
        });
        let mut clusters = self.lock();
        clusters.retain(|_, (used, _)| used.elapsed() < IDLE);
        if clusters.len() >= CLIENTS {
            clusters.clear();
        }
        clusters.insert(digest, (Instant::now(), Arc::clone(&cluster)));
        Ok(cluster)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Arc<Cluster>)>> {
        // Every change is complete before anything can panic.
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// KubeVirt's own admission, and the schema of its version, on the VM. With a name of its own: the real one may exist.
async fn dry_run(client: &Client, namespace: &str, mut vm: Value) -> kube::Result<()> {
    if let Some(metadata) = vm["metadata"].as_object_mut() {
        let name = metadata.remove("name").unwrap_or_default();
        let prefix = format!("{}-", name.as_str().unwrap_or_default());
        metadata.insert("generateName".to_owned(), json!(prefix));
    }
    let resource = ApiResource::erase::<Vm>(&());
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
    let object = serde_json::from_value(vm).map_err(kube::Error::SerdeError)?;
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    api.create(&params, &object).await.map(drop)
}

/// An answer that says nothing of the spec: the credential is at fault, or the cluster cannot be asked now.
fn refused(question: &Question<'_>, error: &RemoteError, mut report: Report) -> Result<Report, Unreachable> {
    let path = kubeconfig_path(question);
    match error.code() {
        Some(401) => report.error(
            &path,
            ErrorKind::Invalid,
            format!("the infra cluster does not know its user: {error}"),
        ),
        Some(404) => report.error(
            &path,
            ErrorKind::Invalid,
            format!(
                "the infra cluster has no KubeVirt, or not the namespace {}: {error}",
                question.namespace
            ),
        ),
        _ => return Err(Unreachable(error.to_string())),
    }
    Ok(report)
}

fn kubeconfig_path(question: &Question<'_>) -> FieldPath {
    question.path.child("auth").child("kubeconfig")
}
