//! Bootstrap modes: the Secrets of operating-system-manager, as it writes and replaces them, and Machinist's user data for pools
//! without such Secrets.

use anyhow::{Context as _, Result};
use e2e::{
    Case,
    case::{WAIT_TIMEOUT, is_ready, message},
    manifest, osm,
    rollout::deployment,
    wait,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _, api::ListParams};
use machinist_shared::api::Machine;
use machinist_shared::api::names::{TOKEN_SECRET_TYPE, annotation, label};
use serde_json::json;
use testbed::{
    bed::{MACHINES, Options},
    proxy::WriteFuse,
};

#[tokio::test]
async fn a_machine_waits_for_the_secret_of_its_revision_and_joins_with_it() -> Result<()> {
    let case = Case::start().await?;
    osm::install(&case).await?;
    let deployment = osm::deployment(&case, Some("osp-ubuntu")).await?;
    let first = osm::set(&case, "pool-1", "1", Some(&deployment)).await?;
    case.apply(&osm::machine("early", &first)).await?;
    let said = case.condition("early", "WaitingForBootstrapSecret").await?;
    assert!(said.contains(osm::SECRET), "{said}");
    osm::rotate(&case, "2", "too-new").await?;
    let said = case.condition("early", "BootstrapSecretRevision").await?;
    assert!(said.contains("of revision 2"), "{said}");
    assert_eq!(
        case.vm_history.uids("early"),
        Vec::<String>::new(),
        "no VM without user data"
    );

    osm::rotate(&case, "1", "first").await?;
    case.node_ready("early").await?;
    assert_eq!(made_by(&case, "early").await?.as_deref(), Some("first"));
    let given = osm::given(&case, "early").await?;
    assert!(given.starts_with("#cloud-config\n\n{"), "{given}");
    assert!(given.contains("--hostname-override=early"), "{given}");
    assert_eq!(tokens(&case).await?, 0, "no Machine needs a token of ours");

    // A rollout: the second revision replaces the first, whose Machines stay, and get no successors.
    let second = osm::set(&case, "pool-2", "2", Some(&deployment)).await?;
    osm::rotate(&case, "2", "second").await?;
    case.apply(&osm::machine("late", &first)).await?;
    case.apply(&osm::machine("newer", &second)).await?;
    case.node_ready("newer").await?;
    assert_eq!(made_by(&case, "newer").await?.as_deref(), Some("second"));
    case.condition("late", "BootstrapSecretRevision").await?;
    assert_eq!(case.vm_history.uids("late"), Vec::<String>::new());
    assert_eq!(
        case.vm_history.uids("early").len(),
        1,
        "who has joined needs no Secret"
    );

    for name in ["early", "late", "newer"] {
        case.delete_machine(name).await?;
    }
    osm::uninstall(&case).await?;
    case.finish(&[]).await
}

/// With Machinist's controllers: until the Secret is replaced, the new Machine waits for it and the old one stays.
#[tokio::test]
async fn a_rollout_goes_on_when_the_secret_of_its_revision_is_there() -> Result<()> {
    let case = Case::start().await?;
    osm::install(&case).await?;
    osm::rotate(&case, "1", "first").await?;
    let mut pool = deployment(osm::DEPLOYMENT, 1);
    pool["metadata"]["annotations"] = json!({annotation::OPERATING_SYSTEM_PROFILE: "osp-ubuntu"});
    case.apply(&pool).await?;
    case.rollout(osm::DEPLOYMENT, "NewMachineSetAvailable").await?;
    let machines = case.machine_uids().await?;
    let first = machines.keys().next().context("there is no Machine")?;
    assert_eq!(made_by(&case, first).await?.as_deref(), Some("first"));

    pool["spec"]["template"]["spec"]["versions"]["kubelet"] = json!("1.35.2");
    case.apply(&pool).await?;
    let waits = |machine: &Machine| {
        message(machine, "BootstrapSecretRevision").is_some_and(|said| said.contains("has not remade it yet"))
    };
    wait::any(&case.machines(), "Machine that waits", WAIT_TIMEOUT, waits).await?;
    assert!(is_ready(&case.nodes().get(first).await?));
    osm::rotate(&case, "2", "second").await?;
    case.rollout(osm::DEPLOYMENT, "NewMachineSetAvailable").await?;
    let machines = case.machine_uids().await?;
    let second = machines.keys().find(|name| *name != first);
    let second = second.context("there is no other Machine")?;
    assert_eq!(made_by(&case, second).await?.as_deref(), Some("second"));
    assert_eq!(case.vm_history.uids(second).len(), 1);
    assert_eq!(tokens(&case).await?, 0, "no Machine needs a token of ours");

    case.delete_deployment(osm::DEPLOYMENT).await?;
    osm::uninstall(&case).await?;
    case.finish(&[]).await
}

