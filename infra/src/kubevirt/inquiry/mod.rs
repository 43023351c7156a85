//! What only the infra cluster knows of a spec before its VM is made: whether what it names exists, and what KubeVirt
//! would say to the VM.
//!
//! Reads only, and one dry-run. Answers that something exists are kept for a minute, by credential, so that nobody learns
//! anything through somebody else's rights; in the steady state a question is the dry-run alone.

mod blame;
mod existence;
mod gate;
mod question;
mod quota;
mod room;
mod unreachable;
mod wanted;

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
use self::gate::Gate;
pub use self::question::{Question, Secrets};
use self::unreachable::{Unreachable, refused, within};

/// How many credentials are remembered at once.
const CLIENTS: usize = 256;
/// How long a client of nobody's is kept.
const IDLE: Duration = Duration::from_mins(10);

/// What stands for Ignition's user data, by which KubeVirt knows it.
const IGNITION: &str = r#"{"ignition":{"version":"3.3.0"}}"#;

/// What came of it.
#[derive(Debug, Default)]
pub struct Answer {
    /// Errors and warnings of the infra cluster, by our fields.
    pub report: Report,
    /// Why there may be more: it could not be asked for everything.
    pub unreachable: Option<String>,
}

/// Asks infra clusters.
#[derive(Debug)]
pub struct Inquiry {
    options: ClientOptions,
    clusters: TtlMap<String, Arc<Cluster>>,
    /// By the server's URL: whoever does not answer one credential answers none.
    gates: TtlMap<String, Arc<Gate>>,
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

impl Inquiry {
    /// Asks with clients of these limits.
    pub fn new(options: ClientOptions) -> Self {
        Self {
            options,
            clusters: TtlMap::default(),
            gates: TtlMap::default(),
        }
    }

    /// Asks, and tells by `deadline` what is known by then.
    pub async fn ask(&self, question: &Question<'_>, deadline: Instant) -> Answer {
        let mut report = Report::new();
        let asked = Box::pin(self.try_ask(question, deadline, &mut report));
        let unreachable = self.through_gate(question.kubeconfig, asked).await.err();
        Answer {
            report,
            unreachable: unreachable.map(|Unreachable(why)| why),
        }
    }

    /// `spec` of an instancetype; nothing if there is none of that name, or the credential may not look.
    pub async fn instancetype(
        &self,
        kubeconfig: &InfraKubeconfig,
        namespace: &str,
        wanted: &Matcher,
        deadline: Instant,
    ) -> Result<Option<Value>, String> {
        let ask = async {
            let cluster = self.cluster(kubeconfig).await?;
            let found = cluster
                .existence
                .instancetype(&cluster.client.0, namespace, wanted);
            Ok(found.await?)
        };
        let ask = async { within(deadline, ask).await? };
        let found = self.through_gate(kubeconfig, ask).await;
        found.map_err(|Unreachable(why)| why)
    }

    /// Region and zone of a StorageClass; nothing of one that does not exist, or that the credential may not see.
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
        let class = self.through_gate(kubeconfig, ask).await;
        let class = class.map_err(|Unreachable(why)| why)?.unwrap_or_default();
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

    /// Asks if the server answers as far as is known, and remembers whether it did.
    async fn through_gate<T>(
        &self,
        kubeconfig: &InfraKubeconfig,
        ask: impl Future<Output = Result<T, Unreachable>>,
    ) -> Result<T, Unreachable> {
        let server = kubeconfig.server().to_owned();
        let gate = self.gates.renew_or_insert(server, IDLE, Arc::default);
        let place = gate.enter().await.map_err(Unreachable)?;
        let answer = ask.await;
        place.leave(answer.as_ref().err().map(|Unreachable(why)| why.as_str()));
        answer
    }

