//! Kubeconfigs without the right to watch, like those for machine-controller: missing rights are named, polling replaces
//! watches, and granting the rights fixes it.

use std::time::Instant;

use anyhow::Result;
use e2e::{Case, infra, manifest};
use machinist_shared::api::names::condition;
use testbed::bed::{MACHINES, Options};

const ALL: [&str; 3] = ["get", "list", "watch"];

#[tokio::test]
async fn missing_rights_are_named_worked_around_and_granted() -> Result<()> {
    let case = Case::start_with(Options {
        controller_args: vec!["--infra-look-every=3s".to_owned()],
        ..Options::default()
    })
    .await?;
    // No rights at all.
    infra::allow(&case, |_| Vec::new()).await?;
    case.apply(&manifest::machine("worker")).await?;
    let refused = infra::reachable(&case, "worker", "Unreachable").await?;
    assert!(
        refused.message.contains("is forbidden: User"),
        "the API server's words: {}",
        refused.message
    );
    assert!(refused.message.len() < 2048, "{} bytes", refused.message.len());

    // The rights of machine-controller: the owners of disks cannot be determined.
    infra::allow(&case, |resource| {
        if resource.starts_with("virtual") {
            vec!["get"]
        } else {
            Vec::new()
        }
    })
    .await?;
    let blind = infra::ready(&case, "worker", "WatchForbidden").await?;
    assert!(
        blind
            .message
            .contains("datavolumes.cdi.kubevirt.io and persistentvolumeclaims"),
        "{}",
        blind.message
    );
    let named = infra::reachable(&case, "worker", "WatchForbidden").await?;
    assert_eq!(named.status, "True", "it answers");
    assert!(
        named.message.contains(
            "list, watch virtualmachines.kubevirt.io; list, watch virtualmachineinstances.kubevirt.io; list, watch \
             datavolumes.cdi.kubevirt.io; list, watch persistentvolumeclaims"
        ),
        "{}",
        named.message
    );
    assert_eq!(
        case.vm_history.uids("worker"),
        Vec::<String>::new(),
        "no VM where disks cannot be seen"
    );

    // The rights to get and list, without watch.
    infra::allow(&case, |_| vec!["get"]).await?;
    infra::ready(&case, "worker", "VMRunning").await?;
    case.node_ready("worker").await?;
    let proxy = case.bed.infra().proxy();
    proxy.clear_requests();
    let look = proxy
        .seen(|r| r.target.verb == "get" && r.target.resource == "virtualmachines")
        .await;
    assert_eq!((look.status, look.target.name.as_str()), (200, "worker"));

    // The rights are granted in two steps.
    infra::allow(&case, |resource| {
        if resource.starts_with("virtual") {
            ALL.to_vec()
        } else {
            vec!["get"]
        }
    })
    .await?;
    let begun = Instant::now();
    let fewer = |message: &str| {
        message
            .contains("may not list, watch datavolumes.cdi.kubevirt.io; list, watch persistentvolumeclaims;")
    };
    e2e::wait::for_state(
        &case.machines(),
        "worker",
        "fewer rights missing",
        e2e::case::WAIT_TIMEOUT,
        |machine| fewer(&infra::condition_of(machine, condition::INFRASTRUCTURE_REACHABLE).message),
    )
    .await?;
    infra::allow(&case, |_| ALL.to_vec()).await?;
    infra::reachable(&case, "worker", "Reachable").await?;
    println!(
        "rights granted in two steps, effective within {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    proxy.clear_requests();
    case.delete_machine("worker").await?;
    let looks = proxy
        .requests_of(MACHINES)
        .into_iter()
        .filter(|r| r.target.verb == "get");
    assert_eq!(looks.count(), 0, "it is watched");
    assert_eq!(
        case.vm_history.uids("worker").len(),
        1,
        "one VM in a Machine's life"
    );
    case.finish(&[]).await
}