/// operating-system-manager creates no Secret for them.
#[tokio::test]
async fn machines_without_an_operating_system_profile_join_by_machinists_own_user_data() -> Result<()> {
    let case = Case::start().await?;
    let deployment = osm::deployment(&case, None).await?;
    let deployed = osm::set(&case, "pool-1", "1", Some(&deployment)).await?;
    let bare = osm::set(&case, "bare", "1", None).await?;
    for machine in [
        manifest::machine("alone"),
        osm::machine("of-a-bare-set", &bare),
        osm::machine("of-a-deployment", &deployed),
    ] {
        case.apply(&machine).await?;
    }
    let names = ["alone", "of-a-bare-set", "of-a-deployment"];
    for name in names {
        case.node_ready(name).await?;
        assert!(
            osm::given(&case, name)
                .await?
                .contains("/opt/machinist/install.sh")
        );
    }
    for name in names {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

#[tokio::test]
async fn a_machine_that_wants_the_secret_of_a_deployment_and_has_none_fails_with_a_hint() -> Result<()> {
    let case = Case::start().await?;
    let mut wanting = manifest::machine("wanting");
    wanting["metadata"]["annotations"] = json!({annotation::BOOTSTRAP: "osm"});
    case.apply(&wanting).await?;
    let message = case.condition("wanting", "BootstrapFailed").await?;
    assert!(message.contains("machinist.dev/bootstrap=builtin"), "{message}");
    case.delete_machine("wanting").await?;
    case.finish(&[]).await
}

/// The others of its set wait for the Secret of the profile, which a user has added to the deployment.
#[tokio::test]
async fn a_machine_with_the_annotation_builtin_joins_without_the_secret_of_its_profile() -> Result<()> {
    let case = Case::start().await?;
    let deployment = osm::deployment(&case, None).await?;
    let deployed = osm::set(&case, "pool-1", "1", Some(&deployment)).await?;
    let deployments = format!("machinedeployment/{}", osm::DEPLOYMENT);
    let profile = format!("{}=osp-ubuntu", annotation::OPERATING_SYSTEM_PROFILE);
    let annotate = [
        "annotate",
        "--namespace",
        manifest::NAMESPACE,
        &deployments,
        &profile,
    ];
    case.bed.user().kubectl_ok(&annotate, "").await?;
    case.apply(&osm::machine("waiting", &deployed)).await?;
    case.condition("waiting", "WaitingForBootstrapSecret").await?;
    let mut own = osm::machine("own", &deployed);
    own["metadata"]["annotations"] = json!({annotation::BOOTSTRAP: "builtin"});
    case.apply(&own).await?;
    case.node_ready("own").await?;
    for name in ["waiting", "own"] {
        case.delete_machine(name).await?;
    }
    case.finish(&[]).await
}

/// The VM gets the whole user data of the replaced Secret.
#[tokio::test]
async fn a_secret_that_is_replaced_for_the_same_revision_after_the_vm_is_used_completely() -> Result<()> {
    let case = start_without_leases().await?;
    osm::install(&case).await?;
    let deployment = osm::deployment(&case, Some("osp-ubuntu")).await?;
    let set = osm::set(&case, "pool-1", "1", Some(&deployment)).await?;
    osm::rotate(&case, "1", "before").await?;
    killed_after_the_vm(&case, &osm::machine("same", &set)).await?;
    osm::rotate(&case, "1", "after").await?;
    case.bed.controller().start().await?;
    case.node_ready("same").await?;
    assert_eq!(made_by(&case, "same").await?.as_deref(), Some("after"));
    assert_eq!(case.vm_history.uids("same").len(), 1);
    case.delete_machine("same").await?;
    osm::uninstall(&case).await?;
    case.finish(&[]).await
}

/// The VM waits without a guest, and is recreated when its set has the other revision.
#[tokio::test]
async fn a_secret_that_is_replaced_for_another_revision_after_the_vm_is_not_used() -> Result<()> {
    let case = start_without_leases().await?;
    osm::install(&case).await?;
    let deployment = osm::deployment(&case, Some("osp-ubuntu")).await?;
    let set = osm::set(&case, "pool-1", "1", Some(&deployment)).await?;
    osm::rotate(&case, "1", "before").await?;
    killed_after_the_vm(&case, &osm::machine("other", &set)).await?;
    osm::rotate(&case, "2", "rolled-out").await?;
    case.bed.controller().start().await?;
    let message = case.condition("other", "BootstrapSecretRevision").await?;
    assert!(message.contains("of revision 2"), "{message}");
    assert!(osm::given(&case, "other").await.is_err(), "there is user data");
    let revision = format!("{}=2", annotation::REVISION);
    let annotate = [
        "annotate",
        "--overwrite",
        "--namespace",
        manifest::NAMESPACE,
        "machineset/pool-1",
        &revision,
    ];
    case.bed.user().kubectl_ok(&annotate, "").await?;
    case.node_ready("other").await?;
    assert_eq!(made_by(&case, "other").await?.as_deref(), Some("rolled-out"));
    assert_eq!(case.vm_history.uids("other").len(), 2, "one never had a guest");
    case.delete_machine("other").await?;
    osm::uninstall(&case).await?;
    case.finish(&[]).await
}

/// Without leader election, so that no Lease outlives a SIGKILL.
async fn start_without_leases() -> Result<Case> {
    Case::start_with(Options {
        controller_args: vec!["--enable-leader-election=false".to_owned()],
        ..Options::default()
    })
    .await
}

/// Applies the Machine and kills the controller right after it has created the VM. Returns when the process has exited.
async fn killed_after_the_vm(case: &Case, machine: &serde_json::Value) -> Result<()> {
    let proxy = case.bed.infra().proxy();
    // The fuse does not count the dry run of admission.
    let fuse = WriteFuse::after(1, case.bed.controller().killer()?);
    proxy.arm(MACHINES, &fuse);
    case.apply(machine).await?;
    fuse.fired().await;
    case.bed.controller().kill();
    proxy.disarm(MACHINES);
    Ok(())
}

/// The label that identifies the user data of a Node.
async fn made_by(case: &Case, node: &str) -> Result<Option<String>> {
    let has_labels = |node: &k8s_openapi::api::core::v1::Node| node.labels().contains_key(label::OWNED_BY);
    let node = wait::for_state(&case.nodes(), node, "decorated", WAIT_TIMEOUT, has_labels).await?;
    Ok(node.labels().get("made").cloned())
}

/// How many of Machinist's bootstrap tokens there are.
async fn tokens(case: &Case) -> Result<usize> {
    let secrets: Api<Secret> = Api::namespaced(case.bed.user().client(), "kube-system");
    let of_type = ListParams::default()
        .fields(&format!("type={TOKEN_SECRET_TYPE}"))
        .labels(label::MACHINE_UID);
    Ok(secrets.list(&of_type).await?.items.len())
}
