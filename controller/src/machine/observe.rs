//! Takes the snapshot of one Machine: from the stores, and, only when its VM is to be made, from the infra cluster's
//! cached facts.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::client::Shown;
use machinist_infra::facts::FactError;
use machinist_infra::kubeconfig::InfraKubeconfig;
use machinist_infra::pool::{Access, OpenInfra};
use machinist_infra::store::Key;
use machinist_shared::api::MachineSpec;
use machinist_shared::config_var::{ConfigVarString, KeyRef, LookupError, RefKind, ResolveError};
use machinist_shared::field::{FieldPath, Report};
use machinist_shared::kubevirt::facts::{Facts as InfraFacts, facts_needed};
use machinist_shared::kubevirt::render::{RenderInput, disk_names, render};
use machinist_shared::kubevirt::resolved::{self, Kubeconfig, KubeconfigSource, ResolvedSpec, Unresolved};
use machinist_shared::kubevirt::root_cause::{Sight, root_cause};
use machinist_shared::kubevirt::spec::CloudProviderSpec;
use machinist_shared::names::label;
use machinist_shared::operating_system::OperatingSystem;
use machinist_shared::provider_spec::ProviderConfig;
use serde_json::Value;

use super::brake;
use super::observed::{ClusterName, Disk, Facts, Infra, Observed, Open, Spec, Unwatched, Usable, VmState};
use super::ownership::provider_id_of;
use super::record::{CredentialSource, FailureDomain, Infrastructure};
use crate::bootstrap::token::TokenView;
use crate::bootstrap::user_data::{self, UserDataInput};
use crate::context::Context;
use crate::user::{Looked, Reference, ReferenceKind, SpecState, StoredMachine};

/// What carrying out a plan needs besides the snapshot.
#[derive(Debug, Default)]
pub struct Hands {
    /// The infra cluster, through the Machine's own credential.
    pub open: Option<OpenInfra>,
    /// The Machine's bootstrap token.
    pub token: Option<TokenView>,
    /// When to look again at what no watch tells of.
    pub look_again: Option<Duration>,
    spec: Option<Decoded>,
    facts: Option<InfraFacts>,
}

/// How often it is looked whether there is another credential for a Machine whose own is refused.
const REFUSED: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Decoded {
    machine: MachineSpec,
    config: ProviderConfig,
    resolved: ResolvedSpec,
}

impl Hands {
    /// The VirtualMachine to create; `None` if the snapshot was not one to create from.
    pub fn render(
        &self,
        context: &Context,
        machine: &StoredMachine,
        user_data_secret: &str,
    ) -> Option<Value> {
        let (open, spec, facts) = (self.open.as_ref()?, self.spec.as_ref()?, self.facts.as_ref()?);
        let none = BTreeMap::new();
        let deployment = context.stores.machine_deployment(machine);
        Some(render(&RenderInput {
            name: machine.name(),
            uid: machine.uid(),
            labels: machine.metadata.labels.as_ref().unwrap_or(&none),
            annotations: machine.metadata.annotations.as_ref().unwrap_or(&none),
            machine_deployment: deployment.as_deref(),
            cluster_uid: &context.settings.cluster_uid,
            namespace: &open.key().namespace,
            spec: &spec.resolved,
            facts,
            user_data_secret,
            ignition: None,
        }))
    }

