//! KubeVirt's admission, with its unmodified code, on the VMs that Machinist renders and on specs that it refuses; and the CRDs
//! of KubeVirt's generator.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    boundary_values,
    fields::{self, Form},
    rules::{self, ACCEPTED_BY_KUBEVIRT, INFRA_NAMESPACE, Kind},
    vm,
};
use kubevirt_sim::{
    admission::{mutate, validate},
    instancetype::Found,
};
use machinist_shared::{
    admission::{AdmissionSettings, Author, mutate_create, validate_create},
    provider::Env,
};
use serde_json::{Value, json};
use testbed::{
    Kubevirt, crds,
    kubevirt::{Cause, Verdict},
};

/// Features that a user may request by an annotation, and a cluster may forbid.
const GATES: [&str; 2] = ["ExperimentalIgnitionSupport", "Sidecar"];

#[test]
fn every_virtual_machine_of_the_table_of_fields_is_accepted() -> Result<()> {
    let kubevirt = Kubevirt::build()?;
    let (mut ids, mut vms) = (Vec::new(), Vec::new());
    for row in fields::all() {
        vms.push(row.render(Form::Literal).map_err(anyhow::Error::msg)?);
        ids.push((row.id, row.ignition.is_some()));
    }
    let open = kubevirt.judge(&GATES, &cluster(), &vms)?;
    let closed = kubevirt.judge(&[], &cluster(), &vms)?;
    let mut wrong = Vec::new();
    for ((id, ignition), (open, closed)) in ids.iter().zip(open.iter().zip(&closed)) {
        if !open.allowed {
            wrong.push(format!("{id}: {}", open.message));
        }
        if closed.allowed == *ignition || *ignition && !closed.message.contains(GATES[0]) {
            wrong.push(format!("{id}, without the gate: {}", closed.message));
        }
    }
    none_is(&wrong)
}

#[test]
fn every_virtual_machine_of_the_snapshots_is_accepted() -> Result<()> {
    let folder = testbed::paths::workspace().join("shared/src/kubevirt/render/snapshots");
    let (mut names, mut vms) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        // Two lines of dashes enclose insta's header.
        let vm = text.splitn(3, "---\n").nth(2).context("no snapshot")?;
        vms.push(serde_json::from_str(vm).with_context(|| path.display().to_string())?);
        names.push(path);
    }
    ensure!(names.len() >= 8, "only {} snapshots were found", names.len());
    let verdicts = Kubevirt::build()?.judge(&GATES, &cluster(), &vms)?;
    let refused = names.iter().zip(&verdicts).filter(|(_, found)| !found.allowed);
    none_is(
        &refused
            .map(|(name, found)| format!("{}: {}", name.display(), found.message))
            .collect::<Vec<_>>(),
    )
}

#[test]
fn kubevirt_accepts_every_boundary_value_that_machinist_accepts() -> Result<()> {
    let (mut ours, mut vms) = (Vec::new(), Vec::new());
    for edge in boundary_values::all() {
        let machine = mutate_create(&edge.machine, &settings());
        if validate_create(&machine, Author::Person, &settings()).is_ok() {
            vms.push(
                vm::of(&machine, &setting()).map_err(|error| anyhow::anyhow!("{}: {error}", edge.what))?,
            );
            ours.push(edge.what);
        }
    }
    ensure!(ours.len() >= 100, "only {} edges are taken by us", ours.len());
    let verdicts = Kubevirt::build()?.judge(&GATES, &cluster(), &vms)?;
    let refused = ours.iter().zip(&verdicts).filter(|(_, found)| !found.allowed);
    none_is(
        &refused
            .map(|(what, found)| format!("{what}: {}", found.message))
            .collect::<Vec<_>>(),
    )
}

#[test]
fn specs_that_only_machinist_refuses_have_a_recorded_reason() -> Result<()> {
    let (ids, vms) = refused_by_us();
    let verdicts = Kubevirt::build()?.judge(&GATES, &cluster(), &vms)?;
    let reasons = ACCEPTED_BY_KUBEVIRT
        .iter()
        .flat_map(|(_, ids)| ids.iter().copied());
    let on_record: BTreeSet<_> = reasons.collect();
    let taken = ids.iter().zip(&verdicts).filter(|(_, found)| found.allowed);
    let taken: BTreeSet<_> = taken.map(|(id, _)| *id).collect();
    let unexplained = taken
        .difference(&on_record)
        .map(|id| format!("{id}: KubeVirt takes it"));
    let stale = on_record
        .difference(&taken)
        .map(|id| format!("{id}: KubeVirt rejects it"));
    println!("refused by us: {}, taken by KubeVirt: {}", ids.len(), taken.len());
    none_is(&unexplained.chain(stale).collect::<Vec<_>>())
}

