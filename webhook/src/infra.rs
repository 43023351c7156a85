//! Checks of a spec against the infra cluster: after all other checks have passed, and only for objects that a user
//! creates or changes.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use futures::future;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use machinist_infra::kube::client::ClientOptions;
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kube::kubeconfig::{AddressPolicy, InfraKubeconfig};
use machinist_infra::kubevirt::preflight::{Preflight, PreflightRequest, SecretDisclosure};
use machinist_shared::admission::Subject;
use machinist_shared::api::ValueAt;
use machinist_shared::api::config_var::{KeyRef, LookupError, RefKind};
use machinist_shared::api::field::{ErrorKind, FieldPath, Report};
use machinist_shared::kubevirt::resolved;
use machinist_shared::kubevirt::spec::{CloudProviderSpec, Matcher};
use machinist_shared::kubevirt::{topology, validate};
use machinist_shared::provider::{self, Env, KubeconfigSource, Unresolved};
use machinist_shared::provider_spec::ProviderConfig;
use machinist_shared::provider_spec::operating_system::OperatingSystem;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{pool, stored};

/// The share of the timeout that infra clusters have.
const ANSWERING: f64 = 0.95;

/// What to do if an infra cluster does not respond in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnreachablePolicy {
    /// A warning.
    Warn,
    /// Refuse the object.
    Refuse,
    /// Send no requests to infra clusters.
    Off,
}

/// How specs are checked against infra clusters.
#[derive(Debug, Clone, Copy)]
pub struct AskPolicy {
    /// Timeout of all checks of one admission.
    pub timeout: Duration,
    /// What to do without a response.
    pub unreachable: UnreachablePolicy,
}

/// Checks specs against infra clusters.
pub struct Infra {
    /// Client of the user cluster, for referenced objects.
    client: Client,
    preflight: Preflight,
    env: Env,
    policy: AddressPolicy,
    ask: AskPolicy,
}

impl std::fmt::Debug for Infra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Infra")
            .field("ask", &self.ask)
            .finish_non_exhaustive()
    }
}

/// The object to check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewObject<'a> {
    pub(crate) subject: &'a Subject<'a>,
    /// The stored object, if this is an update.
    pub(crate) old: Option<&'a Value>,
    /// Whether the author can read the kubeconfig.
    pub(crate) secrets: SecretDisclosure,
    /// Whether the check is mandatory, because the object lacks defaults from the infra cluster.
    pub(crate) must: bool,
}

impl<'a> NewObject<'a> {
    fn object(self) -> &'a Value {
        self.subject.object()
    }

    fn at(self) -> ValueAt {
        self.subject.at()
    }

    /// The KubeVirt provider's part of the spec: other providers have no such checks. Its errors are reported
    /// elsewhere.
    fn cloud(self) -> Option<&'a CloudProviderSpec> {
        self.subject.config().cloud_provider_spec.as_ref()?.of()
    }
}

/// A spec that can be checked.
struct Usable {
    spec: resolved::ResolvedSpec,
    kubeconfig: InfraKubeconfig,
    source: KubeconfigSource,
    /// Errors and warnings about referenced values.
    findings: Report,
}

/// Why a spec cannot be checked.
enum Unusable {
    /// The author can fix it.
    Wrong(Report),
    /// A referenced object could not be read.
    Unknown(String),
}

impl Unusable {
    fn wrong(path: &FieldPath, kind: ErrorKind, why: String) -> Self {
        let mut report = Report::new();
        report.error(path, kind, why);
        Self::Wrong(report)
    }
}

impl Infra {
    /// Uses clients with these options; `None` if checks are off.
    pub fn new(
        client: Client,
        options: ClientOptions,
        env: Env,
        policy: AddressPolicy,
        ask: AskPolicy,
    ) -> Option<Self> {
        (ask.unreachable != UnreachablePolicy::Off).then(|| Self {
            client,
            preflight: Preflight::new(options),
            env,
            policy,
            ask,
        })
    }

