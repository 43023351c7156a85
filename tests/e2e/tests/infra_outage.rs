//! Two infra clusters, one of them cut off for a while, and its credential rotated meanwhile: the Machines of the
//! other continue, and nothing is lost. Prints their times with and without the outage.
//!
//! `OUTAGE_MACHINES` is how many Machines each of the two has at the end, `OUTAGE_SECONDS` how long the cut lasts.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use e2e::{Case, asked, infra, joins::Joins, manifest::NAMESPACE, objects, vm_history::VmHistory, wait};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{Api, ResourceExt as _, api::PostParams, core::DynamicObject};
use testbed::{AnotherInfra, Cluster, bed::MACHINES, seed::INFRA_SECRET};

const OTHER_SECRET: &str = "other-infra";
/// Everything is back long before that, on a busy machine as well.
const WAIT_TIMEOUT: Duration = Duration::from_mins(10);
/// Requests of this test in flight.
const AT_ONCE: usize = 8;

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one scenario, step by step")]
async fn a_cut_off_infra_cluster_slows_no_other_and_loses_nothing() -> Result<()> {
    let (each, cut) = (number("OUTAGE_MACHINES", 20)?, number("OUTAGE_SECONDS", 15)?);
    let case = Case::start_alone(testbed::bed::Options::default().on_two_clusters()).await?;
    let other = AnotherInfra::start(&case.bed, "other-infra").await?;
    let (user, proxy) = (case.bed.user().client(), case.bed.infra().proxy());
    infra::store(user.clone(), OTHER_SECRET, &other.kubeconfig().await?).await?;
    let (vm_history, joins) = (VmHistory::record(other.client()), Joins::record(user.clone()));
    let names = |letter: &str, round: usize| -> Vec<String> {
        (0..each / 2).map(|n| format!("{letter}-{round}-{n}")).collect()
    };
    let both = async |round: usize| {
        let (cut, free) = (names("a", round), names("b", round));
        let begun = tokio::try_join!(
            create(&case, &cut, INFRA_SECRET),
            create(&case, &free, OTHER_SECRET)
        )?;
        anyhow::Ok((begun.0, begun.1))
    };

    // Both are opened before anything is measured.
    let first = [vec!["a-0".to_owned()], vec!["b-0".to_owned()]];
    create(&case, &first[0], INFRA_SECRET).await?;
    create(&case, &first[1], OTHER_SECRET).await?;
    joins.wait(&first.concat(), 2, WAIT_TIMEOUT).await?;

    // Half of them without an outage, as the measure.
    let (a, b) = both(1).await?;
    let (a, b) = (sorted(&a), (sorted(&b), b));
    joins
        .wait(&[a.clone(), b.0.clone()].concat(), a.len() * 2, WAIT_TIMEOUT)
        .await?;

    // The other half; the cut comes mid-way.
    let (stuck, free) = (names("a", 2), names("b", 2));
    let (middle, begun) = (stuck.len().div_ceil(2), Instant::now());
    let (before, later) = stuck.split_at(middle);
    let mut begun_free = create(&case, &free[..middle], OTHER_SECRET).await?;
    create(&case, before, INFRA_SECRET).await?;
    proxy.black_hole(MACHINES);
    let cut_off = Instant::now();
    let missing = stuck.len() - joins.known(&stuck);
    let (_, rest) = tokio::try_join!(
        // Admission asks the infra cluster, too, and says in time that it could not.
        create(&case, later, INFRA_SECRET),
        create(&case, &free[middle..], OTHER_SECRET)
    )?;
    begun_free.extend(rest);
    joins.wait(&free, free.len(), WAIT_TIMEOUT).await?;
    println!(
        "the other's were done {:.1} s after the first was asked for",
        begun.elapsed().as_secs_f64()
    );
    for name in a.iter().chain(&stuck) {
        let said = infra::reachable(&case, name, "Unreachable").await?;
        assert!(said.message.contains("no answer within"), "{}", said.message);
        assert_eq!(said.status, "False");
    }
    let rotated = infra::account(&case, "rotated", MACHINES).await?;
    infra::store(user, INFRA_SECRET, &rotated).await?;
    // Machines that are deleted there stay until the controller can confirm that their VMs are gone.
    let uid = case.machines().get(&a[0]).await?.uid().context("no UID")?;
    case.begin_deletion(&a[0]).await?;
    let blocked = case.condition(&a[0], "DeletionBlocked").await?;
    assert!(blocked.contains("cannot confirm"), "{blocked}");

    // The cut lasts that long in any case.
    tokio::time::sleep_until((cut_off + Duration::from_secs(cut as u64)).into()).await;
    proxy.heal(MACHINES);
    let (healed, lasted) = (Instant::now(), cut_off.elapsed());
    joins.wait(&stuck, stuck.len(), WAIT_TIMEOUT).await?;
    println!(
        "cut off for {:.0} s with {missing} of {} still to join; all had their Nodes {:.1} s after its end",
        lasted.as_secs_f64(),
        stuck.len(),
        healed.elapsed().as_secs_f64()
    );
    wait::for_absence(&case.machines(), &a[0], WAIT_TIMEOUT).await?;
    for name in a.iter().skip(1).chain(&stuck) {
        infra::reachable(&case, name, "Reachable").await?;
    }
    let (without, with) = (joins.times(&b.1), joins.times(&begun_free));
    for (what, share) in [("median", 50), ("p90", 90)] {
        let at = |times: &[Duration]| times[(times.len() - 1) * share / 100].as_secs_f64();
        println!(
            "the other's Machines from apply to Node, {what} of {} and {}: {:.2} s without the outage, {:.2} s with it, \
             ratio {:.2}",
            without.len(),
            with.len(),
            at(&without),
            at(&with),
            at(&with) / at(&without)
        );
    }

    // Only the requested VMs were deleted, with their user data, and each was created once.
    let deletions = |cluster: &Cluster| {
        let requests = cluster.proxy().requests_of(MACHINES);
        let deleted = requests.iter().filter(|request| request.target.verb == "delete");
        deleted
            .map(|request| request.target.name.clone())
            .collect::<Vec<_>>()
    };
    let user_data = format!("userdata-{uid}-");
    let is_asked_for = |name: &String| *name == a[0] || name.starts_with(&user_data);
    let deleted = deletions(case.bed.infra());
    assert!(deleted.iter().all(is_asked_for), "{deleted:?}");
    assert_eq!(deletions(&other), Vec::<String>::new());
    for name in first[0].iter().chain(&a).chain(&stuck) {
        assert_eq!(
            case.vm_history.uids(name).len(),
            1,
            "{name}: one VM in a Machine's life"
        );
    }
    for name in first[1].iter().chain(&b.0).chain(&free) {
        assert_eq!(
            vm_history.uids(name).len(),
            1,
            "{name}: one VM in a Machine's life"
        );
    }
    let left = [first.concat(), a[1..].to_vec(), b.0, stuck, free].concat();
    // A few at a time: all at once overload a small machine.
    stream::iter(&left)
        .map(async |name| {
            case.begin_deletion(name).await?;
            wait::for_absence(&case.machines(), name, WAIT_TIMEOUT).await
        })
        .buffer_unordered(2 * AT_ONCE)
        .try_collect::<()>()
        .await?;
    let vms = objects::infra(other.client(), &objects::virtual_machine());
    assert_eq!(vms.list(&kube::api::ListParams::default()).await?.items.len(), 0);
    case.finish(&[]).await
}

