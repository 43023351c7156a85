//! A spec whose every value is known: references looked up, environment applied, defaults of the provider filled in.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::PodDNSConfig;

use super::spec::{CloudProviderSpec, Matcher};
use crate::config_var::{ConfigValue, ConfigVar, KeyRef, LookupError, ResolveError};

/// The part of a process's environment that specs may fall back to. Webhook and controller must agree on it.
#[derive(Clone, Default)]
pub struct Env {
    /// `CLUSTER_ID`: wins over `clusterName` when not empty.
    pub cluster_id: String,
    /// `PROJECT_ID`: wins over `projectID` when not empty.
    pub project_id: String,
    /// `KUBEVIRT_KUBECONFIG`: used when the spec has no kubeconfig.
    pub kubeconfig: String,
    /// `POD_NAMESPACE`: namespace of the VMs on the infra cluster.
    pub infra_namespace: String,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("cluster_id", &self.cluster_id)
            .field("project_id", &self.project_id)
            .field("infra_namespace", &self.infra_namespace)
            .finish_non_exhaustive()
    }
}

impl Env {
    /// Takes the environment from `variable`, a look-up by name such as `|name| std::env::var(name).ok()`.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| variable(name).unwrap_or_default();
        let namespace = text("POD_NAMESPACE");
        Self {
            cluster_id: text("CLUSTER_ID"),
            project_id: text("PROJECT_ID"),
            kubeconfig: text("KUBEVIRT_KUBECONFIG"),
            infra_namespace: if namespace.is_empty() {
                "kube-system".to_owned()
            } else {
                namespace
            },
        }
    }
}

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Shows it; to be used, not printed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// Where a kubeconfig came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubeconfigSource {
    /// Written into the spec.
    Inline,
    /// A Secret's or ConfigMap's key.
    Reference(KeyRef),
    /// The process's environment.
    Environment,
}

/// A kubeconfig and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// The kubeconfig, YAML or JSON.
    pub text: Secret,
    /// Where it came from.
    pub source: KubeconfigSource,
}

/// Why a spec could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// A reference leads nowhere.
    #[error("{field}: {error}")]
    Reference {
        /// The field.
        field: &'static str,
        /// What is wrong.
        error: ResolveError,
    },
    /// An inline kubeconfig must be base64.
    #[error(
        "auth.kubeconfig: the inline value is not base64; encode the kubeconfig with `base64 -w0`, or refer to a Secret"
    )]
    KubeconfigNotBase64,
    /// No kubeconfig anywhere.
    #[error("auth.kubeconfig: there is none in the spec and none in the environment (KUBEVIRT_KUBECONFIG)")]
    NoKubeconfig,
}

/// A spec whose every value is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResolvedSpec {
    /// Value of the cluster-name labels.
    pub cluster_name: String,
    /// Value of the project label.
    pub project_id: String,
    /// Instancetype.
    pub instancetype: Option<Matcher>,
    /// Preference.
    pub preference: Option<Matcher>,
    /// vCPUs as cores, or 0.
    pub vcpu_cores: i64,
    /// CPUs, a quantity or empty.
    pub cpus: String,
    /// Memory, a quantity or empty.
    pub memory: String,
    /// The disk with the operating system.
    pub primary_disk: Disk,
    /// Its image.
    pub image: Image,
    /// Use `spec.pvc` instead of `spec.storage`.
    pub storage_target_pvc: bool,
    /// Further disks.
    pub secondary_disks: Vec<Disk>,
    /// DNS policy, or empty.
    pub dns_policy: String,
    /// DNS configuration.
    pub dns_config: Option<PodDNSConfig>,
    /// Region, or empty.
    pub region: String,
    /// Zone, or empty.
    pub zone: String,
    /// Subnet, or empty.
    pub subnet: String,
    /// Several queues per network interface.
    pub network_multi_queue: bool,
    /// Eviction strategy, or empty.
    pub eviction_strategy: String,
    /// Kind of the node affinity, lower case: `hard`, `soft` or empty.
    pub node_affinity: String,
    /// Its label key.
    pub node_affinity_key: String,
    /// Its label values.
    pub node_affinity_values: Vec<String>,
    /// Topology spread: skew, key, whenUnsatisfiable.
    pub topology_spread: Vec<(String, String, String)>,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Size, a quantity.
    pub size: String,
    /// StorageClass.
    pub storage_class: String,
    /// Access mode, or empty: from the StorageProfile.
    pub access_mode: String,
}