    /// Deadline of checks that begin now, which leaves a little time to respond to the API server.
    pub(crate) fn deadline(&self, spent: Duration) -> Instant {
        Instant::now() + self.ask.timeout.mul_f64(ANSWERING).saturating_sub(spent)
    }

    /// Timeout of checks that only provide optional defaults.
    pub(crate) fn time_for_defaults(&self) -> Duration {
        self.ask.timeout.mul_f64(ANSWERING / 2.0)
    }

    /// Errors and warnings of the infra cluster, by field of the spec, until `deadline`.
    pub(crate) async fn check(&self, new_object: NewObject<'_>, deadline: Instant) -> Report {
        let path = FieldPath::new(new_object.at().path).child("cloudProviderSpec");
        let (report, unreachable) = self.ask(new_object, &path, deadline).await;
        let mut report = match new_object.old {
            Some(old) => stored::downgrade(report, old, new_object.object()),
            None => report,
        };
        match unreachable {
            Some(why) => report.extend(self.unreachable(new_object, &path, &why)),
            None if new_object.must && report.is_ok() => {
                report.extend(self.check_topology(new_object, &path, deadline).await);
            }
            None => {}
        }
        report
    }

    /// An error if region and zone could not be read when the object got its defaults.
    async fn check_topology(&self, new_object: NewObject<'_>, path: &FieldPath, deadline: Instant) -> Report {
        let mut report = Report::new();
        let found = Box::pin(self.topology(new_object, deadline)).await;
        if found.is_none_or(|found| !topology::is_written(new_object.object(), new_object.at(), found)) {
            let path = field_path(path, "primaryDisk.storageClassName");
            let text = "its region and zone could not be read in time; try again, or set both in \
                        virtualMachine.location";
            report.error(&path, ErrorKind::Invalid, text);
        }
        report
    }

    /// Region and zone of the object's StorageClass, until `deadline`; empty if they cannot be read.
    pub(crate) async fn topology(
        &self,
        new_object: NewObject<'_>,
        deadline: Instant,
    ) -> Option<(Option<String>, Option<String>)> {
        let path = FieldPath::new(new_object.at().path).child("cloudProviderSpec");
        let cloud = new_object.cloud()?;
        // Its errors are reported later.
        let usable = timeout_at(deadline, self.usable(cloud, &path)).await.ok()?.ok()?;
        let class = &usable.spec.primary_disk.storage_class;
        let found = self.preflight.topology(&usable.kubeconfig, class, deadline).await;
        found.ok()
    }

    /// `spec` of the object's instancetype, until `deadline`; `None` if it cannot be read.
    pub(crate) async fn instancetype(
        &self,
        new_object: NewObject<'_>,
        wanted: &Matcher,
        deadline: Instant,
    ) -> Option<Value> {
        let path = FieldPath::new(new_object.at().path).child("cloudProviderSpec");
        let cloud = new_object.cloud()?;
        // Its errors are reported later.
        let usable = timeout_at(deadline, self.usable(cloud, &path)).await.ok()?.ok()?;
        let namespace = &self.env.infra_namespace;
        let found = self
            .preflight
            .instancetype(&usable.kubeconfig, namespace, wanted, deadline);
        found.await.ok()?
    }

    fn unreachable(&self, new_object: NewObject<'_>, path: &FieldPath, why: &str) -> Report {
        let mut report = Report::new();
        let path = path.child("auth").child("kubeconfig");
        let text = format!(
            "the infra cluster could not be asked ({why}), so the objects that the spec names were not checked"
        );
        match self.ask.unreachable {
            _ if new_object.must => {
                let text = format!(
                    "{text}, and the region and zone of its disks are unknown; try again, or set both in \
                     virtualMachine.location"
                );
                report.error(&path, ErrorKind::Invalid, text);
            }
            UnreachablePolicy::Refuse => {
                report.error(&path, ErrorKind::Invalid, format!("{text}; try again"));
            }
            UnreachablePolicy::Warn | UnreachablePolicy::Off => report.warn(&path, text),
        }
        report
    }

