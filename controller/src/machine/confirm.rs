//! Whether what a plan takes for absent is absent. A watch that is open and silent shows the past, so before anything ends because
//! something was not seen, that very object is read.

use kube::Api;
use kube::api::ListParams;
use machinist_infra::cache::store::Key;
use machinist_infra::kube::error::RemoteError;
use machinist_shared::api::names::finalizer;
use serde_json::Value;

use super::plan::{Plan, Step};
use super::snapshot::ApplyContext;
use super::snapshot::types::{Infra, Snapshot};
use crate::cache::{Node, StoredMachine};
use crate::context::Context;

/// Whether the plan ends a Machine, its VM, or what ties the two together.
pub fn ends_something(machine: &StoredMachine, plan: &Plan) -> bool {
    plan.steps.iter().any(|step| match step {
        Step::DeleteMachine | Step::DeleteVm { .. } => true,
        Step::PatchMachine(patch) => {
            let finalizers = patch["metadata"]["finalizers"].as_array();
            let releases = |finalizers: &Vec<Value>| !finalizers.iter().any(|f| f == finalizer::VM);
            let forgets_vm = patch["status"]["providerStatus"]
                .get("vmUID")
                .is_some_and(Value::is_null);
            forgets_vm || machine.has_finalizer(finalizer::VM) && finalizers.is_some_and(releases)
        }
        _ => false,
    })
}

/// Reads what the plan takes for absent, and takes it into the stores; whether all is as it was observed. What was reported to be
/// gone is not read, unless the Machine is replaced.
pub async fn is_as_observed(
    context: &Context,
    observed: &Snapshot,
    handles: &ApplyContext,
    plan: &Plan,
) -> Result<bool, RemoteError> {
    let name = observed.machine.name();
    let key = Key::new("", name);
    // A Node that was deleted may have registered again since: the loss of a Machine is read in any case.
    let is_replaced = plan.steps.contains(&Step::DeleteMachine);
    if observed.node.is_none() && (is_replaced || !context.stores.nodes.saw_deletion(&key)) {
        let nodes: Api<Node> = Api::all(context.client.clone());
        let one = ListParams::default().fields(&format!("metadata.name={name}"));
        let known = context.stores.nodes.latest_version(&key);
        if let Some(node) = nodes.list(&one).await?.items.into_iter().next() {
            context.stores.nodes.observed(&key, Some(node), known);
            return Ok(false);
        }
    }
    let (Infra::Open(open), Some(place)) = (&observed.infra, &handles.open) else {
        return Ok(true);
    };
    // Without a watch, it was polled.
    if open.unwatched.is_some() {
        return Ok(true);
    }
    let is_unseen = open.vm.is_none() && !place.saw_deletion(name);
    if is_unseen || is_replaced && open.vm.is_some() {
        return place.verify_cached(name).await;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::the_machine(&[Step::DeleteMachine], true)]
    #[case::the_vm(&[Step::DeleteVm { uid: "v".into() }], true)]
    #[case::our_finalizer(&[Step::PatchMachine(json!({"metadata": {"finalizers": ["other"]}}))], true)]
    #[case::the_record_of_the_vm(&[Step::PatchMachine(json!({"status": {"providerStatus": {"vmUID": null}}}))], true)]
    #[case::another_finalizer(&[Step::PatchMachine(json!({"metadata": {"finalizers": [finalizer::VM]}}))], false)]
    #[case::a_record(&[Step::PatchMachine(json!({"status": {"providerStatus": {"vmUID": "v"}}}))], false)]
    #[case::a_token(&[Step::DeleteToken], false)]
    fn a_plan_ends(#[case] steps: &[Step], #[case] ends: bool) {
        let machine = json!({"metadata": {"name": "a", "finalizers": [finalizer::VM, "other"]}});
        let machine: StoredMachine = serde_json::from_value(machine).unwrap();
        let plan = Plan {
            steps: steps.to_vec(),
            ..Plan::default()
        };
        assert_eq!(ends_something(&machine, &plan), ends);
    }
}
