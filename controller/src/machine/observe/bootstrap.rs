//! Where a Machine's user data comes from, and the user data.

use std::collections::BTreeMap;

use machinist_infra::client::Shown;
use machinist_infra::store::Key;
use machinist_shared::names::{self, annotation};
use serde_json::Value;

use super::{Hands, Sources};
use crate::bootstrap::osm;
use crate::bootstrap::source::{Above, Choice, Deployment, Mode, choose};
use crate::bootstrap::token::TokenView;
use crate::bootstrap::user_data::{self, UserData, UserDataInput};
use crate::context::Context;
use crate::machine::observed::Bootstrap;
use crate::machine::ownership::provider_id_of;
use crate::user::{LookedSecret, Reference, ReferenceKind, StoredMachine};

impl Hands {
    /// The user data that the guest joins with.
    pub fn user_data(
        &self,
        context: &Context,
        machine: &StoredMachine,
        token: &TokenView,
    ) -> Result<UserData, Shown> {
        let unreadable = || Shown("the spec cannot be read any more".to_owned());
        let spec = self.spec.as_ref().ok_or_else(unreadable)?;
        let (config, resolved) = (&spec.config, &spec.resolved);
        let cloud = config.cloud_provider_spec.as_ref().ok_or_else(unreadable)?;
        let provider_id = (!context.settings.external_cloud_provider).then(|| provider_id_of(machine));
        let none = BTreeMap::new();
        let metadata = spec.machine.metadata.as_ref();
        let versions = spec.machine.versions.as_ref();
        let access = context.access.look().map_err(|error| Shown(error.to_string()))?;
        user_data::render(&UserDataInput {
            operating_system: config.operating_system.ok_or_else(unreadable)?,
            operating_system_spec: config.operating_system_spec.as_ref().unwrap_or(&Value::Null),
            node_name: machine.name(),
            kubelet_version: versions.and_then(|v| v.kubelet.as_deref()).unwrap_or_default(),
            server: &access.server,
            ca_pem: &access.ca_pem,
            token: &token.bootstrap_token(),
            cluster_dns: &access.dns,
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
        .map_err(|error| Shown(error.to_string()))
    }
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
        let mut owners = machine.metadata.owner_references.iter().flatten();
        let set_owner = owners.find(|owner| owner.kind == "MachineSet");
        let set = set_owner.and_then(|owner| {
            let set = stores.machine_sets.get(&Key::new(namespace, &owner.name))?;
            (set.uid() == owner.uid).then_some(set)
        });
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
                // Told again when it is known.
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
            kind: ReferenceKind::Secret,
            namespace: names::osm::NAMESPACE.to_owned(),
            name: name.clone(),
        };
        let looked = self.context.references.look_secret(&reference, self.key);
        self.references.borrow_mut().insert(reference);
        let secret = match &looked {
            LookedSecret::Pending => {
                return (Bootstrap::Waiting("its Secret is being read".to_owned()), None);
            }
            LookedSecret::Absent => None,
            LookedSecret::Found(secret) => Some(secret.as_ref()),
        };
        match osm::read(secret, &name, deployment.revision, machine.name()) {
            Ok(found) => (Bootstrap::Osm(found.revision), Some(found.user_data)),
            Err(error @ osm::OsmError::Revision { .. }) => {
                (Bootstrap::OtherRevision(error.to_string()), None)
            }
            Err(error) => (Bootstrap::Waiting(error.to_string()), None),
        }
    }
}
