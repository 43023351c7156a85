//! Takes the snapshot of one Machine: from the stores, and, only when its VM is to be made, from the infra cluster's
//! cached facts.

mod address_conflicts;
pub(super) mod bootstrap;
mod node_workload;
mod sources;
pub mod types;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use machinist_infra::cache::store::Key;
use machinist_infra::provider::FactError;
use machinist_infra::provider::{InfraClient, WatchStatus};
use machinist_shared::api::MachineSpec;
use machinist_shared::api::names::label;
use machinist_shared::provider::{self, Kubeconfig};
use machinist_shared::provider::{InstanceParams, Opaque, ResolvedProviderSpec};
use machinist_shared::provider_spec::ProviderConfig;
use serde_json::Value;
use tokio::time::Instant;

use self::sources::{Sources, provider_of};
use self::types::{
    Asked, ClusterName, Eviction, Facts, GuestView, Infra, Open, RequestToJoin, Snapshot, Spec, VmState,
};
use super::disruption_budget::{self, DisruptionBudget};
use super::drain::slots::DrainSlot;
use super::mass_loss_guard;
use super::memory::Memory;
use super::record::{FailureDomain, Infrastructure};
use super::replacement_pace::{self, Pace};
use super::start_limiter::Start;
use crate::bootstrap::token::TokenView;
use crate::bootstrap::user_data::UserData;
use crate::cache::{Reference, Referrer, StoredMachine};
use crate::context::Context;
use crate::runtime::recreation::Recreation;

/// What carrying out a plan needs besides the snapshot.
#[derive(Debug, Default)]
pub struct ApplyContext {
    /// The infra cluster, through the Machine's own credential.
    pub open: Option<Arc<dyn InfraClient>>,
    /// The Machine's bootstrap token.
    pub token: Option<TokenView>,
    /// Others that are bound to it.
    pub spare_tokens: Vec<TokenView>,
    /// The user data that operating-system-manager made for it, where that is what the guest gets.
    pub osm: Option<UserData>,
    /// When to reconcile again at what no watch reports.
    pub requeue_after: Option<Duration>,
    /// What its spec refers to.
    references: HashSet<Reference>,
    /// What the mass-loss guard of its infra cluster showed.
    guard: Option<mass_loss_guard::Seen>,
    spec: Option<Decoded>,
    facts: Option<Opaque>,
}

/// How often it is looked whether there is another credential for a Machine whose own is refused.
const REFUSED: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Decoded {
    machine: MachineSpec,
    config: ProviderConfig,
    resolved: Arc<dyn ResolvedProviderSpec>,
}

impl ApplyContext {
    /// The VirtualMachine to create; `None` if the snapshot was not one to create from.
    pub fn render(
        &self,
        context: &Context,
        machine: &StoredMachine,
        user_data_secret: &str,
        user_data: &UserData,
    ) -> Option<Value> {
        let (open, spec, facts) = (self.open.as_ref()?, self.spec.as_ref()?, self.facts.as_ref()?);
        let none = BTreeMap::new();
        let deployment = context.stores.machine_deployment(machine);
        let order = InstanceParams {
            name: machine.name(),
            uid: machine.uid(),
            labels: machine.metadata.labels.as_ref().unwrap_or(&none),
            annotations: machine.metadata.annotations.as_ref().unwrap_or(&none),
            machine_deployment: deployment.as_deref(),
            cluster_uid: &context.settings.cluster_uid,
            namespace: &open.key().namespace,
            user_data: user_data_secret,
            ignition: user_data.ignition(),
        };
        spec.resolved.render(&order, facts)
    }
}

impl ApplyContext {
    /// Keeps what the snapshot was taken from, and nothing else; and has other Machines reconciled that the mass-loss guard of
    /// their infra cluster held back.
    pub fn keep(&self, context: &Context, memory: &Memory, key: &Key) {
        context.infra.release_unused(key);
        context
            .references
            .keep(&Referrer::Machine(key.clone()), &self.references);
        let is_released = self
            .guard
            .as_ref()
            .is_some_and(|seen| memory.mass_loss_guards.take(seen));
        if let Some(open) = self.open.as_ref().filter(|_| is_released) {
            for other in context.infra.users(open.key()) {
                context.queues.machines.add(other);
            }
        }
    }
}

/// Reserves what the Machine needs, and gives back what it does not need any more; what it has then.
pub fn reserve(
    context: &Context,
    memory: &Memory,
    observed: &Snapshot,
    now: Timestamp,
) -> (DisruptionBudget, Option<DrainSlot>) {
    let machine = &observed.machine;
    let disruption_budget = match &observed.infra {
        Infra::Open(open) if matches!(open.eviction, Eviction::Wanted { .. }) => {
            disruption_budget::reserve(&context.stores, &memory.surge_reservations, machine, now)
        }
        Infra::Open(_) => {
            memory.surge_reservations.forget(&Key::of(machine.as_ref()));
            DisruptionBudget::Alone
        }
        _ => DisruptionBudget::Alone,
    };
    let turn = observed.workload.drain_slot;
    let turn = turn.and_then(|_| node_workload::take_slot(context, memory, machine));
    (disruption_budget, turn)
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
    context.infra.release_unused(key);
}