    /// The user data that the guest joins with.
    pub fn user_data(
        &self,
        context: &Context,
        machine: &StoredMachine,
        token: &TokenView,
    ) -> Result<String, Shown> {
        let spec = self
            .spec
            .as_ref()
            .ok_or_else(|| Shown("the spec cannot be read any more".to_owned()))?;
        let provider_id = (!context.settings.external_cloud_provider).then(|| provider_id_of(machine));
        let none = BTreeMap::new();
        let metadata = spec.machine.metadata.as_ref();
        let upgrade = spec
            .config
            .operating_system_spec
            .as_ref()
            .is_some_and(|os| os["distUpgradeOnBoot"] == true);
        user_data::render(&UserDataInput {
            operating_system: spec.config.operating_system.map_or("", OperatingSystem::as_str),
            node_name: machine.name(),
            kubelet_version: spec
                .machine
                .versions
                .as_ref()
                .and_then(|v| v.kubelet.as_deref())
                .unwrap_or_default(),
            server: &context.access.server,
            ca_pem: &context.access.ca_pem,
            token: &token.bootstrap_token(),
            cluster_dns: &context.access.dns,
            cluster_domain: &context.access.domain,
            taints: spec.machine.taints.as_deref().unwrap_or_default(),
            labels: metadata.and_then(|m| m.labels.as_ref()).unwrap_or(&none),
            provider_id: provider_id.as_deref(),
            ssh_keys: &spec.config.ssh_public_keys,
            upgrade,
        })
        .map_err(|error| Shown(error.to_string()))
    }
}

/// Finds out which infra cluster a Machine is on, as far as is known without asking anybody.
pub fn place(context: &Context, key: &Key, machine: &StoredMachine) {
    let sources = Sources {
        context,
        key,
        references: std::cell::RefCell::default(),
    };
    // What is still missing is found out by the pass that follows.
    let _ = access(&sources, machine, sources.kubeconfig(machine));
    context.infra.settle(key);
}

/// Takes the snapshot.
pub async fn observe(
    context: &Context,
    key: &Key,
    machine: &std::sync::Arc<StoredMachine>,
    now: Timestamp,
) -> (Observed, Hands) {
    let sources = Sources {
        context,
        key,
        references: std::cell::RefCell::default(),
    };
    let (spec, decoded) = sources.spec(machine);
    let cluster_name = match &spec {
        Spec::Usable(usable) => ClusterName::Known(usable.cluster_name.clone()),
        _ => sources.cluster_name(machine),
    };
    let kubeconfig = sources.kubeconfig(machine);
    let (access, look_again) = match access(&sources, machine, kubeconfig) {
        Ok(open) => (Ok(open), None),
        Err((infra, look_again)) => (Err(infra), look_again),
    };
    context.infra.settle(key);
    context.references.keep(key, &sources.references.into_inner());

    let tokens = context.stores.tokens.by_index(machine.uid());
    let token = tokens
        .iter()
        .find_map(|secret| TokenView::from_secret(secret).ok());
    let mut hands = Hands {
        open: None,
        token: token.clone(),
        spec: decoded,
        facts: None,
        look_again,
    };
    let infra = match access {
        Err(infra) => infra,
        Ok(open) => match look(context, machine, &open, &mut hands, now).await {
            Ok(view) => {
                hands.open = Some(open);
                Infra::Open(Box::new(view))
            }
            Err(infra) => infra,
        },
    };
    let observed = Observed {
        machine: machine.clone(),
        settings: context.settings.clone(),
        name_winner: name_winner(context, machine),
        spec,
        cluster_name,
        infra,
        node: context.stores.nodes.get(&Key::new("", machine.name())),
        token,
        failure: context.failures.pending(key, machine, now),
    };
    (observed, hands)
}

