//! Gives Machines that were restored from a backup the VMs of the Machines that they replace.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use machinist_infra::kube::error::RemoteError;
use machinist_shared::api;
use machinist_shared::api::names::annotation;
use serde_json::json;

use crate::kind::Kind;
use crate::machines::Machine;
use crate::report::{Orphan, Report, age, aligned};

/// A restored Machine, and the VM that it is to get.
#[derive(Debug)]
pub struct Adoption<'a> {
    /// The Machine, which has never had a VM.
    pub machine: &'a Machine,
    /// The VM of its name, whose Machine is gone.
    pub vm: &'a Orphan,
}

/// The Machines that have never had a VM, each with the VM of its name that bears this cluster's identity and that of a
/// Machine that is gone; and why others get none.
pub fn find<'a>(machines: &'a [Machine], report: &'a Report) -> (Vec<Adoption<'a>>, Vec<String>) {
    let mut vms: BTreeMap<&str, Vec<&Orphan>> = BTreeMap::new();
    for orphan in &report.orphans {
        if orphan.kind == Kind::VirtualMachine.name() {
            vms.entry(&orphan.name).or_default().push(orphan);
        }
    }
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for machine in machines {
        let waits = machine.vms.is_empty() && !machine.is_deleting;
        let Some(vms) = vms.get(machine.name.as_str()).filter(|_| waits) else {
            continue;
        };
        match vms[..] {
            [vm] if !vm.deleting => found.push(Adoption { machine, vm }),
            [_] => refused.push(format!("{machine}: its VM is being deleted")),
            _ => refused.push(format!(
                "{machine}: there are several VMs of its name; select one with --infra-namespace or --infra-kubeconfig"
            )),
        }
    }
    (found, refused)
}

/// What would be adopted, one VM a line.
pub fn preview(adoptions: &[Adoption<'_>], now: Timestamp) -> String {
    let heading = [
        "NAMESPACE",
        "MACHINE",
        "INFRA-NAMESPACE",
        "VM-UID",
        "FORMER-MACHINE-UID",
        "AGE",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(adoptions.iter().map(|Adoption { machine, vm }| {
        vec![
            machine.namespace.clone(),
            machine.name.clone(),
            vm.infra_namespace.namespace.clone(),
            vm.uid.clone(),
            vm.machine_uid.clone(),
            age(vm, now),
        ]
    }));
    aligned(&rows)
}

/// Writes the decision onto the Machine, if that is the one that was shown. The controller adopts the VM if it agrees.
pub async fn adopt(client: &Client, adoption: &Adoption<'_>) -> Result<(), RemoteError> {
    let Adoption { machine, vm } = adoption;
    let resource = ApiResource::erase::<api::Machine>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &machine.namespace, &resource);
    let patch = json!({"metadata": {"uid": machine.uid, "annotations": {annotation::ADOPT_VM: vm.uid}}});
    let params = PatchParams::default();
    api.patch(&machine.name, &params, &Patch::Merge(&patch)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Where;
    use rstest::rstest;

    fn machine(name: &str) -> Machine {
        Machine {
            namespace: "ns".to_owned(),
            name: name.to_owned(),
            uid: format!("new-{name}"),
            ..Machine::default()
        }
    }

    fn left(kind: &'static str, name: &str, namespace: &str) -> Orphan {
        Orphan {
            kind,
            infra_namespace: Where {
                server: "https://a".to_owned(),
                namespace: namespace.to_owned(),
            },
            name: name.to_owned(),
            machine: Some(name.to_owned()),
            machine_uid: format!("old-{name}"),
            owner: None,
            uid: format!("vm-{name}"),
            created: None,
            deleting: false,
        }
    }

    fn report(orphans: Vec<Orphan>) -> Report {
        Report {
            orphans,
            ..Report::new(
                "c",
                &[],
                Vec::new(),
                Vec::new(),
                &crate::machines::Living::default(),
            )
        }
    }

    #[rstest]
    #[case::restored(machine("web-1"), vec![left("VirtualMachine", "web-1", "vms")], 1, 0)]
    #[case::with_a_vm(Machine { vms: vec!["v".to_owned()], ..machine("web-1") }, vec![left("VirtualMachine", "web-1", "vms")], 0, 0)]
    #[case::being_deleted(Machine { is_deleting: true, ..machine("web-1") }, vec![left("VirtualMachine", "web-1", "vms")], 0, 0)]
    #[case::of_another_name(machine("web-2"), vec![left("VirtualMachine", "web-1", "vms")], 0, 0)]
    #[case::a_disk_is_no_vm(machine("web-1"), vec![left("DataVolume", "web-1", "vms")], 0, 0)]
    #[case::of_two_vms(machine("web-1"), vec![left("VirtualMachine", "web-1", "vms"), left("VirtualMachine", "web-1", "other")], 0, 1)]
    #[case::of_a_vm_that_goes(machine("web-1"), vec![Orphan { deleting: true, ..left("VirtualMachine", "web-1", "vms") }], 0, 1)]
    fn a_machine_gets_the_one_vm_of_its_name_that_has_no_machine(
        #[case] machine: Machine,
        #[case] orphans: Vec<Orphan>,
        #[case] adopted: usize,
        #[case] refused: usize,
    ) {
        let (machines, report) = ([machine], report(orphans));
        let (found, why) = find(&machines, &report);
        assert_eq!((found.len(), why.len()), (adopted, refused), "{why:?}");
        let shown = preview(&found, Timestamp::UNIX_EPOCH);
        assert_eq!(
            shown.contains("vm-web-1") && shown.contains("old-web-1"),
            adopted == 1,
            "{shown}"
        );
    }
}
