//! User data of operating-system-manager.

use super::*;

/// The record of a VM whose user data is operating-system-manager's.
fn osm_record(revision: &str) -> Value {
    placed(&json!({"status": {"providerStatus": {"bootstrapSecret": {"revision": revision, "id": "osm-1"}}}}))
}

/// The VM that was made with it, and is not recorded yet.
fn osm_vm() -> Open {
    let volume = json!([{"cloudInitNoCloud": {"secretRef": {"name": "userdata-m1-osm-1"}}}]);
    Open {
        vm: Some(vm(&json!({"spec": {"template": {"spec": {"volumes": volume}}}}))),
        facts: Facts::NotNeeded,
        ..open()
    }
}

#[test]
fn with_user_data_of_operating_system_manager_no_token_is_made() {
    let mut o = observed(machine(&json!({})), open());
    o.bootstrap = Bootstrap::Osm("3".into());
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan),
        [
            "patch the Machine",
            "render the user data",
            "create the VirtualMachine"
        ]
    );
    let id = format!("osm-{:x}", now().as_millisecond());
    assert_eq!(
        patch(&plan)["status"]["providerStatus"]["bootstrapSecret"],
        json!({"revision": "3", "id": id})
    );
    assert!(
        plan.steps
            .contains(&Step::RenderUserData(UserDataSource::BootstrapSecret(id)))
    );
}

#[rstest]
#[case::the_same_revision("3", "osm-1")]
#[case::another_one("4", "osm-19b796dd600")]
fn what_was_begun_goes_on_under_its_name(#[case] revision: &str, #[case] id: &str) {
    let mut o = observed(machine(&osm_record("3")), open());
    o.bootstrap = Bootstrap::Osm(revision.into());
    let plan = decide(&o, now());
    let source = UserDataSource::BootstrapSecret(id.into());
    assert!(
        plan.steps.contains(&Step::RenderUserData(source)),
        "{:?}",
        plan.steps
    );
}

#[rstest]
#[case::not_there(Bootstrap::Waiting("not there".into()), "WaitingForBootstrapSecret")]
#[case::of_another_revision(Bootstrap::OtherRevision("old".into()), "BootstrapSecretRevision")]
#[case::never(Bootstrap::Invalid("no mode".into()), "BootstrapFailed")]
fn without_user_data_no_vm_is_made(#[case] bootstrap: Bootstrap, #[case] reason: &str) {
    let mut o = observed(machine(&json!({})), open());
    o.bootstrap = bootstrap;
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", plan.steps);
    for kind in ["BootstrapReady", "InfrastructureReady", "Ready"] {
        assert_eq!(condition(&plan, kind)["reason"], reason);
    }
    assert_eq!(patch(&plan)["status"].get("providerStatus"), None);
}

#[test]
fn the_vm_gets_the_user_data_of_the_revision_that_it_was_made_for() {
    let mut o = observed(machine(&osm_record("3")), osm_vm());
    o.bootstrap = Bootstrap::Osm("3".into());
    let plan = decide(&o, now());
    assert_eq!(
        verbs(&plan)[..2],
        ["render the user data", "create the user-data Secret"]
    );
    let record = &patch(&plan)["status"]["providerStatus"];
    assert_eq!(record["vmUID"], "v1");
    assert_eq!(record.get("tokenID"), None);
}

#[rstest]
#[case::remade_for_a_newer_one(Bootstrap::Osm("4".into()))]
#[case::the_mode_was_changed(Bootstrap::Builtin)]
fn a_vm_whose_user_data_was_replaced_before_its_guest_got_it_is_recreated(#[case] bootstrap: Bootstrap) {
    let mut o = observed(machine(&osm_record("3")), osm_vm());
    o.bootstrap = bootstrap;
    let plan = decide(&o, now());
    let record = &patch(&plan)["status"]["providerStatus"];
    assert_eq!(record["former"]["uid"], "v1");
    assert_eq!(record["bootstrapSecret"], Value::Null);
    assert!(!verbs(&plan).contains(&"create the user-data Secret"));
}

#[rstest]
#[case::remade_right_now(Bootstrap::Waiting("not there".into()), "WaitingForBootstrapSecret")]
#[case::of_another_revision(Bootstrap::OtherRevision("old".into()), "BootstrapSecretRevision")]
fn a_vm_waits_for_user_data_that_may_come_back(#[case] bootstrap: Bootstrap, #[case] reason: &str) {
    let mut o = observed(machine(&osm_record("3")), osm_vm());
    o.bootstrap = bootstrap;
    let plan = decide(&o, now());
    assert!(touches_nothing(&plan), "{:?}", plan.steps);
    assert_eq!(condition(&plan, "BootstrapReady")["reason"], reason);
    assert_eq!(patch(&plan)["status"].get("providerStatus"), None);
}

#[test]
fn a_guest_of_operating_system_manager_needs_no_token_of_ours() {
    let mut record = osm_record("3");
    json_patch::merge(
        &mut record,
        &json!({"status": {"providerStatus": {"vmUID": "v1"}}}),
    );
    let plan = decide(&observed(machine(&record), running()), now());
    let bootstrap = condition(&plan, "BootstrapReady");
    assert_eq!(bootstrap["reason"], "DataReady");
    assert!(bootstrap["message"].as_str().unwrap().contains("revision 3"));
    assert!(!verbs(&plan).iter().any(|verb| verb.contains("token")));
}