/// The simulator has fewer rules, and those exactly.
#[test]
fn the_simulator_refuses_and_defaults_as_kubevirt_does() -> Result<()> {
    let (ids, mut vms) = refused_by_us();
    let mut names: Vec<_> = ids.into_iter().map(ToOwned::to_owned).collect();
    for edge in boundary_values::all() {
        if let Ok(vm) = vm::of(&mutate_create(&edge.machine, &settings()), &setting()) {
            vms.push(vm);
            names.push(edge.what);
        }
    }
    let verdicts = Kubevirt::build()?.judge(&[], &cluster(), &vms)?;
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for ((name, vm), kubevirt) in names.iter().zip(&vms).zip(&verdicts) {
        let simulated = simulated(vm);
        refused += usize::from(!simulated.is_empty());
        let strange: Vec<_> = simulated
            .iter()
            .filter(|cause| !in_kubevirts_words(cause, kubevirt))
            .collect();
        if !strange.is_empty() {
            wrong.push(format!("{name}: KubeVirt does not say {strange:?}: {kubevirt:?}"));
        }
        // Inference writes further fields, which the simulator does not implement.
        if kubevirt.allowed && !vm.to_string().contains("inferFromVolume") {
            let text = |pointer: &str| kubevirt.object.pointer(pointer).and_then(Value::as_str);
            let (uuid, serial) = (text(UUID).unwrap_or_default(), text(SERIAL).unwrap_or_default());
            let (ours, theirs) = (mutate::with_defaults(vm, uuid, serial), &kubevirt.object);
            for pointer in DEFAULTS {
                let (ours, theirs) = (ours.pointer(pointer), theirs.pointer(pointer));
                if ours.is_none() || ours != theirs {
                    wrong.push(format!("{name}: {pointer} is {ours:?}, with KubeVirt {theirs:?}"));
                }
            }
        }
    }
    ensure!(refused >= 10, "the simulator refuses only {refused}");
    none_is(&wrong)
}

#[test]
fn the_stored_crds_are_those_that_kubevirt_generates() -> Result<()> {
    let generated = Kubevirt::build()?.crds()?;
    // The first different lines are enough: the whole is half a megabyte.
    let mut lines = crds::KUBEVIRT.lines().zip(generated.lines()).zip(1..);
    let differ = lines.find(|((kept, generated), _)| kept != generated);
    ensure!(
        crds::KUBEVIRT == generated,
        "tests/testbed/src/kubevirt-crds.json is not what KubeVirt's generator prints (line, kept and generated: \
         {differ:?}): run make kubevirt-crds"
    );
    Ok(())
}

const UUID: &str = "/spec/template/spec/domain/firmware/uuid";
const SERIAL: &str = "/spec/template/spec/domain/firmware/serial";
/// The defaults that KubeVirt adds to a VM.
const DEFAULTS: [&str; 5] = [
    UUID,
    SERIAL,
    "/spec/template/spec/architecture",
    "/spec/template/spec/domain/machine/type",
    "/spec/template/metadata/annotations/kubevirt.io~1pci-topology-version",
];

/// The simulator's reasons to refuse a VM.
fn simulated(vm: &Value) -> Vec<Cause> {
    if let Some(message) = validate::undecodable(vm) {
        return vec![Cause {
            reason: String::new(),
            message,
            field: String::new(),
        }];
    }
    let causes = validate::causes(vm, &Found::default()).into_iter();
    let cause = |cause: validate::Cause| Cause {
        reason: cause.kind.to_owned(),
        message: cause.message,
        field: cause.field,
    };
    causes.map(cause).collect()
}

/// A refusal with causes has this cause; a refusal without causes contains these words.
fn in_kubevirts_words(cause: &Cause, kubevirt: &Verdict) -> bool {
    if kubevirt.causes.is_empty() {
        !kubevirt.allowed && kubevirt.message.contains(&cause.message)
    } else {
        kubevirt.causes.contains(cause)
    }
}

/// Ids of the rows about VMs that Machinist refuses, with the VM that the controller would render, if it can.
fn refused_by_us() -> (Vec<&'static str>, Vec<Value>) {
    let rows = rules::all().into_iter().filter(|row| {
        row.id.starts_with("kubevirt/") && row.kind == Kind::Machine && !row.rejected.is_empty()
    });
    rows.filter_map(|row| {
        let machine = mutate_create(&row.object, &settings());
        Some((row.id, vm::of(&machine, &setting()).ok()?))
    })
    .unzip()
}

fn settings() -> AdmissionSettings {
    AdmissionSettings {
        infra_namespace: INFRA_NAMESPACE.to_owned(),
        ..AdmissionSettings::default()
    }
}

fn setting() -> vm::Setting<'static> {
    vm::Setting {
        env: Env::new(|name| (name == "POD_NAMESPACE").then(|| INFRA_NAMESPACE.to_owned())),
        deployment: Some("web"),
        ..vm::Setting::default()
    }
}

/// Objects of the infra cluster.
fn cluster() -> Vec<Value> {
    let object = |kind: &str, name: &str, spec: Value| {
        let metadata = if kind.contains("Cluster") {
            json!({"name": name})
        } else {
            json!({"name": name, "namespace": INFRA_NAMESPACE})
        };
        json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let size = json!({"cpu": {"guest": 2}, "memory": {"guest": "4Gi"}});
    let sockets = json!({"cpu": {"preferredCPUTopology": "sockets"}});
    vec![
        object("VirtualMachineInstancetype", "standard-2", size.clone()),
        object("VirtualMachineClusterInstancetype", "standard-2", size),
        object("VirtualMachinePreference", "sockets-advantage", sockets.clone()),
        object("VirtualMachineClusterPreference", "sockets-advantage", sockets),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "ubuntu", "namespace": "images", "labels": {
                "instancetype.kubevirt.io/default-instancetype": "standard-2",
                "instancetype.kubevirt.io/default-preference": "sockets-advantage",
            }},
        }),
    ]
}

/// Fails with a list of all errors.
fn none_is(wrong: &[String]) -> Result<()> {
    ensure!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}