/// Where the operating system comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// URL, image or claim.
    pub location: String,
    /// `http`, `registry`, `pvc`, or anything else: guessed.
    pub source: String,
    /// `node`, `pod` or empty.
    pub pull_method: String,
    /// Secret on the infra cluster, or empty.
    pub secret: String,
    /// Headers.
    pub extra_headers: Vec<String>,
    /// Secret on the infra cluster with headers, or empty.
    pub extra_headers_secret: String,
}

/// Looks a reference up.
pub type Lookup<'a> = dyn Fn(&KeyRef) -> Result<String, LookupError> + 'a;

fn value<T: ConfigValue>(
    field: &'static str,
    var: &ConfigVar<T>,
    lookup: &Lookup<'_>,
) -> Result<Option<T>, Unresolved> {
    var.resolve(lookup)
        .map_err(|error| Unresolved::Reference { field, error })
}

/// Resolves everything but the kubeconfig.
pub fn resolve(spec: &CloudProviderSpec, env: &Env, lookup: &Lookup<'_>) -> Result<ResolvedSpec, Unresolved> {
    let text = |field, var: &ConfigVar<String>| Ok(value(field, var, lookup)?.unwrap_or_default());
    let or_env = |env: &str, field, var: &ConfigVar<String>| {
        if env.is_empty() {
            text(field, var)
        } else {
            Ok(env.to_owned())
        }
    };
    let vm = &spec.virtual_machine;
    let disk = &vm.primary_disk;
    let secondary = |d: &super::spec::SecondaryDisk| {
        Ok(Disk {
            size: text("secondaryDisks.size", &d.size)?,
            storage_class: text("secondaryDisks.storageClassName", &d.storage_class)?,
            access_mode: text("secondaryDisks.storageAccessType", &d.access_mode)?,
        })
    };
    Ok(ResolvedSpec {
        cluster_name: or_env(&env.cluster_id, "clusterName", &spec.cluster_name)?,
        project_id: or_env(&env.project_id, "projectID", &spec.project_id)?,
        instancetype: vm.instancetype.clone(),
        preference: vm.preference.clone(),
        vcpu_cores: vm.vcpu_cores,
        cpus: text("cpus", &vm.cpus)?,
        memory: text("memory", &vm.memory)?,
        primary_disk: Disk {
            size: text("primaryDisk.size", &disk.size)?,
            storage_class: text("primaryDisk.storageClassName", &disk.storage_class)?,
            access_mode: text("primaryDisk.storageAccessType", &disk.access_mode)?,
        },
        image: Image {
            location: text("primaryDisk.osImage", &disk.os_image)?,
            source: text("primaryDisk.source", &disk.source)?,
            pull_method: text("primaryDisk.pullMethod", &disk.pull_method)?,
            secret: text("primaryDisk.dataVolumeSecretRef", &disk.data_volume_secret)?,
            extra_headers: disk.extra_headers.clone(),
            extra_headers_secret: text("primaryDisk.extraHeadersSecretRef", &disk.extra_headers_secret)?,
        },
        storage_target_pvc: text("primaryDisk.storageTarget", &disk.storage_target)? == "pvc",
        secondary_disks: vm
            .secondary_disks
            .iter()
            .map(secondary)
            .collect::<Result<_, _>>()?,
        dns_policy: text("dnsPolicy", &vm.dns_policy)?,
        dns_config: vm.dns_config.clone(),
        region: vm.region.clone(),
        zone: vm.zone.clone(),
        subnet: vm.subnet.clone(),
        network_multi_queue: value("enableNetworkMultiQueue", &vm.network_multi_queue, lookup)?
            .unwrap_or(true),
        eviction_strategy: vm.eviction_strategy.clone(),
        node_affinity: text("nodeAffinityPreset.type", &spec.node_affinity.kind)?.to_lowercase(),
        node_affinity_key: text("nodeAffinityPreset.key", &spec.node_affinity.key)?,
        node_affinity_values: spec
            .node_affinity
            .values
            .iter()
            .map(|var| text("nodeAffinityPreset.values", var))
            .collect::<Result<_, _>>()?,
        topology_spread: spec
            .topology_spread
            .iter()
            .map(|t| {
                Ok((
                    text("topologySpreadConstraints.maxSkew", &t.max_skew)?,
                    text("topologySpreadConstraints.topologyKey", &t.topology_key)?,
                    text(
                        "topologySpreadConstraints.whenUnsatisfiable",
                        &t.when_unsatisfiable,
                    )?,
                ))
            })
            .collect::<Result<_, Unresolved>>()?,
    })
}

