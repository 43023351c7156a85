//! The namespaces of infra clusters to search, with their credentials.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use machinist_infra::kube::client::{ClientOptions, infra_client, kubectl_client};
use machinist_infra::kube::error::RemoteError;
use machinist_infra::kube::kubeconfig::InfraKubeconfig;
use machinist_infra::kube::user_cluster::KubectlCluster;
use machinist_shared::api::config_var::{KeyRef, LookupError, RefKind};
use machinist_shared::api::count::counted;
use machinist_shared::provider::{self, Env, raw_or_base64};
use serde::Serialize;

use crate::flags::{ClusterFlags, SecretKey};
use crate::machines::Machine;

/// A namespace of an infra cluster.
#[derive(Clone)]
pub struct InfraNamespace {
    /// URL of the API server.
    pub server: String,
    /// The namespace.
    pub namespace: String,
    /// A client for each of its credentials, whose permissions may differ. There is at least one.
    pub clients: Vec<Client>,
}

impl std::fmt::Display for InfraNamespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "namespace {} of {}", self.namespace, self.server)
    }
}

impl InfraNamespace {
    /// Tries one credential after the other, until one is accepted.
    pub async fn ask<T>(
        &self,
        ask: impl AsyncFn(Client) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let mut refused = RemoteError::other("there is no credential");
        for client in &self.clients {
            match ask(client.clone()).await {
                Err(error) if error.is_refusal() => refused = error,
                answered => return answered,
            }
        }
        Err(refused)
    }
}

/// A part that could not be searched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Skipped {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// The namespaces to search, and the parts that cannot be searched.
#[derive(Default)]
pub struct Found {
    /// Each namespace once.
    pub infra_namespaces: Vec<InfraNamespace>,
    /// Credentials that cannot be used.
    pub unseen: Vec<Skipped>,
}

/// Determines the namespaces to search.
pub async fn find(
    flags: &ClusterFlags,
    user: &Client,
    machines: &[Machine],
    options: &ClientOptions,
) -> anyhow::Result<Found> {
    let found = if let Some(path) = &flags.infra_kubeconfig {
        of_file(path, &namespaces(flags, machines)?, options).await?
    } else if let Some(secret) = &flags.infra_secret {
        of_secret(user, secret, &namespaces(flags, machines)?, options).await?
    } else {
        of_machines(user, &flags.infra_namespace, machines, options).await
    };
    if found.infra_namespaces.is_empty() && found.unseen.is_empty() {
        bail!(
            "no Machine names an infra cluster: set its kubeconfig with --infra-kubeconfig or --infra-secret, \
             and the namespace with --infra-namespace"
        );
    }
    Ok(found)
}

/// The namespaces in the flags, otherwise all that Machines have recorded.
fn namespaces(flags: &ClusterFlags, machines: &[Machine]) -> anyhow::Result<BTreeSet<String>> {
    let mut namespaces: BTreeSet<String> = flags.infra_namespace.iter().cloned().collect();
    if namespaces.is_empty() {
        namespaces.extend(
            machines
                .iter()
                .filter_map(|machine| machine.infra_namespace.clone()),
        );
    }
    if namespaces.is_empty() {
        bail!("no Machine names the namespace of VMs: set it with --infra-namespace");
    }
    Ok(namespaces)
}

async fn of_file(
    path: &Path,
    namespaces: &BTreeSet<String>,
    options: &ClientOptions,
) -> anyhow::Result<Found> {
    let cluster = KubectlCluster {
        kubeconfig: Some(path),
        context: None,
    };
    let (client, server) = kubectl_client(cluster, options)
        .await
        .with_context(|| format!("--infra-kubeconfig {}", path.display()))?;
    Ok(everywhere(&client, &server, namespaces))
}