/// Takes the snapshot.
pub async fn take_snapshot(
    context: &Context,
    memory: &Memory,
    key: &Key,
    machine: &Arc<StoredMachine>,
    now: Timestamp,
) -> (Snapshot, ApplyContext) {
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
    let (bootstrap, osm) = sources.bootstrap(machine);
    let (access, requeue_after) = match access(&sources, machine, kubeconfig) {
        Ok(open) => (Ok(open), None),
        Err((infra, requeue_after)) => (Err(infra), requeue_after),
    };
    let mut handles = ApplyContext {
        open: None,
        token: None,
        spare_tokens: Vec::new(),
        osm,
        spec: decoded,
        facts: None,
        requeue_after,
        references: sources.references.into_inner(),
        guard: None,
    };
    let infra = match access {
        Err(infra) => infra,
        Ok(open) => match look((context, memory), machine, open.as_ref(), &mut handles, now).await {
            Ok(view) => {
                handles.open = Some(open);
                Infra::Open(Box::new(view))
            }
            Err(infra) => infra,
        },
    };
    let tokens = context.stores.tokens.by_index(machine.uid());
    let mut tokens = tokens
        .iter()
        .filter_map(|secret| TokenView::from_secret(secret).ok())
        .collect();
    let user_data = match &infra {
        Infra::Open(open) => open.vm.as_ref().and_then(|vm| vm.user_data.as_deref()),
        _ => None,
    };
    let token = bootstrap::own_token(machine, user_data, &mut tokens);
    handles.token.clone_from(&token);
    handles.spare_tokens.clone_from(&tokens);
    let disruption_budget = match &infra {
        Infra::Open(open) if matches!(open.eviction, Eviction::Wanted { .. }) => {
            disruption_budget::check(&context.stores, &memory.surge_reservations, machine, now)
        }
        _ => DisruptionBudget::Alone,
    };
    let node = context.stores.nodes.get(&Key::new("", machine.name()));
    let waits = node
        .as_ref()
        .map(|node| memory.node_conflicts.waits(node.uid(), Instant::now()));
    let vm_is_gone = matches!(&infra, Infra::Open(open) if open.vm.is_none());
    let recorded = machine
        .record
        .as_ref()
        .and_then(|record| record.recreation.as_ref());
    let observed = Snapshot {
        start: Start::Free,
        replacement_pace: pace(context, machine, &infra),
        recreation: Recreation::longer(
            memory.recreations.of(key, machine.uid(), now),
            recorded.and_then(|recorded| recorded.episode(now)),
        ),
        disruption_budget,
        workload: node_workload::observe(context, memory, key, machine, vm_is_gone, node.as_deref()),
        machine: machine.clone(),
        settings: context.settings.clone(),
        name_winner: name_winner(context, machine),
        spec,
        cluster_name,
        infra,
        node,
        waits: waits.unwrap_or_default(),
        bootstrap,
        creation: memory.failures.creations.of(machine, Instant::now()),
        token,
        has_spare_tokens: !tokens.is_empty(),
        request_to_join: request_to_join(context, machine),
        requests: asked(context, memory, machine),
        leading_since: memory.leading_since.get().copied().unwrap_or(now),
        skew: context.clock.skew(),
        unconfirmed_since: memory.unconfirmed_causes.since(key).unwrap_or(now),
        failure: memory.failures.pending(key, machine, now),
    };
    (observed, handles)
}

/// Whether a Machine whose node is lost may be replaced now.
fn pace(context: &Context, machine: &StoredMachine, infra: &Infra) -> Pace {
    match (infra, &machine.progress.node_loss) {
        (Infra::Open(open), Some(_)) => {
            replacement_pace::check(&context.stores, &open.infrastructure, machine)
        }
        _ => Pace::Free,
    }
}

