//! What the controller remembers, and what it sees of the world, as `observe.rs` has it.

use k8s_openapi::api::core::v1::Secret;
use machinist_infra::cache::store::Key;
use machinist_infra::kubevirt;
use machinist_infra::kubevirt::objects::Vmi;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::super::super::super::drain::sort::Answers;
use super::super::super::super::snapshot::types::Asked;
use super::world::{Kind, NAME, World};
use super::*;
use crate::csr::request::StoredRequest;
use crate::machine::failures::Failures;
use crate::machine::snapshot::bootstrap::own_token;
use crate::runtime::recreation::Recreations;

/// What a controller holds in memory only.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) failures: Failures,
    pub(super) recreations: Recreations,
    pub(super) since: Timestamp,
    /// UID of the Node whose pods are watched.
    pub(super) watched: Option<String>,
    pub(super) answers: Answers,
    pub(super) reported: Vec<String>,
}

impl Process {
    pub(super) fn new(since: Timestamp) -> Self {
        let failures = Failures::exact();
        failures.creations.begin(instant(since));
        Self {
            failures,
            recreations: Recreations::exact(),
            since,
            watched: None,
            answers: Answers::new(),
            reported: Vec::new(),
        }
    }
}

/// The same moment of a clock that does not run.
pub(super) fn instant(at: Timestamp) -> Instant {
    static BEGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let since = at.duration_since("2026-01-01T00:00:00Z".parse().unwrap());
    *BEGIN + since.unsigned_abs()
}

pub(super) fn from<T: DeserializeOwned>(object: &Value) -> T {
    T::deserialize(object).unwrap()
}

/// What carrying out a plan needs besides the snapshot.
pub(super) struct ApplyContext {
    pub(super) token: Option<TokenView>,
    pub(super) spare_tokens: Vec<TokenView>,
}

/// The snapshot, unless there is no Machine.
pub(super) fn observe(world: &World, process: &Process) -> Option<(Snapshot, ApplyContext)> {
    let seen = world.seen();
    let own = |kind| seen.get(&(kind, NAME.to_owned()));
    let all = |kind| {
        let of = seen.iter().filter(move |((of, _), _)| *of == kind);
        of.map(|(_, object)| object)
    };
    let machine: StoredMachine = from(own(Kind::Machine)?);
    let vmi: Option<Vmi> = own(Kind::Guest).map(from);
    let vm = own(Kind::Vm).map(|vm| Arc::new(kubevirt::instance(&from(vm), vmi.as_ref(), &[])));
    let disks = own(Kind::Disk).map(|disk| Disk {
        kind: "DataVolume",
        metadata: from(&disk["metadata"]),
    });
    let open = Open {
        guest: vmi.as_ref().map(|vmi| GuestView {
            started: vmi.status.has_run(),
            instance: vmi
                .metadata
                .owner_references
                .iter()
                .flatten()
                .map(|o| o.uid.clone())
                .next(),
            ..GuestView::default()
        }),
        addresses: vmi.map(|vmi| vmi.status.addresses()).unwrap_or_default(),
        state: vm.as_ref().map_or_else(VmState::default, |vm| vm.state.clone()),
        facts: if vm.is_some() || machine.is_deleting() {
            Facts::NotNeeded
        } else {
            Facts::Known(FailureDomain::default())
        },
        disks: disks.into_iter().collect(),
        vm,
        ..open()
    };
    let tokens = all(Kind::Token)
        .filter(|token| token["metadata"]["labels"]["machinist.dev/machine-uid"] == MACHINE)
        .filter_map(|token| TokenView::from_secret(&from::<Secret>(token)).ok());
    let mut spare_tokens: Vec<TokenView> = tokens.collect();
    let user_data = open.vm.as_ref().and_then(|vm| vm.user_data.clone());
    let token = own_token(&machine, user_data.as_deref(), &mut spare_tokens);
    let node: Option<Arc<Node>> = own(Kind::Node).map(from).map(Arc::new);
    let is_pending = |request: &StoredRequest| !request.decided;
    let requests = all(Kind::ServingRequest)
        .map(from)
        .filter(is_pending)
        .map(|request| Asked {
            request: Arc::new(request),
            reported: process.reported.clone(),
        });
    let observed = Snapshot {
        spec: Spec::Usable(Box::new(Usable {
            cluster_name: "c".into(),
            disks: vec![NAME.into()],
            node_metadata: from(&json!({"labels": {"tier": "front"}, "annotations": {"note": "x"}})),
            taints: vec![from(
                &json!({"key": "dedicated", "value": "x", "effect": "NoSchedule"}),
            )],
            ..Usable::default()
        })),
        workload: workload(
            &machine,
            &open,
            node.as_deref(),
            process,
            all(Kind::Pod),
            all(Kind::Volume),
        ),
        creation: process.failures.creations.of(&machine, instant(world.now)),
        recreation: process
            .recreations
            .of(&Key::of(&machine), machine.uid(), world.now),
        failure: process.failures.pending(&Key::of(&machine), &machine, world.now),
        leading_since: process.since,
        requests: requests.collect(),
        has_spare_tokens: !spare_tokens.is_empty(),
        token: token.clone(),
        node,
        ..observed(machine, open)
    };
    Some((observed, ApplyContext { token, spare_tokens }))
}

/// As `observe/guests.rs` has it.
fn workload<'a>(
    machine: &StoredMachine,
    open: &Open,
    node: Option<&Node>,
    process: &Process,
    pods: impl Iterator<Item = &'a Value>,
    volumes: impl Iterator<Item = &'a Value>,
) -> NodeWorkload {
    let nothing = NodeWorkload {
        pods: Seen::Unwatched,
        volumes: Vec::new(),
        schedulable_targets: SchedulableTargets::Some,
        drain_slot: None,
    };
    let Some(node) = node.filter(|_| machine.is_deleting() || open.vm.is_none()) else {
        return nothing;
    };
    let name = |volume: &Value| volume["metadata"]["name"].as_str().unwrap().to_owned();
    let volumes = volumes.map(name).collect();
    if !machine.is_deleting() || process.watched.as_deref() != Some(node.uid()) {
        return NodeWorkload { volumes, ..nothing };
    }
    let pods = pods.filter(|pod| pod["spec"]["nodeName"] == NAME);
    NodeWorkload {
        pods: Seen::Pods(Pods {
            pods: pods.map(|pod| Arc::new(from(pod))).collect(),
            answers: process.answers.clone(),
            ..Pods::default()
        }),
        volumes,
        ..nothing
    }
}