async fn of_secret(
    user: &Client,
    of: &SecretKey,
    namespaces: &BTreeSet<String>,
    options: &ClientOptions,
) -> anyhow::Result<Found> {
    let SecretKey { namespace, name, key } = of;
    let reference = KeyRef {
        kind: RefKind::Secret,
        namespace: namespace.clone(),
        name: name.clone(),
        key: key.clone(),
    };
    let what = || format!("--infra-secret: {reference}");
    let mut data = read(user, RefKind::Secret, namespace, name)
        .await
        .with_context(what)?;
    let text = data.remove(key).ok_or(LookupError::NoKey).with_context(what)?;
    let kubeconfig = InfraKubeconfig::parse(&raw_or_base64(text), options.addresses).with_context(what)?;
    let client = infra_client(&kubeconfig, options).await.with_context(what)?;
    Ok(everywhere(&client, kubeconfig.server(), namespaces))
}

fn everywhere(client: &Client, server: &str, namespaces: &BTreeSet<String>) -> Found {
    let infra_namespace = |namespace: &String| InfraNamespace {
        server: server.to_owned(),
        namespace: namespace.clone(),
        clients: vec![client.clone()],
    };
    Found {
        infra_namespaces: namespaces.iter().map(infra_namespace).collect(),
        unseen: Vec::new(),
    }
}

/// Referenced values, by object.
type Referenced = HashMap<(RefKind, String, String), Result<BTreeMap<String, String>, LookupError>>;

/// ClusterFlags by server, CA and namespace, each with its credentials by their digest.
type ByKey = BTreeMap<(String, String, String), BTreeMap<String, InfraKubeconfig>>;

/// The namespaces of the Machines' credentials, resolved like in the controller.
async fn of_machines(
    user: &Client,
    named: &[String],
    machines: &[Machine],
    options: &ClientOptions,
) -> Found {
    let namespaces_of = |machine: &Machine| -> Vec<String> {
        if named.is_empty() {
            machine.infra_namespace.iter().cloned().collect()
        } else {
            named.to_vec()
        }
    };
    // Without a record, it never had a VM.
    let placed: Vec<_> = machines
        .iter()
        .map(|machine| (machine, namespaces_of(machine)))
        .filter(|(_, namespaces)| !namespaces.is_empty())
        .collect();
    let referenced = referenced(user, placed.iter().map(|(machine, _)| *machine)).await;
    let lookup = |key: &KeyRef| {
        let object = (key.kind, key.namespace.clone(), key.name.clone());
        let data = referenced.get(&object).ok_or(LookupError::NoObject)?;
        let value = data.as_ref().map_err(Clone::clone)?.get(&key.key);
        value.cloned().ok_or(LookupError::NoKey)
    };

    let (mut parsed, mut by_key, mut failed) = (HashMap::new(), ByKey::new(), Failed::default());
    for (machine, namespaces) in placed {
        let text = match provider::kubeconfig(&machine.credential, &Env::default(), &lookup) {
            Ok(kubeconfig) => kubeconfig.text,
            Err(error) => {
                failed.add(error.to_string(), machine);
                continue;
            }
        };
        let read = parsed.entry(text.expose().to_owned()).or_insert_with(|| {
            InfraKubeconfig::parse(text.expose(), options.addresses).map_err(|error| error.to_string())
        });
        match read {
            Err(why) => failed.add(format!("auth.kubeconfig: {why}"), machine),
            Ok(kubeconfig) => {
                let (server, ca) = (kubeconfig.server().to_owned(), kubeconfig.ca_digest());
                for namespace in namespaces {
                    let infra_namespace = by_key.entry((server.clone(), ca.clone(), namespace)).or_default();
                    infra_namespace.insert(kubeconfig.credential_digest(), kubeconfig.clone());
                }
            }
        }
    }
    let mut found = connect(by_key, options).await;
    found.unseen.extend(failed.skipped());
    found
}

async fn referenced<'a>(user: &Client, machines: impl Iterator<Item = &'a Machine>) -> Referenced {
    let references = machines.filter_map(|machine| machine.credential.reference());
    let objects: BTreeSet<_> = references
        .map(|key| (key.kind, key.namespace.clone(), key.name.clone()))
        .collect();
    let read = objects.into_iter().map(|object| async move {
        let (kind, namespace, name) = &object;
        let data = read(user, *kind, namespace, name).await;
        (object, data)
    });
    futures::future::join_all(read).await.into_iter().collect()
}

