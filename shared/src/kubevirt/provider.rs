//! KubeVirt's implementation of [`crate::provider`].

use std::sync::Arc;

use semver::Version;
use serde_json::{Map, Value};

use super::facts::{Facts, facts_needed};
use super::render::{RenderInput, disk_names, render};
use super::resolved::{self, ResolvedSpec};
use super::spec::{self, CloudProviderSpec};
use super::{NAME, canonical, capacity, cloud_config, defaults, validate};
use crate::api::config_var::{ConfigVarString, KeyRef};
use crate::api::decode::Field;
use crate::api::field::{FieldPath, Report};
use crate::provider::{
    self, Cloud, Env, FailureDomain, InstanceParams, Lookup, MachineOwnerKind, Machinist, NodeCapacity,
    Opaque, Overridden, Provider, ResolvedProviderSpec, Secret, Spec, Unresolved,
};

/// KubeVirt.
#[derive(Debug, Clone, Copy)]
pub struct KubeVirt;

impl Provider for KubeVirt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn operating_systems(&self) -> &'static [&'static str] {
        &validate::OPERATING_SYSTEMS
    }

    fn add_defaults(
        &self,
        spec: &mut Map<String, Value>,
        stored: Option<&Map<String, Value>>,
        infra_namespace: &str,
    ) {
        defaults::add(spec, stored, infra_namespace);
    }

    fn decode(&self, field: &Field<'_>, report: &mut Report) -> Option<Arc<dyn Spec>> {
        Some(Arc::new(spec::decode(field, report)?))
    }

    fn validate_labels(&self, keys: &mut dyn Iterator<Item = &str>, path: &FieldPath, report: &mut Report) {
        validate::labels(keys, path, report);
    }

    fn cloud_config(&self, cloud: &Cloud<'_>, kubelet: &Version) -> Secret {
        let provider = if cloud.external {
            cloud_config::CloudProvider::External
        } else {
            cloud_config::CloudProvider::InTree
        };
        cloud_config::for_kubelet(cloud.credential, cloud.namespace, kubelet, provider)
    }
}

impl Spec for CloudProviderSpec {
    fn validate(&self, overridden: Overridden, path: &FieldPath, report: &mut Report) {
        validate::validate(self, overridden, path, report);
    }

    fn validate_name(&self, name: &str, path: &FieldPath, report: &mut Report) {
        validate::name(name, self, path, report);
    }

    fn validate_owner_name(
        &self,
        name: &str,
        maker: MachineOwnerKind,
        path: &FieldPath,
        report: &mut Report,
    ) {
        validate::owner_name(name, maker, self, path, report);
    }

    fn references(&self) -> Vec<&KeyRef> {
        Self::references(self)
    }

    fn credential(&self) -> &ConfigVarString {
        &self.kubeconfig
    }

    fn cluster_name(&self, env: &Env, lookup: &Lookup<'_>) -> Result<String, Unresolved> {
        provider::cluster_name(&self.cluster_name, env, lookup)
    }

    fn resolve(&self, env: &Env, lookup: &Lookup<'_>) -> Result<Arc<dyn ResolvedProviderSpec>, Unresolved> {
        Ok(Arc::new(resolved::resolve(self, env, lookup)?))
    }

    fn canonical(&self) -> Option<Value> {
        canonical::canonical(self)
    }

    fn machinist(&self) -> &Machinist {
        &self.machinist
    }

    fn capacity(&self, lookup: &Lookup<'_>, instancetype: Option<&Value>) -> NodeCapacity {
        capacity::capacity(&self.virtual_machine, lookup, instancetype)
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
        disk_names(machine, self)
    }

    fn facts_needed(&self) -> Opaque {
        Opaque::new(facts_needed(self))
    }

    fn failure_domain(&self, facts: &Opaque) -> FailureDomain {
        let found = facts.of::<Facts>();
        let own = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        FailureDomain {
            region: own(&self.region).or_else(|| found?.region.clone()),
            zone: own(&self.zone).or_else(|| found?.zone.clone()),
        }
    }

    fn render(&self, order: &InstanceParams<'_>, facts: &Opaque) -> Option<Value> {
        Some(render(&RenderInput {
            name: order.name,
            uid: order.uid,
            labels: order.labels,
            annotations: order.annotations,
            machine_deployment: order.machine_deployment,
            cluster_uid: order.cluster_uid,
            namespace: order.namespace,
            spec: self,
            facts: facts.of()?,
            user_data_secret: order.user_data,
            ignition: order.ignition,
        }))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::providers::find;

    #[rstest]
    #[case::an_old_kubelet("1.28.9", false, "namespace: \"tenant-7\"")]
    #[case::one_that_reads_none("1.33.4", false, "")]
    #[case::beside_a_cloud_controller_manager("1.28.9", true, "")]
    fn a_cloud_config_is_had_of_the_provider_that_a_spec_names(
        #[case] kubelet: &str,
        #[case] external: bool,
        #[case] says: &str,
    ) {
        let cloud = Cloud {
            credential: &Secret::new("sesame".to_owned()),
            namespace: "tenant-7",
            external,
        };
        let kubelet = Version::parse(kubelet).unwrap();
        let config = find("kubevirt").unwrap().cloud_config(&cloud, &kubelet);
        assert_eq!(config.expose().is_empty(), says.is_empty());
        assert!(config.expose().contains(says), "{}", config.expose());
    }
}