/// The infra cluster, through the Machine's own credential; or, where that is refused though the Machine has a VM there,
/// through a newer one of its MachineDeployment, so that a rotated kubeconfig strands no Machine, whose spec is immutable.
fn access(
    sources: &Sources<'_>,
    machine: &StoredMachine,
    kubeconfig: Result<Kubeconfig, Infra>,
) -> Result<OpenInfra, (Infra, Option<Duration>)> {
    let context = sources.context;
    let namespace = machine
        .record
        .as_ref()
        .map_or(&context.env.infra_namespace, |r| &r.infrastructure.namespace);
    let through = |kubeconfig: &Kubeconfig| {
        let parsed = InfraKubeconfig::parse(kubeconfig.text.expose(), context.addresses);
        let parsed =
            parsed.map_err(|error| (Infra::NoCredential(format!("auth.kubeconfig: {error}")), true))?;
        match context.infra.access(sources.key, &parsed, namespace) {
            Access::Open(open) => Ok(open),
            Access::Opening => Err((Infra::Connecting, false)),
            Access::Failed(error) => Err((
                Infra::Unreachable(format!("{}: {error}", parsed.server())),
                error.is_refusal(),
            )),
        }
    };
    let (own, refused) = match kubeconfig {
        Ok(kubeconfig) => match through(&kubeconfig) {
            Ok(open) => return Ok(open),
            Err(failed) => failed,
        },
        Err(missing) => {
            let refused = matches!(missing, Infra::NoCredential(_));
            (missing, refused)
        }
    };
    // Only what we have recorded shows that its own credential has worked there before: an owner can be claimed by anyone.
    let has_vm = machine
        .record
        .as_ref()
        .is_some_and(|record| record.vm_uid.is_some());
    if !(refused && has_vm) {
        return Err((own, None));
    }
    let newer = context.stores.newer_machine_sets(machine).into_iter();
    let newer = newer.filter_map(|set| {
        resolved::kubeconfig(&set.kubeconfig, &context.env, &|key| sources.lookup(key)).ok()
    });
    let mut last = own;
    for kubeconfig in newer {
        match through(&kubeconfig) {
            Ok(open) => return Ok(open),
            Err((Infra::Connecting, _)) => last = Infra::Connecting,
            Err(_) => {}
        }
    }
    Err((last, Some(REFUSED)))
}

/// Looks up what the spec refers to, and notes it, so that its watches stay open.
struct Sources<'a> {
    context: &'a Context,
    key: &'a Key,
    references: std::cell::RefCell<HashSet<Reference>>,
}

/// Text of [`LookupError::Unavailable`] for an object that is not yet known.
const PENDING: &str = "it is being read";