#[tokio::test]
async fn a_slow_infra_cluster_slows_no_other() -> Result<()> {
    // Slow, and too fast for a timeout.
    const DELAY: Duration = Duration::from_secs(2);
    let each = number("OUTAGE_MACHINES", 20)?.min(20) / 2;
    let case = Case::start_alone(testbed::bed::Options::default().on_two_clusters()).await?;
    let other = AnotherInfra::start(&case.bed, "other-infra").await?;
    let (user, proxy) = (case.bed.user().client(), case.bed.infra().proxy());
    infra::store(user.clone(), OTHER_SECRET, &other.kubeconfig().await?).await?;
    let (vm_history, joins) = (VmHistory::record(other.client()), Joins::record(user));
    let names = |letter: &str, round: usize| -> Vec<String> {
        (0..each).map(|n| format!("{letter}-{round}-{n}")).collect()
    };
    let mut measured = Vec::new();
    for round in 0..3 {
        let (slow, free) = (names("a", round), names("b", round));
        if round == 2 {
            proxy.delay(MACHINES, DELAY);
        }
        let (_, begun) = tokio::try_join!(
            create(&case, &slow, INFRA_SECRET),
            create(&case, &free, OTHER_SECRET)
        )?;
        joins.wait(&free, free.len(), WAIT_TIMEOUT).await?;
        measured.push(joins.times(&begun));
        if round < 2 {
            joins.wait(&slow, slow.len(), WAIT_TIMEOUT).await?;
        }
    }
    let slow = names("a", 2);
    println!(
        "{} of {} Machines of the slow one have joined when all of the other's have",
        joins.known(&slow),
        slow.len()
    );
    for name in &slow {
        infra::reachable(&case, name, "Reachable").await?;
    }
    joins.wait(&slow, slow.len(), WAIT_TIMEOUT).await?;
    proxy.heal(MACHINES);
    let median = |times: &[Duration]| times[(times.len() - 1) / 2].as_secs_f64();
    println!(
        "the other's Machines from apply to Node, median of {each}: {:.2} s without, {:.2} s beside one that answers after \
         {DELAY:?}, ratio {:.2}",
        median(&measured[1]),
        median(&measured[2]),
        median(&measured[2]) / median(&measured[1])
    );
    for round in 0..3 {
        for name in names("a", round) {
            assert_eq!(
                case.vm_history.uids(&name).len(),
                1,
                "{name}: one VM in a Machine's life"
            );
            case.begin_deletion(&name).await?;
        }
        for name in names("b", round) {
            assert_eq!(
                vm_history.uids(&name).len(),
                1,
                "{name}: one VM in a Machine's life"
            );
            case.begin_deletion(&name).await?;
        }
    }
    for name in (0..3).flat_map(|round| [names("a", round), names("b", round)].concat()) {
        wait::for_absence(&case.machines(), &name, WAIT_TIMEOUT).await?;
    }
    case.finish(&[]).await
}

/// Creates Machines with that kubeconfig, and returns when each was requested.
async fn create(case: &Case, names: &[String], secret: &str) -> Result<BTreeMap<String, Instant>> {
    let machines =
        Api::<DynamicObject>::namespaced_with(case.bed.user().client(), NAMESPACE, &objects::ours("Machine"));
    stream::iter(names)
        .map(async |name| {
            // With a location, admission does not read the StorageClass.
            let mut machine = preflight::located(name);
            infra::kubeconfig_in(&mut machine)["secretKeyRef"]["name"] = secret.into();
            let (object, begun) = (serde_json::from_value(machine)?, Instant::now());
            machines.create(&PostParams::default(), &object).await?;
            anyhow::Ok((name.clone(), begun))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

fn sorted(begun: &BTreeMap<String, Instant>) -> Vec<String> {
    begun.keys().cloned().collect()
}

fn number(variable: &str, default: usize) -> Result<usize> {
    std::env::var(variable).map_or(Ok(default), |text| {
        text.parse()
            .with_context(|| format!("{variable} is no number: {text:?}"))
    })
}