/// The kubeconfig of a spec. An inline value wins over a reference and must be base64; what a reference or the
/// environment holds may be raw or base64. A reference that fails is an error and never falls through.
pub fn kubeconfig(var: &ConfigVar<String>, env: &Env, lookup: &Lookup<'_>) -> Result<Kubeconfig, Unresolved> {
    if let Some(inline) = var.value.as_deref().filter(|text| !text.is_empty()) {
        let text = decode_base64(inline).ok_or(Unresolved::KubeconfigNotBase64)?;
        return Ok(Kubeconfig {
            text: Secret(text),
            source: KubeconfigSource::Inline,
        });
    }
    if let Some(reference) = var.reference() {
        let text = value("auth.kubeconfig", var, lookup)?.unwrap_or_default();
        if !text.is_empty() {
            let source = KubeconfigSource::Reference(reference.clone());
            return Ok(Kubeconfig {
                text: Secret(raw_or_base64(text)),
                source,
            });
        }
    }
    if env.kubeconfig.is_empty() {
        return Err(Unresolved::NoKubeconfig);
    }
    let text = raw_or_base64(env.kubeconfig.clone());
    Ok(Kubeconfig {
        text: Secret(text),
        source: KubeconfigSource::Environment,
    })
}

/// Decodes a text that is base64 for certain.
pub fn decode_base64(text: &str) -> Option<String> {
    let compact: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    String::from_utf8(STANDARD.decode(compact).ok()?).ok()
}

/// A text that may be base64 or not.
pub fn raw_or_base64(text: String) -> String {
    decode_base64(&text).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_var::RefKind;

    fn reference() -> KeyRef {
        KeyRef {
            kind: RefKind::Secret,
            namespace: "n".into(),
            name: "s".into(),
            key: "k".into(),
        }
    }

    fn env(kubeconfig: &str) -> Env {
        Env::new(|name| (name == "KUBEVIRT_KUBECONFIG").then(|| kubeconfig.to_owned()))
    }

    #[test]
    fn an_inline_kubeconfig_wins_and_must_be_base64() {
        let var = ConfigVar {
            value: Some("YWJj\n".to_owned()),
            secret_ref: Some(reference()),
            config_map_ref: None,
        };
        let found = kubeconfig(&var, &env("other"), &|_| Ok("secret".into())).unwrap();
        assert_eq!(
            (found.text.expose(), found.source),
            ("abc", KubeconfigSource::Inline)
        );
        let raw = ConfigVar::literal("apiVersion: v1".to_owned());
        assert_eq!(
            kubeconfig(&raw, &env(""), &|_| Ok(String::new())),
            Err(Unresolved::KubeconfigNotBase64)
        );
    }

    #[test]
    fn a_reference_may_be_raw_or_base64_and_never_falls_through_when_it_fails() {
        let var = ConfigVar {
            value: None,
            secret_ref: Some(reference()),
            config_map_ref: None,
        };
        let raw = kubeconfig(&var, &env(""), &|_| Ok("apiVersion: v1".into())).unwrap();
        assert_eq!(raw.text.expose(), "apiVersion: v1");
        let encoded = kubeconfig(&var, &env(""), &|_| Ok("YWJj".into())).unwrap();
        assert_eq!(encoded.text.expose(), "abc");
        let lost = kubeconfig(&var, &env("fallback"), &|_| Err(LookupError::NoObject));
        assert!(matches!(
            lost,
            Err(Unresolved::Reference {
                field: "auth.kubeconfig",
                ..
            })
        ));
    }

    #[test]
    fn without_one_the_environment_is_used_and_nothing_shows_it() {
        let found = kubeconfig(&ConfigVar::default(), &env("apiVersion: v1"), &|_| {
            Ok(String::new())
        })
        .unwrap();
        assert_eq!(found.source, KubeconfigSource::Environment);
        assert!(!format!("{found:?} {:?}", env("hush")).contains("apiVersion"));
        assert!(!format!("{:?}", env("hush")).contains("hush"));
    }

    #[test]
    fn the_environment_wins_over_the_cluster_name() {
        let spec = CloudProviderSpec {
            cluster_name: ConfigVar::literal("spec".into()),
            ..CloudProviderSpec::default()
        };
        let env = Env::new(|name| (name == "CLUSTER_ID").then(|| "env".to_owned()));
        let resolved = resolve(&spec, &env, &|_| Ok(String::new())).unwrap();
        assert_eq!(
            (resolved.cluster_name.as_str(), resolved.network_multi_queue),
            ("env", true)
        );
        assert_eq!(env.infra_namespace, "kube-system");
    }
}
