//! Whoever makes two pools of which one selects the other's Machines is told so, as long as it is true.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, manifest, rollout::deployment, wait};
use machinist_shared::api::MachineDeployment;
use serde_json::{Value, json};

#[tokio::test]
async fn pools_that_select_the_same_machines_are_told_of_each_other_until_they_do_not() -> Result<()> {
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
        let tells = |md: &MachineDeployment| overlap(md).is_some_and(|said| said.contains(other));
        wait::for_state(
            &case.deployments(),
            name,
            "told of the other",
            WAIT_TIMEOUT,
            tells,
        )
        .await?;
        let described = case.kubectl(&["describe", "md", name]).await?;
        assert!(described.contains("SelectorOverlap"), "{described}");
    }

    // A set of nobody's is told as well.
    let mut set = manifest::machine_set("alone", 0);
    let labels = json!({"rack": "1"});
    set["spec"]["selector"]["matchLabels"] = labels.clone();
    set["spec"]["template"]["metadata"]["labels"] = labels;
    case.apply(&set).await?;
    let told = |event: &Value| {
        event["regarding"]["name"] == "alone"
            && event["reason"] == "SelectorOverlap"
            && event["note"]
                .as_str()
                .is_some_and(|note| note.contains("MachineSet second-"))
    };
    event(&case, told).await?;

    case.kubectl(&["delete", "md", "second", "--timeout=60s"]).await?;
    let quiet = |md: &MachineDeployment| overlap(md).is_none();
    wait::for_state(
        &case.deployments(),
        "first",
        "told of nobody",
        WAIT_TIMEOUT,
        quiet,
    )
    .await?;
    case.kubectl(&["delete", "machineset", "alone"]).await?;
    case.delete_deployment("first").await?;
    case.finish(&[]).await
}

/// What is said of an overlap.
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
