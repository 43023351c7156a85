//! What a Machine's spec says, with whatever it refers to: the spec itself, its credential, its cluster's name.

use std::collections::HashSet;
use std::sync::Arc;

use machinist_infra::cache::store::Key;
use machinist_shared::api::MachineSpec;
use machinist_shared::api::config_var::{ConfigVarString, KeyRef, LookupError, RefKind, ResolveError};
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::provider::{self, Kubeconfig, KubeconfigSource, Provider, Unresolved};
use machinist_shared::provider_spec::ProviderConfig;
use machinist_shared::providers;

use super::super::record::CredentialSource;
use super::Decoded;
use super::types::{ClusterName, Infra, Spec, Usable};
use crate::cache::{self, Reference, Referrer, SpecState, StoredMachine};
use crate::context::Context;

/// Looks up what the spec refers to, and notes it, so that its watches stay open.
pub(super) struct Sources<'a> {
    pub(super) context: &'a Context,
    pub(super) key: &'a Key,
    pub(super) references: std::cell::RefCell<HashSet<Reference>>,
}

impl Sources<'_> {
    pub(super) fn referrer(&self) -> Referrer {
        Referrer::Machine(self.key.clone())
    }

    pub(super) fn lookup(&self, key: &KeyRef) -> Result<String, LookupError> {
        self.references.borrow_mut().insert(key.into());
        self.context.references.value(key, &self.referrer())
    }

    /// The same; of an object that is gone, what it held when it was deleted. A namespace may go with the Secret by which
    /// the VMs of its Machines are reached.
    pub(super) fn lookup_parting(&self, key: &KeyRef) -> Result<String, LookupError> {
        match self.lookup(key) {
            Err(LookupError::NoObject) => {
                let parting = self.context.references.parting(&key.into());
                let value = parting.and_then(|mut data| data.remove(&key.key));
                value.ok_or(LookupError::NoObject)
            }
            looked => looked,
        }
    }

    pub(super) fn spec(&self, machine: &StoredMachine) -> (Spec, Option<Decoded>) {
        let spec = match &machine.spec {
            SpecState::Undecodable(why) => {
                return (Spec::Invalid(format!("the spec cannot be read: {why}")), None);
            }
            SpecState::Decoded(spec) => spec.as_ref().clone(),
        };
        let mut report = Report::new();
        let config = provider_config(&spec, &mut report);
        let Some(cloud) = config.cloud_provider_spec.as_ref().filter(|_| report.is_ok()) else {
            let causes: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
            return (Spec::Invalid(causes.join("; ")), None);
        };
        let resolved = match cloud.resolve(&self.context.env, &|key| self.lookup(key)) {
            Ok(resolved) => resolved,
            Err(error) => return (unresolved(&error), None),
        };
        let kubeconfig = provider::kubeconfig(cloud.credential(), &self.context.env, &|key| self.lookup(key));
        let credential = match kubeconfig {
            Ok(found) => Some(source(&found.source)),
            // A Machine with a VM may be reached through a newer credential of its MachineDeployment.
            Err(error) => match unresolved(&error) {
                Spec::ReferenceNotFound(_) => None,
                other => return (other, None),
            },
        };
        let usable = Usable {
            cluster_name: resolved.cluster_name().to_owned(),
            disks: resolved.disks(machine.name()),
            credential,
            node_metadata: spec.metadata.clone().unwrap_or_default(),
            taints: spec.taints.clone().unwrap_or_default(),
        };
        (
            Spec::Usable(Box::new(usable)),
            Some(Decoded {
                machine: spec,
                config,
                resolved,
            }),
        )
    }

    /// The cluster name alone, for a spec that cannot be used.
    pub(super) fn cluster_name(&self, machine: &StoredMachine) -> ClusterName {
        let env = &self.context.env;
        let name = cloud_spec_of(machine).map_or_else(
            || Ok(env.cluster_id.clone()),
            |cloud| cloud.cluster_name(env, &|key| self.lookup(key)),
        );
        match name {
            Ok(name) => ClusterName::Known(name),
            Err(error) if is_pending(&error) => ClusterName::Pending,
            Err(error) => ClusterName::Unreadable(error.to_string()),
        }
    }

    /// The credential: of the spec; for a deleting Machine first from where the record says, read leniently, because a
    /// spec that can no longer be read must not keep a VM alive.
    pub(super) fn kubeconfig(&self, machine: &StoredMachine) -> Result<Kubeconfig, Infra> {
        let recorded = machine
            .record
            .as_ref()
            .and_then(|record| record.credential.as_ref());
        let var = match (machine.is_deleting(), recorded) {
            (true, Some(CredentialSource::SecretKeyRef { namespace, name, key })) => {
                reference(RefKind::Secret, namespace, name, key)
            }
            (true, Some(CredentialSource::ConfigMapKeyRef { namespace, name, key })) => {
                reference(RefKind::ConfigMap, namespace, name, key)
            }
            (true, Some(CredentialSource::Environment)) => ConfigVarString::default(),
            _ => kubeconfig_of(machine),
        };
        let found = provider::kubeconfig(&var, &self.context.env, &|key| {
            if machine.is_deleting() {
                self.lookup_parting(key)
            } else {
                self.lookup(key)
            }
        });
        let fallback = |error: Unresolved| {
            let own = machine.is_deleting() && !self.context.env.kubeconfig.is_empty() && !is_pending(&error);
            let default = ConfigVarString::default();
            if own {
                provider::kubeconfig(&default, &self.context.env, &|_| Err(LookupError::NoObject))
            } else {
                Err(error)
            }
        };
        found.or_else(fallback).map_err(|error| {
            if is_pending(&error) {
                Infra::Connecting
            } else {
                Infra::NoCredential(error.to_string())
            }
        })
    }
}

