//! Where a Machine's user data comes from, and the user data.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use machinist_infra::cache::store::Key;
use machinist_infra::kube::error::DisplayError;
use machinist_shared::api::config_var::RefKind;
use machinist_shared::api::names::{self, annotation};
use serde_json::Value;

use super::ApplyContext;
use super::sources::Sources;
use crate::bootstrap::osm;
use crate::bootstrap::source::{Above, Choice, Deployment, Mode, choose};
use crate::bootstrap::token::TokenView;
use crate::bootstrap::user_data::{self, UserData, UserDataInput};
use crate::cache::{Looked, Reference, StoredMachine, StoredMachineSet, Stores};
use crate::context::Context;
use crate::machine::ownership::provider_id_of;
use crate::machine::snapshot::types::Bootstrap;
use crate::machine::user_data_source::user_data_secret_name;

/// Takes the one out of a Machine's tokens that its VM has, whose user data is in the Secret of that name. There are several
/// where the answer to the creation of one was lost: then, the one on record or in that name counts, and the oldest while
/// there is neither.
pub(in crate::machine) fn own_token(
    machine: &StoredMachine,
    user_data: Option<&str>,
    tokens: &mut Vec<TokenView>,
) -> Option<TokenView> {
    let recorded = machine
        .record
        .as_ref()
        .and_then(|record| record.token_id.as_deref());
    let rank = |token: &TokenView| {
        let id = token.id.as_str();
        let is_recorded = recorded == Some(id);
        let is_given = user_data == Some(&user_data_secret_name(machine.uid(), id));
        (!is_recorded, !is_given, token.created, id.to_owned())
    };
    let own = (0..tokens.len()).min_by_key(|index| rank(&tokens[*index]))?;
    Some(tokens.swap_remove(own))
}

impl ApplyContext {
    /// The user data that the guest joins with.
    pub fn user_data(
        &self,
        context: &Context,
        machine: &StoredMachine,
        token: &TokenView,
    ) -> Result<UserData, DisplayError> {
        let unreadable = || DisplayError("the spec cannot be read any more".to_owned());
        let spec = self.spec.as_ref().ok_or_else(unreadable)?;
        let (config, resolved) = (&spec.config, &spec.resolved);
        let cloud = config.cloud_provider_spec.as_ref().ok_or_else(unreadable)?;
        let provider_id = (!context.settings.external_cloud_provider).then(|| provider_id_of(machine));
        let none = BTreeMap::new();
        let metadata = spec.machine.metadata.as_ref();
        let versions = spec.machine.versions.as_ref();
        let access = context
            .access
            .look()
            .map_err(|error| DisplayError(error.to_string()))?;
        user_data::render(&UserDataInput {
            operating_system: config.operating_system.ok_or_else(unreadable)?,
            operating_system_spec: config.operating_system_spec.as_ref().unwrap_or(&Value::Null),
            node_name: machine.name(),
            kubelet_version: versions.and_then(|v| v.kubelet.as_deref()).unwrap_or_default(),
            server: &access.server,
            ca_pem: &access.ca_pem,
            token: &token.bootstrap_token(),
            cluster_dns: if finds_dns(context, machine) {
                &access.dns
            } else {
                &access.default_dns
            },
            cluster_domain: &access.domain,
            taints: spec.machine.taints.as_deref().unwrap_or_default(),
            labels: metadata.and_then(|m| m.labels.as_ref()).unwrap_or(&none),
            provider_id: provider_id.as_deref(),
            serving_certificate: context.settings.approves_serving,
            ssh_keys: &config.ssh_public_keys,
            ssh_ca: &config.ca_public_key,
            annotations: machine.metadata.annotations.as_ref().unwrap_or(&none),
            network: config.network.as_ref(),
            overwrite_cloud_config: config.overwrite_cloud_config.as_deref(),
            machinist: cloud.machinist(),
            registry_credentials: resolved.registry_credentials(),
            ca_bundle: resolved.ca_bundle(),
        })
        .map_err(|error| DisplayError(error.to_string()))
    }
}

/// Whether the node gets the DNS address that is found: not in a pool that is older than finding it.
fn finds_dns(context: &Context, machine: &StoredMachine) -> bool {
    let Some(owner) = set_owner(machine) else {
        return true;
    };
    let set = owning_set(&context.stores, machine, owner);
    set.is_some_and(|set| set.annotation(annotation::CLUSTER_DNS) == Some(annotation::FIND_DNS))
}

fn set_owner(machine: &StoredMachine) -> Option<&OwnerReference> {
    let mut owners = machine.metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.kind == "MachineSet")
}

fn owning_set(
    stores: &Stores,
    machine: &StoredMachine,
    owner: &OwnerReference,
) -> Option<Arc<StoredMachineSet>> {
    let set = stores
        .machine_sets
        .get(&Key::new(machine.namespace(), &owner.name))?;
    (set.uid() == owner.uid).then_some(set)
}

