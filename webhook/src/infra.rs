//! What the infra cluster says of a spec: asked once everything that can be known without it is right, and only of what
//! a person makes or changes.

use std::collections::BTreeMap;

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

/// What comes of an infra cluster that cannot be asked in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unreachable {
    /// A warning.
    Warn,
    /// The object is refused.
    Refuse,
    /// No infra cluster is ever asked.
    Off,
}

/// Asks the infra clusters of specs.
pub struct Infra {
    /// Of the user cluster, for what specs refer to.
    client: Client,
    preflight: Preflight,
    env: Env,
    policy: AddressPolicy,
    unreachable: Unreachable,
}

impl std::fmt::Debug for Infra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Infra")
            .field("unreachable", &self.unreachable)
            .finish_non_exhaustive()
    }
}

/// What is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) subject: &'a Subject<'a>,
    /// What is stored now, if it is an update.
    pub(crate) old: Option<&'a Value>,
    /// Whether the author may read the kubeconfig.
    pub(crate) secrets: SecretDisclosure,
    /// Whether the infra cluster must be asked, or the object lacks something that belongs to it.
    pub(crate) must: bool,
}

impl<'a> Asked<'a> {
    fn object(self) -> &'a Value {
        self.subject.object()
    }

    fn at(self) -> ValueAt {
        self.subject.at()
    }

    /// The KubeVirt provider's part of the spec: others are not asked at admission. What is wrong with it is told
    /// elsewhere.
    fn cloud(self) -> Option<&'a CloudProviderSpec> {
        self.subject.config().cloud_provider_spec.as_ref()?.of()
    }
}

/// A spec that can be asked for.
struct Usable {
    spec: resolved::ResolvedSpec,
    kubeconfig: InfraKubeconfig,
    source: KubeconfigSource,
    /// What its author is told of what it refers to.
    told: Report,
}

/// Why it cannot.
enum Unusable {
    /// The author can mend it.
    Wrong(Report),
    /// Nobody knows; what was to be read.
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
    /// Asks with clients of these options; nothing if nobody is to be asked.
    pub fn new(
        client: Client,
        options: ClientOptions,
        env: Env,
        policy: AddressPolicy,
        unreachable: Unreachable,
    ) -> Option<Self> {
        (unreachable != Unreachable::Off).then(|| Self {
            client,
            preflight: Preflight::new(options),
            env,
            policy,
            unreachable,
        })
    }

    /// Errors and warnings of the infra cluster, by the fields of the spec, before `deadline`.
    pub(crate) async fn check(&self, asked: Asked<'_>, deadline: Instant) -> Report {
        let path = FieldPath::new(asked.at().path).child("cloudProviderSpec");
        let (report, unreachable) = self.ask(asked, &path, deadline).await;
        let mut report = match asked.old {
            Some(old) => stored::downgrade(report, old, asked.object()),
            None => report,
        };
        match unreachable {
            Some(why) => report.extend(self.unreachable(asked, &path, &why)),
            None if asked.must && report.is_ok() => {
                report.extend(self.check_topology(asked, &path, deadline).await);
            }
            None => {}
        }
        report
    }

    /// An error if region and zone could not be had when the object got its defaults.
    async fn check_topology(&self, asked: Asked<'_>, path: &FieldPath, deadline: Instant) -> Report {
        let mut report = Report::new();
        let found = Box::pin(self.topology(asked, deadline)).await;
        if found.is_none_or(|found| !topology::is_written(asked.object(), asked.at(), found)) {
            let path = field_path(path, "primaryDisk.storageClassName");
            let text = "its region and zone could not be read in time; try again, or set both in \
                        virtualMachine.location";
            report.error(&path, ErrorKind::Invalid, text);
        }
        report
    }

    /// Region and zone of the StorageClass that the object names, before `deadline`; nothing if they are not to be had.
    pub(crate) async fn topology(
        &self,
        asked: Asked<'_>,
        deadline: Instant,
    ) -> Option<(Option<String>, Option<String>)> {
        let path = FieldPath::new(asked.at().path).child("cloudProviderSpec");
        let cloud = asked.cloud()?;
        // What is wrong with it will be told.
        let usable = timeout_at(deadline, self.usable(cloud, &path)).await.ok()?.ok()?;
        let class = &usable.spec.primary_disk.storage_class;
        let found = self.preflight.topology(&usable.kubeconfig, class, deadline).await;
        found.ok()
    }

    /// `spec` of an instancetype that the object names, before `deadline`; nothing if it is not to be had.
    pub(crate) async fn instancetype(
        &self,
        asked: Asked<'_>,
        wanted: &Matcher,
        deadline: Instant,
    ) -> Option<Value> {
        let path = FieldPath::new(asked.at().path).child("cloudProviderSpec");
        let cloud = asked.cloud()?;
        // What is wrong with it will be told.
        let usable = timeout_at(deadline, self.usable(cloud, &path)).await.ok()?.ok()?;
        let namespace = &self.env.infra_namespace;
        let found = self
            .preflight
            .instancetype(&usable.kubeconfig, namespace, wanted, deadline);
        found.await.ok()?
    }

    fn unreachable(&self, asked: Asked<'_>, path: &FieldPath, why: &str) -> Report {
        let mut report = Report::new();
        let path = path.child("auth").child("kubeconfig");
        let text = format!(
            "the infra cluster could not be asked ({why}), so the objects that the spec names were not checked"
        );
        match self.unreachable {
            _ if asked.must => {
                let text = format!(
                    "{text}, and the region and zone of its disks are unknown; try again, or set both in \
                     virtualMachine.location"
                );
                report.error(&path, ErrorKind::Invalid, text);
            }
            Unreachable::Refuse => report.error(&path, ErrorKind::Invalid, format!("{text}; try again")),
            Unreachable::Warn | Unreachable::Off => report.warn(&path, text),
        }
        report
    }

    /// What is known by `deadline`, and why that is not all.
    async fn ask(&self, asked: Asked<'_>, path: &FieldPath, deadline: Instant) -> (Report, Option<String>) {
        let mut report = Report::new();
        let Some(cloud) = asked.cloud() else {
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
        report.warnings.extend(usable.told.warnings.iter().cloned());
        let machine = asked.at() == ValueAt::MACHINE;
        let metadata = if machine {
            "metadata"
        } else {
            "spec.template.metadata"
        };
        let pointer = format!("/{}", metadata.replace('.', "/"));
        let texts = |field: &str| string_map(asked.object().pointer(&format!("{pointer}/{field}")));
        let (labels, annotations) = (texts("labels"), texts("annotations"));
        let name = asked
            .object()
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or("machine");
        let set = asked.object().pointer("/kind").and_then(Value::as_str) == Some("MachineSet");
        // Machines of a set bear its name, as far as the API server lets them.
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
                pool::added(asked.old, asked.object())
            },
            secrets: match usable.source {
                // It is nobody's who writes specs.
                KubeconfigSource::Environment => SecretDisclosure::Hidden,
                _ => asked.secrets,
            },
            ignition: reads_ignition(asked.subject.config())
                .then(|| FieldPath::new(asked.at().path).child("operatingSystem")),
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
                // Told where values are judged.
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
            told: judged,
        })
    }

    /// What the spec refers to, each object read once. Its author may read it: that was asked before.
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

/// How much of a `generateName` the API server keeps.
const GENERATED: usize = 58;

/// At most `length` bytes, of a name that is ASCII.
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

/// The path of a field that resolving names in short.
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