    /// The results until `deadline`, and why they are incomplete.
    async fn ask(
        &self,
        new_object: NewObject<'_>,
        path: &FieldPath,
        deadline: Instant,
    ) -> (Report, Option<String>) {
        let mut report = Report::new();
        let Some(cloud) = new_object.cloud() else {
            return (report, None);
        };
        let usable = match timeout_at(deadline, self.usable(cloud, path)).await {
            Ok(Ok(usable)) => usable,
            Ok(Err(Unusable::Wrong(wrong))) => return (wrong, None),
            Ok(Err(Unusable::Unknown(why))) => return (report, Some(why)),
            Err(_) => {
                return (
                    report,
                    Some("the objects that it references could not be read in time".to_owned()),
                );
            }
        };
        report.warnings.extend(usable.findings.warnings.iter().cloned());
        let machine = new_object.at() == ValueAt::MACHINE;
        let metadata = if machine {
            "metadata"
        } else {
            "spec.template.metadata"
        };
        let pointer = format!("/{}", metadata.replace('.', "/"));
        let texts = |field: &str| string_map(new_object.object().pointer(&format!("{pointer}/{field}")));
        let (labels, annotations) = (texts("labels"), texts("annotations"));
        let name = new_object
            .object()
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or("machine");
        let set = new_object.object().pointer("/kind").and_then(Value::as_str) == Some("MachineSet");
        // Machines of a MachineSet have its name, truncated by the API server.
        let name = if set { start_of(name, GENERATED) } else { name };
        let question = PreflightRequest {
            kubeconfig: &usable.kubeconfig,
            namespace: &self.env.infra_namespace,
            name,
            labels: &labels,
            annotations: &annotations,
            machine_deployment: (!machine && !set).then_some(name),
            spec: &usable.spec,
            replicas: if machine {
                1
            } else {
                pool::added(new_object.old, new_object.object())
            },
            secrets: match usable.source {
                // It does not belong to authors of specs.
                KubeconfigSource::Environment => SecretDisclosure::Hidden,
                _ => new_object.secrets,
            },
            ignition: reads_ignition(new_object.subject.config())
                .then(|| FieldPath::new(new_object.at().path).child("operatingSystem")),
            path: path.clone(),
            metadata: FieldPath::new(metadata),
        };
        let answer = self.preflight.ask(&question, deadline).await;
        let server = usable.kubeconfig.server();
        (
            answer.report,
            answer.unreachable.map(|why| format!("{server}: {why}")),
        )
    }

    async fn usable(&self, cloud: &CloudProviderSpec, path: &FieldPath) -> Result<Usable, Unusable> {
        let references = self.read(cloud.references()).await;
        let lookup = |key: &KeyRef| match references.get(&named(key)) {
            Some(Ok(data)) => data.get(&key.key).cloned().ok_or(LookupError::NoKey),
            Some(Err(error)) => Err(error.clone()),
            None => Err(LookupError::Unavailable("it was not read".to_owned())),
        };
        let judged = validate::referred(cloud, self.env.overridden(), path, &lookup);
        if !judged.is_ok() {
            return Err(Unusable::Wrong(judged));
        }
        let unusable = |error: Unresolved| {
            use machinist_shared::api::config_var::ResolveError;
            match &error {
                Unresolved::Reference {
                    error:
                        ResolveError::Lookup {
                            cause: LookupError::Unavailable(_),
                            ..
                        },
                    ..
                } => Unusable::Unknown(error.to_string()),
                Unresolved::Reference { field, error } => {
                    let kind = match error {
                        ResolveError::Lookup { .. } => ErrorKind::NotFound,
                        ResolveError::NotBoolean(_) => ErrorKind::Invalid,
                    };
                    Unusable::wrong(&field_path(path, field), kind, error.to_string())
                }
                Unresolved::Unusable { field, why } => Unusable::wrong(
                    &field_path(path, field),
                    ErrorKind::Invalid,
                    format!("the value {why}"),
                ),
                // Reported where values are validated.
                other => Unusable::wrong(path, ErrorKind::Invalid, other.to_string()),
            }
        };
        let spec = resolved::resolve(cloud, &self.env, &lookup).map_err(unusable)?;
        let found = provider::kubeconfig(&cloud.kubeconfig, &self.env, &lookup).map_err(unusable)?;
        let kubeconfig = InfraKubeconfig::parse(found.text.expose(), self.policy).map_err(|error| {
            Unusable::wrong(
                &field_path(path, "auth.kubeconfig"),
                ErrorKind::Invalid,
                error.to_string(),
            )
        })?;
        Ok(Usable {
            spec,
            kubeconfig,
            source: found.source,
            findings: judged,
        })
    }