impl Sources<'_> {
    /// Where the Machine's user data comes from, and the user data, if it is operating-system-manager's.
    pub(super) fn bootstrap(&self, machine: &StoredMachine) -> (Bootstrap, Option<UserData>) {
        let recorded = machine
            .record
            .as_ref()
            .is_some_and(|record| record.vm_uid.is_some());
        if recorded || machine.is_deleting() {
            // It has its user data, and nothing is looked up for it any more.
            return (Bootstrap::Builtin, None);
        }
        let own = machine
            .annotation(annotation::BOOTSTRAP)
            .filter(|text| !text.is_empty());
        let mode = match own.map(str::parse::<Mode>) {
            None => self.context.settings.bootstrap,
            Some(Ok(mode)) => mode,
            Some(Err(error)) => {
                let why = format!("annotation {}: {error}", annotation::BOOTSTRAP);
                return (Bootstrap::Invalid(why), None);
            }
        };
        let stores = &self.context.stores;
        let namespace = machine.namespace();
        let set_owner = set_owner(machine);
        let set = set_owner.and_then(|owner| owning_set(stores, machine, owner));
        let name = set.as_ref().and_then(|set| set.machine_deployment());
        let deployment = name.and_then(|name| stores.machine_deployments.get(&Key::new(namespace, name)));
        let above = match (set_owner, &set, name, &deployment) {
            (None, ..) | (_, Some(_), None, _) => Above::Nothing,
            (Some(owner), None, ..) => Above::Unseen(&owner.name),
            (_, _, Some(name), None) => Above::Unseen(name),
            (_, Some(set), Some(name), Some(deployment)) => Above::Deployment(Deployment {
                name,
                profile: deployment.annotation(annotation::OPERATING_SYSTEM_PROFILE),
                revision: set.annotation(annotation::REVISION),
            }),
        };
        match choose(mode, above) {
            Choice::Builtin => match self.context.access.look() {
                Ok(_) => (Bootstrap::Builtin, None),
                // Reported again when it is known.
                Err(error) => (Bootstrap::Invalid(error.to_string()), None),
            },
            Choice::Unseen(what) => (
                Bootstrap::Waiting(format!("{what}, which owns it, has not been seen")),
                None,
            ),
            Choice::NoDeployment => {
                let why = format!(
                    "operating-system-manager makes user data for MachineDeployments only, and the Machine is below none; annotate it with                      {}=builtin",
                    annotation::BOOTSTRAP
                );
                (Bootstrap::Invalid(why), None)
            }
            Choice::Osm(deployment) => self.osm(machine, deployment),
        }
    }

    fn osm(&self, machine: &StoredMachine, deployment: Deployment<'_>) -> (Bootstrap, Option<UserData>) {
        let name = osm::secret_name(deployment.name, machine.namespace());
        let reference = Reference {
            kind: RefKind::Secret,
            namespace: names::osm::NAMESPACE.to_owned(),
            name: name.clone(),
        };
        let looked = self.context.references.secret(&reference, &self.referrer());
        self.references.borrow_mut().insert(reference);
        let secret = match looked {
            Looked::Pending => {
                return (Bootstrap::Waiting("its Secret is being read".to_owned()), None);
            }
            Looked::Absent => None,
            Looked::Found(secret) => Some(secret),
        };
        match osm::read(secret.as_deref(), &name, deployment.revision, machine.name()) {
            Ok(found) => (Bootstrap::Osm(found.revision), Some(found.user_data)),
            Err(error @ osm::OsmError::Revision { .. }) => {
                (Bootstrap::OtherRevision(error.to_string()), None)
            }
            Err(error) => (Bootstrap::Waiting(error.to_string()), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_token_of_the_vm_counts_and_the_oldest_before_there_is_one() {
        let machine = |record: Value| -> StoredMachine {
            let status = json!({"providerStatus": record});
            let metadata = json!({"name": "web-1", "namespace": "ns", "uid": "m1"});
            serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
        };
        let infrastructure = json!({"server": "https://a", "namespace": "vms"});
        let placed = machine(json!({"infrastructure": infrastructure}));
        let recorded = machine(json!({"infrastructure": infrastructure, "vmUID": "v1", "tokenID": "third3"}));
        let at = |hour: i8| k8s_openapi::jiff::civil::date(2026, 1, 1).at(hour, 0, 0, 0);
        let token = |id, hour| {
            let expiration = at(hour).to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC);
            TokenView::for_test(id, "m1", expiration.unwrap().timestamp())
        };
        let own = |machine: &StoredMachine, user_data| {
            let mut tokens = vec![token("first1", 2), token("second", 1), token("third3", 3)];
            let own = own_token(machine, user_data, &mut tokens).unwrap();
            assert_eq!(tokens.len(), 2);
            assert!(tokens.iter().all(|spare| spare.id != own.id));
            own.id.to_string()
        };
        assert_eq!(own(&placed, None), "second");
        assert_eq!(own(&placed, Some("userdata-m1-first1")), "first1");
        assert_eq!(own(&placed, Some("userdata-m1-other9")), "second");
        assert_eq!(own(&recorded, None), "third3");
        assert!(own_token(&placed, None, &mut Vec::new()).is_none());
    }
}