    async fn try_ask(
        &self,
        question: &Question<'_>,
        deadline: Instant,
        report: &mut Report,
    ) -> Result<(), Unreachable> {
        let cluster = within(deadline, self.cluster(question.kubeconfig)).await??;
        let client = &cluster.client.0;
        let judged = cluster.existence.judge(client, question, deadline, report);
        let Some(found) = judged.await? else {
            return Ok(());
        };
        let mut needed = facts_needed(question.spec);
        // Nothing in a Secret is needed to judge, and so none is read.
        needed.extra_headers_secret = None;
        let digest = question.kubeconfig.credential_digest();
        let facts = cluster.facts.get(&digest, client, question.namespace, &needed);
        let facts = match within(deadline, facts).await? {
            Ok(facts) => facts,
            // Told by its field already, if it is one that we ask for by name.
            Err(FactError::NotFound { .. }) if !report.is_ok() => return Ok(()),
            Err(error @ FactError::NotFound { .. }) => {
                report.error(
                    &origin_of(&error, question),
                    ErrorKind::NotFound,
                    error.to_string(),
                );
                return Ok(());
            }
            Err(FactError::Remote { error, .. }) if error.code() == Some(403) => {
                let path = question.kubeconfig_path();
                report.error(
                    &path,
                    ErrorKind::Forbidden,
                    format!("its user lacks a right that is needed: {error}"),
                );
                return Ok(());
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
            ignition: question.ignition.as_ref().map(|_| IGNITION),
        });
        let claim = cluster.existence.judge_claim(client, question, &vm, report);
        within(deadline, claim).await??;
        if !report.is_ok() {
            return Ok(());
        }
        if let Err(error) = within(deadline, verdict(client, question, vm.clone(), report)).await? {
            return match error {
                kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
                    blame::blame(&status, question, &vm, report);
                    Ok(())
                }
                error => refused(question, &RemoteError::from(&error), report),
            };
        }
        // Hints, for which nobody is called unreachable.
        let hints = cluster.hints(question, &found);
        if let Ok(hints) = within(deadline, hints).await {
            report.extend(hints);
        }
        Ok(())
    }

    /// The cluster through this very credential.
    async fn cluster(&self, kubeconfig: &InfraKubeconfig) -> Result<Arc<Cluster>, Unreachable> {
        let digest = kubeconfig.credential_digest();
        if let Some(cluster) = self.clusters.renew(&digest, IDLE) {
            return Ok(cluster);
        }
        let client = infra_client(kubeconfig, &self.options)
            .await
            .map_err(|error| Unreachable(error.to_string()))?;
        let cluster = Arc::new(Cluster {
            client: ClientOf(client),
            facts: FactsCache::new(facts::TTL),
            existence: Existence::default(),
        });
        if self.clusters.len() >= CLIENTS {
            self.clusters.clear();
        }
        self.clusters.insert(digest, Arc::clone(&cluster), IDLE);
        Ok(cluster)
    }
}

impl Cluster {
    /// Whether there is room, as far as the credential sees: more than one VM asks for room that nobody has looked at, and
    /// the same room is asked for by each admission.
    async fn hints(&self, question: &Question<'_>, found: &Found) -> Report {
        let mut report = Report::new();
        if question.replicas == 0 {
            return report;
        }
        let needed = quota::Needed::of(question.spec, found);
        let client = &self.client.0;
        let (quotas, nodes) = futures::join!(
            self.existence.quotas(client, question.namespace),
            self.existence.nodes(client)
        );
        quota::judge(&quotas.unwrap_or_default(), &needed, question, &mut report);
        let Some(nodes) = nodes else {
            return report;
        };
        let taken = self.existence.taken(client).await;
        room::judge(&nodes, taken.as_deref(), &needed, question, &mut report);
        report
    }
}

/// KubeVirt's own admission, and the schema of its version, on the VM. A field that this version does not know is a
/// warning, for it is left out when the VM is made, and the rest is judged without it.
async fn verdict(
    client: &Client,
    question: &Question<'_>,
    vm: Value,
    report: &mut Report,
) -> kube::Result<()> {
    match dry_run(client, question.namespace, vm.clone(), "Strict").await {
        Err(kube::Error::Api(status)) if status.code == 400 && status.message.contains("strict decoding") => {
            let text = RemoteError::from(&kube::Error::Api(status)).to_string();
            report.warn(
                &question.path.child("virtualMachine"),
                format!(
                    "the infra cluster's KubeVirt does not know a field of the VM, and leaves it out: {text}"
                ),
            );
            dry_run(client, question.namespace, vm, "Ignore").await
        }
        judged => judged,
    }
}

/// With a name of its own: the real one may exist.
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

/// The field of the disk whose StorageProfile is missing: everything else that is asked for is named in the spec itself.
fn origin_of(error: &FactError, question: &Question<'_>) -> FieldPath {
    let FactError::NotFound {
        kind: "StorageProfile",
        name,
    } = error
    else {
        return question.path.clone();
    };
    let template = question.path.child("virtualMachine").child("template");
    let primary = template.child("primaryDisk");
    let mut secondary = question.spec.secondary_disks.iter();
    let disk = if question.spec.primary_disk.storage_class == *name {
        primary
    } else {
        let index = secondary.position(|disk| disk.storage_class == *name);
        index.map_or(primary, |index| template.child("secondaryDisks").index(index))
    };
    disk.child("storageClassName")
}