/// The infra cluster, through the Machine's own credential; or, where that is refused though the Machine has a VM there,
/// through a newer one of its MachineDeployment, so that a rotated kubeconfig strands no Machine, whose spec is immutable.
fn access(
    sources: &Sources<'_>,
    machine: &StoredMachine,
    kubeconfig: Result<Kubeconfig, Infra>,
) -> Result<Arc<dyn InfraClient>, (Infra, Option<Duration>)> {
    let context = sources.context;
    let namespace = machine
        .record
        .as_ref()
        .map_or(&context.env.infra_namespace, |r| &r.infrastructure.namespace);
    let through = |kubeconfig: &Kubeconfig| {
        let Some(provider) = context.infra.get(provider_of(machine)) else {
            let unknown = "the provider that the spec names is not known here".to_owned();
            return Err((Infra::NoCredential(unknown), false));
        };
        match provider.watch(sources.key, &kubeconfig.text, namespace) {
            WatchStatus::Open(place) => Ok(place),
            WatchStatus::Opening => Err((Infra::Connecting, false)),
            WatchStatus::Failed { why, refused: true } => Err((Infra::Refused(why), true)),
            WatchStatus::Failed { why, refused: false } => Err((Infra::Unreachable(why), false)),
            WatchStatus::Unusable(why) => Err((Infra::NoCredential(why), true)),
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
        provider::kubeconfig(&set.kubeconfig, &context.env, &|key| sources.lookup(key)).ok()
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

/// The VM of the Machine's name, its disks, and what is known of the cluster.
async fn look(
    (context, memory): (&Context, &Memory),
    machine: &StoredMachine,
    open: &dyn InfraClient,
    handles: &mut ApplyContext,
    now: Timestamp,
) -> Result<Open, Infra> {
    let infra = open.key();
    let names = match &handles.spec {
        Some(spec) => spec.resolved.disks(machine.name()),
        None => vec![machine.name().to_owned()],
    };
    let sight = match open.get(machine.name(), &names).await {
        Ok(sight) => sight,
        Err(blind) => {
            handles.requeue_after = Some(blind.again);
            return Err(Infra::Unreachable(blind.why));
        }
    };
    handles.requeue_after = sight.again;
    let vm = sight.instance;
    let view = sight.guest.as_ref().map(|guest| GuestView {
        started: guest.started,
        instance: guest.instance.clone(),
        host: guest.host.clone(),
    });
    let guest = sight.guest.unwrap_or_default();
    let (addresses, eviction) = (guest.addresses, guest.eviction);
    let labels = vm.as_ref().and_then(|vm| vm.metadata.labels.as_ref());
    let owner = labels.and_then(|labels| labels.get(label::MACHINE_UID));
    let owner = owner.filter(|owner| *owner != machine.uid());
    let infrastructure = Infrastructure {
        namespace: infra.namespace.clone(),
        namespace_uid: open.namespace_uid(),
        server: infra.server.clone(),
        ca_digest: infra.ca_digest.clone(),
    };
    let question = mass_loss_guard::Question {
        stores: &context.stores,
        pool: &context.infra,
        open,
        infrastructure: &infrastructure,
        machine,
        settle: context.settings.poll_interval.mul_f64(1.3),
    };
    let guard = memory.mass_loss_guards.see(question, now);
    let mass_loss = guard.mass_loss.clone();
    handles.guard = Some(guard);
    let address_conflicts = address_conflicts::find(
        context,
        &memory.reserved,
        machine,
        open,
        &addresses,
        &guest.proven_addresses,
    )
    .await;
    Ok(Open {
        infrastructure,
        unwatched: sight.unwatched,
        mass_loss,
        may_label: memory.failures.may_label(infra, now),
        labeled_machine_exists: owner
            .is_some_and(|owner| !context.stores.machines.by_index(owner).is_empty()),
        recorded_by: vm
            .as_ref()
            .and_then(|vm| recorded_by(context, machine, vm.metadata.uid.as_deref()?)),
        guest: view,
        eviction,
        firmware_uuid: vm.as_ref().and_then(|vm| vm.system_uuid.clone()),
        address_conflicts,
        addresses,
        proven_addresses: guest.proven_addresses,
        state: vm.as_ref().map_or_else(VmState::default, |vm| vm.state.clone()),
        facts: if vm.is_some() || machine.is_deleting() {
            Facts::NotNeeded
        } else {
            facts(open, handles).await
        },
        vm,
        disks: sight.disks,
    })
}

/// The pending request for the client certificate of the Machine's node, which has not joined yet.
fn request_to_join(context: &Context, machine: &StoredMachine) -> Option<RequestToJoin> {
    let request = context.stores.request_to_join(machine.name())?;
    Some(RequestToJoin {
        name: request.name().to_owned(),
        created: request.age().0?,
    })
}

/// The pending requests for the serving certificate of the Machine's node.
fn asked(context: &Context, memory: &Memory, machine: &StoredMachine) -> Vec<Asked> {
    if !context.settings.approves_serving {
        return Vec::new();
    }
    let pending = context.stores.serving_requests(machine.name()).into_iter();
    let asked = pending.map(|request| Asked {
        reported: memory.reported.of(request.uid()),
        request,
    });
    asked.collect()
}

async fn facts(open: &dyn InfraClient, handles: &mut ApplyContext) -> Facts {
    let Some(spec) = &handles.spec else {
        return Facts::NotNeeded;
    };
    match open.facts(&spec.resolved.facts_needed()).await {
        Ok(facts) => {
            let found = spec.resolved.failure_domain(&facts);
            let domain = FailureDomain {
                region: found.region,
                zone: found.zone,
            };
            handles.facts = Some(facts);
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
            !m.has_finalizer(machinist_shared::api::names::finalizer::VM),
            m.metadata.creation_timestamp.as_ref().map(|t| t.0),
            m.uid().to_owned(),
        )
    };
    let namesakes = context.stores.machines.by_index(machine.name());
    let best = namesakes.iter().min_by_key(|m| rank(m))?;
    (best.uid() != machine.uid()).then(|| format!("{}/{}", best.namespace(), best.name()))
}
