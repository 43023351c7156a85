//! The pure half: what a spec means.
//!
//! ```json
//! {"clusterName": "c", "auth": {"secretKeyRef": {…}}, "disks": 1}
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use machinist_shared::api::config_var::{ConfigVarString, KeyRef};
use machinist_shared::api::decode::Field;
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::api::names::label;
use machinist_shared::provider::machinist;
use machinist_shared::provider::{
    Cloud, Env, FailureDomain, InstanceParams, Lookup, Machinist, NodeCapacity, Opaque, Overridden, Provider,
    ResolvedProviderSpec, Secret, Spec, Unresolved,
};
use serde_json::{Map, Value, json};

use super::files::Stored;

/// What `cloudProvider` would call it.
pub const NAME: &str = "directory";

/// The provider.
#[derive(Debug, Clone, Copy)]
pub struct Directory;

/// Its part of a spec.
#[derive(Debug, Clone, Default)]
pub struct DirectorySpec {
    auth: ConfigVarString,
    cluster_name: ConfigVarString,
    disks: i64,
    machinist: Machinist,
}

/// A resolved spec.
#[derive(Debug, Clone, Default)]
pub struct ResolvedSpec {
    cluster_name: String,
    disks: usize,
    registry_credentials: Secret,
    ca_bundle: Secret,
}

/// Facts that the site publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The text of its file `region`.
    pub region: Option<String>,
}

impl Provider for Directory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn operating_systems(&self) -> &'static [&'static str] {
        &["ubuntu"]
    }

    fn add_defaults(
        &self,
        spec: &mut Map<String, Value>,
        _stored: Option<&Map<String, Value>>,
        _infra_namespace: &str,
    ) {
        // It follows from nothing outside of the spec, so what is stored does not matter.
        let site = ["providerSpec", "value", "cloudProviderSpec"]
            .into_iter()
            .try_fold(spec, |object, key| object.get_mut(key)?.as_object_mut());
        if let Some(site) = site {
            site.entry("disks").or_insert(json!(1));
        }
    }

    fn decode(&self, field: &Field<'_>, report: &mut Report) -> Option<Arc<dyn Spec>> {
        let mut fields = field.object(report)?;
        let site = DirectorySpec {
            auth: ConfigVarString::decode(&fields.take("auth"), report),
            cluster_name: ConfigVarString::decode(&fields.take("clusterName"), report),
            disks: fields.take("disks").integer(report).unwrap_or_default(),
            machinist: machinist::decode(&fields.take("machinist"), report),
        };
        fields.deny_unknown(report);
        Some(Arc::new(site))
    }

    fn validate_labels(
        &self,
        _keys: &mut dyn Iterator<Item = &str>,
        _path: &FieldPath,
        _report: &mut Report,
    ) {
    }

    fn cloud_config(&self, _cloud: &Cloud<'_>, _kubelet: &semver::Version) -> Secret {
        Secret::default()
    }
}

impl Spec for DirectorySpec {
    fn validate(&self, _overridden: Overridden, path: &FieldPath, report: &mut Report) {
        machinist::validate(&self.machinist, &path.child("machinist"), report);
        if !(0..=8).contains(&self.disks) {
            report.invalid(
                &path.child("disks"),
                format!("{} must be from 0 to 8", self.disks),
            );
        }
    }

    fn validate_name(&self, name: &str, path: &FieldPath, report: &mut Report) {
        if name.starts_with('.') {
            report.invalid(path, "must not begin with a dot: the directory would be hidden");
        }
    }

    fn references(&self) -> Vec<&KeyRef> {
        let own = self.auth.references().chain(self.cluster_name.references());
        own.chain(self.machinist.references()).collect()
    }

    fn credential(&self) -> &ConfigVarString {
        &self.auth
    }

    fn cluster_name(&self, env: &Env, lookup: &Lookup<'_>) -> Result<String, Unresolved> {
        machinist_shared::provider::cluster_name(&self.cluster_name, env, lookup)
    }

    fn resolve(&self, env: &Env, lookup: &Lookup<'_>) -> Result<Arc<dyn ResolvedProviderSpec>, Unresolved> {
        let secret = |field, var: &ConfigVarString| {
            let found = var
                .resolve(lookup)
                .map_err(|error| Unresolved::Reference { field, error });
            Ok(Secret::new(found?.unwrap_or_default()))
        };
        Ok(Arc::new(ResolvedSpec {
            cluster_name: self.cluster_name(env, lookup)?,
            disks: usize::try_from(self.disks).unwrap_or_default(),
            registry_credentials: secret(
                "machinist.registries.credentials",
                &self.machinist.registries.credentials,
            )?,
            ca_bundle: secret("machinist.caBundle", &self.machinist.ca_bundle)?,
        }))
    }

    fn canonical(&self) -> Option<Value> {
        Some(json!([
            self.auth.canonical(),
            self.cluster_name.canonical(),
            self.disks
        ]))
    }

    fn machinist(&self) -> &Machinist {
        &self.machinist
    }

    fn capacity(&self, _lookup: &Lookup<'_>, _instancetype: Option<&Value>) -> NodeCapacity {
        NodeCapacity::new()
    }
}

impl ResolvedProviderSpec for ResolvedSpec {
    fn cluster_name(&self) -> &str {
        &self.cluster_name
    }

    fn registry_credentials(&self) -> &Secret {
        &self.registry_credentials
    }

    fn ca_bundle(&self) -> &Secret {
        &self.ca_bundle
    }

    fn disks(&self, machine: &str) -> Vec<String> {
        (0..self.disks)
            .map(|index| format!("{machine}-{index}"))
            .collect()
    }

    fn facts_needed(&self) -> Opaque {
        Opaque::new(())
    }

    fn failure_domain(&self, facts: &Opaque) -> FailureDomain {
        FailureDomain {
            region: facts.of::<Facts>().and_then(|facts| facts.region.clone()),
            zone: None,
        }
    }

    fn render(&self, params: &InstanceParams<'_>, facts: &Opaque) -> Option<Value> {
        let region = facts.of::<Facts>()?.region.clone();
        let mut labels: BTreeMap<String, String> = params.labels.clone();
        let ours = [
            (label::MACHINE_UID, Some(params.uid.to_owned())),
            (label::CLUSTER_UID, Some(params.cluster_uid.to_owned())),
            (label::REGION, region),
        ];
        labels.extend(
            ours.into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?))),
        );
        Some(json!(Stored {
            name: params.name.to_owned(),
            labels,
            user_data: Some(params.user_data.to_owned()),
            disks: self.disks(params.name),
            ..Stored::default()
        }))
    }
}