fn reference(kind: RefKind, namespace: &str, name: &str, key: &str) -> ConfigVarString {
    let key = KeyRef {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    match kind {
        RefKind::Secret => ConfigVarString {
            secret_ref: Some(key),
            ..ConfigVarString::default()
        },
        RefKind::ConfigMap => ConfigVarString {
            config_map_ref: Some(key),
            ..ConfigVarString::default()
        },
    }
}

fn provider_config(spec: &MachineSpec, report: &mut Report) -> ProviderConfig {
    let value = spec
        .provider_spec
        .as_ref()
        .and_then(|provider| provider.value.as_ref());
    ProviderConfig::decode(value, &FieldPath::new("spec.providerSpec.value"), report)
}

/// The provider's part of a spec as far as it can be decoded, whatever else is wrong with it.
fn cloud_spec_of(machine: &StoredMachine) -> Option<Arc<dyn provider::Spec>> {
    let SpecState::Decoded(spec) = &machine.spec else {
        return None;
    };
    provider_config(spec, &mut Report::new()).cloud_provider_spec
}

/// What the spec calls the provider, as far as it can be decoded.
pub(super) fn provider_of(machine: &StoredMachine) -> Option<&'static str> {
    let SpecState::Decoded(spec) = &machine.spec else {
        return None;
    };
    providers::of(spec.provider_spec.as_ref()?.value.as_ref()).map(Provider::name)
}

fn kubeconfig_of(machine: &StoredMachine) -> ConfigVarString {
    cloud_spec_of(machine)
        .map(|cloud| cloud.credential().clone())
        .unwrap_or_default()
}

fn is_pending(error: &Unresolved) -> bool {
    matches!(error, Unresolved::Reference { error: ResolveError::Lookup { cause, .. }, .. } if cache::is_pending(cause))
}

fn unresolved(error: &Unresolved) -> Spec {
    match error {
        error if is_pending(error) => Spec::Waiting("a referenced Secret or ConfigMap".to_owned()),
        Unresolved::Reference { .. } | Unresolved::NoKubeconfig => Spec::ReferenceNotFound(error.to_string()),
        Unresolved::KubeconfigNotBase64 | Unresolved::Unusable { .. } => Spec::Invalid(error.to_string()),
    }
}

fn source(source: &KubeconfigSource) -> CredentialSource {
    match source {
        KubeconfigSource::Inline => CredentialSource::Inline,
        KubeconfigSource::Environment => CredentialSource::Environment,
        KubeconfigSource::Reference(key) => {
            let (namespace, name, text) = (key.namespace.clone(), key.name.clone(), key.key.clone());
            match key.kind {
                RefKind::Secret => CredentialSource::SecretKeyRef {
                    namespace,
                    name,
                    key: text,
                },
                RefKind::ConfigMap => CredentialSource::ConfigMapKeyRef {
                    namespace,
                    name,
                    key: text,
                },
            }
        }
    }
}