    /// The referenced objects, each read once. The permission of the author was checked before.
    async fn read(&self, keys: Vec<&KeyRef>) -> BTreeMap<Object, Result<Data, LookupError>> {
        let mut objects: Vec<Object> = keys.into_iter().map(named).collect();
        objects.sort();
        objects.dedup();
        let data = future::join_all(objects.iter().map(|object| self.read_one(object))).await;
        objects.into_iter().zip(data).collect()
    }

    async fn read_one(&self, (kind, namespace, name): &Object) -> Result<Data, LookupError> {
        let read = match kind {
            RefKind::Secret => {
                let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
                let texts = |secret: Secret| {
                    let data = secret.data.unwrap_or_default().into_iter();
                    data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned()))
                        .collect()
                };
                api.get(name).await.map(texts)
            }
            RefKind::ConfigMap => {
                let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
                let texts = |map: ConfigMap| map.data.unwrap_or_default().into_iter().collect();
                api.get(name).await.map(texts)
            }
        };
        read.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 404 => LookupError::NoObject,
            error => LookupError::Unavailable(RemoteError::from(&error).to_string()),
        })
    }
}

/// Maximum length of a `generateName` in a name.
const GENERATED: usize = 58;

/// The first `length` bytes of an ASCII name.
fn start_of(name: &str, length: usize) -> &str {
    name.get(..length).unwrap_or(name)
}

/// Whether Ignition reads the user data.
fn reads_ignition(config: &ProviderConfig) -> bool {
    let spec = config.operating_system_spec.as_ref();
    config.operating_system == Some(OperatingSystem::Flatcar)
        && spec.is_none_or(|spec| spec["provisioningUtility"] != "cloud-init")
}

/// A Secret or ConfigMap: kind, namespace, name.
type Object = (RefKind, String, String);
type Data = BTreeMap<String, String>;

fn named(key: &KeyRef) -> Object {
    (key.kind, key.namespace.clone(), key.name.clone())
}

fn string_map(value: Option<&Value>) -> BTreeMap<String, String> {
    let fields = value.and_then(Value::as_object).into_iter().flatten();
    fields
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// The full path of a field in an error of resolving.
fn field_path(spec: &FieldPath, field: &str) -> FieldPath {
    let of_vm = ["dnsPolicy", "dnsConfig", "enableNetworkMultiQueue"];
    let of_template = ["primaryDisk", "secondaryDisks", "cpus", "memory", "vcpus"];
    let first = field.split('.').next().unwrap_or_default();
    let base = if of_template.contains(&first) {
        spec.child("virtualMachine").child("template")
    } else if of_vm.contains(&first) {
        spec.child("virtualMachine")
    } else {
        spec.clone()
    };
    field.split('.').fold(base, |path, part| path.child(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_leads_to_the_field() {
        let path = |field| field_path(&FieldPath::new("c"), field).to_string();
        assert_eq!(path("auth.kubeconfig"), "c.auth.kubeconfig");
        assert_eq!(path("clusterName"), "c.clusterName");
        assert_eq!(
            path("primaryDisk.size"),
            "c.virtualMachine.template.primaryDisk.size"
        );
        assert_eq!(path("dnsPolicy"), "c.virtualMachine.dnsPolicy");
    }
}
