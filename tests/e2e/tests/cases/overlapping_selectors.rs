//! Two pools of which one selects the other's Machines have a warning in their conditions, as long as they overlap.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, manifest, rollout::deployment, wait};
use machinist_shared::api::MachineDeployment;
use serde_json::{Value, json};

#[tokio::test]
async fn overlapping_selectors_are_reported_on_both_pools_until_they_are_disjoint() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&deployment("first", 0)).await?;
    case.rollout("first", "NewMachineSetAvailable").await?;
    assert_eq!(overlap(&case.deployments().get("first").await?), None);

    // Its Machines have the labels of both.
    let mut second = deployment("second", 0);
    second["spec"]["selector"] = json!({"matchLabels": {"rack": "1"}});
    second["spec"]["template"]["metadata"]["labels"] = json!({"rack": "1", "pool": "first"});
    case.apply(&second).await?;
    for (name, other) in [("first", "second"), ("second", "first")] {
        let names_other = |md: &MachineDeployment| overlap(md).is_some_and(|said| said.contains(other));
        wait::for_state(
            &case.deployments(),
            name,
            "reported with the other",
            WAIT_TIMEOUT,
            names_other,
        )
        .await?;
        let described = case.kubectl(&["describe", "md", name]).await?;
        assert!(described.contains("SelectorOverlap"), "{described}");
    }

    // The overlap of a standalone set is reported as well.
    let mut set = manifest::machine_set("alone", 0);
    let labels = json!({"rack": "1"});
    set["spec"]["selector"]["matchLabels"] = labels.clone();
    set["spec"]["template"]["metadata"]["labels"] = labels;
    case.apply(&set).await?;
    let is_overlap = |event: &Value| {
        event["regarding"]["name"] == "alone"
            && event["reason"] == "SelectorOverlap"
            && event["note"]
                .as_str()
                .is_some_and(|note| note.contains("MachineSet second-"))
    };
    event(&case, is_overlap).await?;

    case.kubectl(&["delete", "md", "second", "--timeout=60s"]).await?;
    let quiet = |md: &MachineDeployment| overlap(md).is_none();
    wait::for_state(
        &case.deployments(),
        "first",
        "without an overlap",
        WAIT_TIMEOUT,
        quiet,
    )
    .await?;
    case.kubectl(&["delete", "machineset", "alone"]).await?;
    case.delete_deployment("first").await?;
    case.finish(&[]).await
}

/// The message about an overlap.
fn overlap(md: &MachineDeployment) -> Option<String> {
    let conditions = md
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let found = conditions
        .into_iter()
        .find(|found| found.type_ == "SelectorOverlap")?;
    found.message.clone()
}

/// Waits for an Event.
async fn event(case: &Case, fits: impl Fn(&Value) -> bool) -> Result<()> {
    let events: kube::Api<k8s_openapi::api::events::v1::Event> =
        kube::Api::namespaced(case.bed.user().client(), manifest::NAMESPACE);
    let fits = |event: &k8s_openapi::api::events::v1::Event| {
        serde_json::to_value(event).is_ok_and(|event| fits(&event))
    };
    wait::any(&events, "Event about the set", WAIT_TIMEOUT, fits).await
}