/// Data of a Secret or ConfigMap, as text; binary keys are skipped.
async fn read(
    user: &Client,
    kind: RefKind,
    namespace: &str,
    name: &str,
) -> Result<BTreeMap<String, String>, LookupError> {
    let unavailable = |error: kube::Error| LookupError::Unavailable(RemoteError::from(error).to_string());
    match kind {
        RefKind::Secret => {
            let api: Api<Secret> = Api::namespaced(user.clone(), namespace);
            let secret = api.get_opt(name).await.map_err(unavailable)?;
            let data = secret.ok_or(LookupError::NoObject)?.data.unwrap_or_default();
            let text = data
                .into_iter()
                .filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)));
            Ok(text.collect())
        }
        RefKind::ConfigMap => {
            let api: Api<ConfigMap> = Api::namespaced(user.clone(), namespace);
            let map = api.get_opt(name).await.map_err(unavailable)?;
            Ok(map.ok_or(LookupError::NoObject)?.data.unwrap_or_default())
        }
    }
}

async fn connect(by_key: ByKey, options: &ClientOptions) -> Found {
    let (mut found, mut clients) = (Found::default(), HashMap::new());
    for ((server, _, namespace), credentials) in by_key {
        let mut infra_namespace = InfraNamespace {
            server,
            namespace,
            clients: Vec::new(),
        };
        for (digest, kubeconfig) in credentials {
            if !clients.contains_key(&digest) {
                let client = infra_client(&kubeconfig, options).await;
                clients.insert(digest.clone(), client.map_err(|error| error.to_string()));
            }
            match &clients[&digest] {
                Ok(client) => infra_namespace.clients.push(client.clone()),
                Err(why) => found.unseen.push(Skipped {
                    what: infra_namespace.to_string(),
                    why: why.clone(),
                }),
            }
        }
        if !infra_namespace.clients.is_empty() {
            found.infra_namespaces.push(infra_namespace);
        }
    }
    found
}

/// Machines with an unusable credential, by reason.
#[derive(Debug, Default)]
struct Failed(BTreeMap<String, Vec<String>>);

/// Maximum number of names.
const NAMED: usize = 3;

impl Failed {
    fn add(&mut self, why: String, machine: &Machine) {
        let name = format!("{}/{}", machine.namespace, machine.name);
        self.0.entry(why).or_default().push(name);
    }

    fn skipped(self) -> impl Iterator<Item = Skipped> {
        self.0.into_iter().map(|(why, machines)| {
            let (named, others) = machines.split_at(machines.len().min(NAMED));
            let others = match others.len() {
                0 => String::new(),
                count => format!(" and of {}", counted(count, "other")),
            };
            Skipped {
                what: format!("the infra cluster of Machine {}{others}", named.join(", ")),
                why: format!("{why}; set a kubeconfig with --infra-kubeconfig or --infra-secret"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, infra_namespace: Option<&str>) -> Machine {
        Machine {
            namespace: "ns".to_owned(),
            name: name.to_owned(),
            infra_namespace: infra_namespace.map(str::to_owned),
            ..Machine::default()
        }
    }

    #[test]
    fn namespaces_are_those_of_the_flags_or_else_of_the_records() {
        let machines = [
            machine("a", Some("vms")),
            machine("b", None),
            machine("c", Some("vms")),
        ];
        let mut flags = ClusterFlags::default();
        assert_eq!(namespaces(&flags, &machines).unwrap(), ["vms".to_owned()].into());
        let error = namespaces(&flags, &machines[1..2]).unwrap_err();
        assert!(error.to_string().contains("--infra-namespace"), "{error}");
        flags.infra_namespace = vec!["old".to_owned()];
        assert_eq!(namespaces(&flags, &machines).unwrap(), ["old".to_owned()].into());
    }

    #[test]
    fn a_reason_is_reported_once_whatever_the_number_of_machines() {
        let mut failed = Failed::default();
        for name in ["a", "b", "c", "d", "e"] {
            failed.add("no".to_owned(), &machine(name, None));
        }
        let skipped: Vec<_> = failed.skipped().collect();
        assert_eq!(skipped.len(), 1);
        assert!(
            skipped[0].what.ends_with("ns/a, ns/b, ns/c and of 2 others"),
            "{skipped:?}"
        );
        assert!(skipped[0].why.contains("--infra-secret"), "{skipped:?}");
    }
}