impl Sources<'_> {
    fn lookup(&self, key: &KeyRef) -> Result<String, LookupError> {
        let kind = match key.kind {
            RefKind::Secret => ReferenceKind::Secret,
            RefKind::ConfigMap => ReferenceKind::ConfigMap,
        };
        let reference = Reference {
            kind,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        };
        let looked = self.context.references.look(&reference, self.key);
        self.references.borrow_mut().insert(reference);
        match looked {
            Looked::Pending => Err(LookupError::Unavailable(PENDING.to_owned())),
            Looked::Absent => Err(LookupError::NoObject),
            Looked::Found(mut data) => data.remove(&key.key).ok_or(LookupError::NoKey),
        }
    }

    fn spec(&self, machine: &StoredMachine) -> (Spec, Option<Decoded>) {
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
        let resolved = match resolved::resolve(cloud, &self.context.env, &|key| self.lookup(key)) {
            Ok(resolved) => resolved,
            Err(error) => return (unresolved(&error), None),
        };
        let kubeconfig = resolved::kubeconfig(&cloud.kubeconfig, &self.context.env, &|key| self.lookup(key));
        let credential = match kubeconfig {
            Ok(found) => Some(source(&found.source)),
            // A Machine with a VM may be reached through a newer credential of its MachineDeployment.
            Err(error) => match unresolved(&error) {
                Spec::ReferenceNotFound(_) => None,
                other => return (other, None),
            },
        };
        let usable = Usable {
            cluster_name: resolved.cluster_name.clone(),
            disks: disk_names(machine.name(), &resolved),
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
    fn cluster_name(&self, machine: &StoredMachine) -> ClusterName {
        let var = cloud_spec_of(machine)
            .map(|cloud| cloud.cluster_name)
            .unwrap_or_default();
        match resolved::cluster_name(&var, &self.context.env, &|key| self.lookup(key)) {
            Ok(name) => ClusterName::Known(name),
            Err(error) if is_pending(&error) => ClusterName::Pending,
            Err(error) => ClusterName::Unreadable(error.to_string()),
        }
    }

    /// The credential: of the spec; for a deleting Machine first from where the record says, read leniently, because a
    /// spec that can no longer be read must not keep a VM alive.
    fn kubeconfig(&self, machine: &StoredMachine) -> Result<Kubeconfig, Infra> {
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
        let found = resolved::kubeconfig(&var, &self.context.env, &|key| self.lookup(key));
        let fallback = |error: Unresolved| {
            let own = machine.is_deleting() && !self.context.env.kubeconfig.is_empty();
            let default = ConfigVarString::default();
            if own {
                resolved::kubeconfig(&default, &self.context.env, &|_| Err(LookupError::NoObject))
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
fn cloud_spec_of(machine: &StoredMachine) -> Option<CloudProviderSpec> {
    let SpecState::Decoded(spec) = &machine.spec else {
        return None;
    };
    provider_config(spec, &mut Report::new()).cloud_provider_spec
}

fn kubeconfig_of(machine: &StoredMachine) -> ConfigVarString {
    cloud_spec_of(machine)
        .map(|cloud| cloud.kubeconfig)
        .unwrap_or_default()
}

fn is_pending(error: &Unresolved) -> bool {
    matches!(error, Unresolved::Reference { error: ResolveError::Lookup { cause: LookupError::Unavailable(text), .. }, .. } if text == PENDING)
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

/// The VM of the Machine's name, its disks, and what is known of the cluster.
async fn look(
    context: &Context,
    machine: &StoredMachine,
    open: &OpenInfra,
    hands: &mut Hands,
    now: Timestamp,
) -> Result<Open, Infra> {
    let infra = open.key();
    let names = match &hands.spec {
        Some(spec) => disk_names(machine.name(), &spec.resolved),
        None => vec![machine.name().to_owned()],
    };
    let unwatched = unwatched(machine, open, hands, &names).await?;
    let key = Key::new(&infra.namespace, machine.name());
    let vm = open.vms().get(&key);
    let vmi = open.vmis().get(&key);
    let at = |name: &String| Key::new(&infra.namespace, name);
    let volumes: Vec<_> = names
        .iter()
        .filter_map(|name| open.data_volumes().get(&at(name)))
        .collect();
    let claims = names.iter().filter_map(|name| open.claims().get(&at(name)));
    let disks = volumes.iter().map(|dv| Disk {
        kind: "DataVolume",
        metadata: dv.metadata.clone(),
    });
    let disks = disks.chain(claims.map(|claim| Disk {
        kind: "PersistentVolumeClaim",
        metadata: claim.metadata.clone(),
    }));
    let disks = disks.collect();
    let statuses: Vec<_> = volumes
        .iter()
        .map(|dv| (dv.metadata.name.as_deref().unwrap_or_default(), &dv.status))
        .collect();
    let state = vm.as_ref().map_or_else(VmState::default, |vm| {
        let cause = root_cause(Sight {
            name: machine.name(),
            run_strategy: vm.spec.run_strategy.as_deref().unwrap_or("Once"),
            vm: &vm.status,
            vmi: vmi.as_ref().map(|vmi| &vmi.status),
            disks: &statuses,
        });
        VmState {
            ready: cause.is_ready(),
            terminal: cause.is_terminal(),
            progress: cause.is_progress(),
            reason: format!("{:?}", cause.reason),
            message: cause.message,
        }
    });
    let labels = vm.as_ref().and_then(|vm| vm.metadata.labels.as_ref());
    let owner = labels.and_then(|labels| labels.get(label::MACHINE_UID));
    let owner = owner.filter(|owner| *owner != machine.uid());
    let infrastructure = Infrastructure {
        namespace: infra.namespace.clone(),
        namespace_uid: open.namespace_uid(),
        server: infra.server.clone(),
        ca_digest: infra.ca_digest.clone(),
    };
    let question = brake::Question {
        stores: &context.stores,
        pool: &context.infra,
        open,
        infrastructure: &infrastructure,
        machine,
        settle: context.settings.look_every.mul_f64(1.3),
    };
    let (brake, released) = context.brakes.ask(question, now);
    if released {
        for other in context.infra.users(infra) {
            context.queue.add(other);
        }
    }
    Ok(Open {
        infrastructure,
        unwatched,
        brake,
        may_label: vm
            .as_ref()
            .and_then(|vm| vm.metadata.uid.as_deref())
            .is_none_or(|uid| context.failures.may_label(uid, now)),
        labelled_machine_exists: owner
            .is_some_and(|owner| !context.stores.machines.by_index(owner).is_empty()),
        recorded_by: vm
            .as_ref()
            .and_then(|vm| recorded_by(context, machine, vm.metadata.uid.as_deref()?)),
        guest_exists: vmi.is_some(),
        firmware_uuid: vm.as_ref().and_then(|vm| vm.firmware_uuid()).map(str::to_owned),
        addresses: vmi.map(|vmi| vmi.status.addresses()).unwrap_or_default(),
        facts: if vm.is_some() || machine.is_deleting() {
            Facts::NotNeeded
        } else {
            facts(open, hands).await
        },
        vm,
        state,
        disks,
    })
}

/// Looks at what the credential may not watch, if anything.
async fn unwatched(
    machine: &StoredMachine,
    open: &OpenInfra,
    hands: &mut Hands,
    disks: &[String],
) -> Result<Option<Unwatched>, Infra> {
    if open.missing().is_empty() {
        return Ok(None);
    }
    let (seen, next) = open.look(machine.name(), disks).await;
    hands.look_again = Some(next);
    match seen {
        Ok(seen) => Ok(Some(Unwatched {
            missing: open.missing().to_string(),
            unseen_disks: seen.unseen_disks,
        })),
        Err(error) => Err(Infra::Unreachable(format!(
            "{}: the credential may neither watch ({}) nor look: {error}",
            open.key().server,
            open.missing()
        ))),
    }
}

async fn facts(open: &OpenInfra, hands: &mut Hands) -> Facts {
    let Some(spec) = &hands.spec else {
        return Facts::NotNeeded;
    };
    match open
        .facts()
        .get(
            open.credential_digest(),
            open.client(),
            &open.key().namespace,
            &facts_needed(&spec.resolved),
        )
        .await
    {
        Ok(facts) => {
            let own = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
            let domain = FailureDomain {
                region: own(&spec.resolved.region).or_else(|| facts.region.clone()),
                zone: own(&spec.resolved.zone).or_else(|| facts.zone.clone()),
            };
            hands.facts = Some(facts);
            Facts::Known(domain)
        }
        Err(error @ FactError::NotFound { .. }) => Facts::Missing(error.to_string()),
        Err(error @ FactError::Remote { .. }) => Facts::Unavailable(error.to_string()),
    }
}

/// Another Machine of this name that has that VM on record.
fn recorded_by(context: &Context, machine: &StoredMachine, vm_uid: &str) -> Option<String> {
    let namesakes = context.stores.machines.by_index(machine.name());
    let other = namesakes.iter().find(|m| {
        m.name() == machine.name()
            && m.uid() != machine.uid()
            && m.record.as_ref().and_then(|record| record.vm_uid.as_deref()) == Some(vm_uid)
    })?;
    Some(format!("{}/{}", other.namespace(), other.name()))
}

/// The Machine that wins a name that two Machines have: the one with a VM on record, else the one that may have one, else
/// the older, else the one with the smaller UID.
fn name_winner(context: &Context, machine: &StoredMachine) -> Option<String> {
    let rank = |m: &StoredMachine| {
        let recorded = m.record.as_ref().is_some_and(|record| record.vm_uid.is_some());
        (
            !recorded,
            !m.has_finalizer(machinist_shared::names::finalizer::VM),
            m.metadata.creation_timestamp.as_ref().map(|t| t.0),
            m.uid().to_owned(),
        )
    };
    let namesakes = context.stores.machines.by_index(machine.name());
    let best = namesakes.iter().min_by_key(|m| rank(m))?;
    (best.uid() != machine.uid()).then(|| format!("{}/{}", best.namespace(), best.name()))
}
