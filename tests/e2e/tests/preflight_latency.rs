//! The latency of admission with preflight checks. An infra cluster that does not answer must not use up the concurrency of
//! others. Prints the times; only their order is asserted.

use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::{
    Case, infra, manifest, objects,
    preflight::{deployment, kubectl, located, start},
};
use futures::future::join_all;
use kube::{Api, api::PostParams, core::DynamicObject};
use serde_json::{Value, json};
use testbed::{
    bed::MACHINES,
    seed::{INFRA_ACCOUNT, INFRA_NAMESPACE, INFRA_SECRET},
};
use tokio::sync::Mutex;

const OTHER: &str = "other-machines";
const OTHER_SECRET: &str = "other-infra";
/// Samples of each time.
const SAMPLES: usize = 20;
/// They measure, so one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn mistakes_are_reported_with_existing_names() -> Result<()> {
    let _alone = ALONE.lock().await;
    let case = start(&[]).await?;
    quota(&case).await?;
    let mut mistaken = manifest::machine("hopeful");
    let vm = manifest::virtual_machine(&mut mistaken);
    vm["instancetype"]["name"] = json!("standrad-2");
    vm["template"]["primaryDisk"]["storageClassName"] = json!("standart");
    let mistaken = deployment("hopeful", &mistaken);
    let mut large = deployment("large", &manifest::machine("large"));
    large["spec"]["replicas"] = json!(5);

    let (mut wrong, mut warned) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let (took, said) = create(&case, &mistaken).await;
        for text in ["did you mean \"standard-2\"?", "did you mean \"standard\"?"] {
            assert!(said.contains(text), "{said}");
        }
        wrong.push(took);
        let begun = Instant::now();
        let dry = ["create", "--dry-run=server", "-f", "-"];
        let (taken, said) = kubectl(&case, &dry, &large).await?;
        warned.push(begun.elapsed());
        assert!(taken, "{said}");
        assert!(
            said.contains("ResourceQuota team") && said.contains("room for 2 of 5 more VMs"),
            "{said}"
        );
    }
    report(
        "a missing instancetype and a StorageClass with a typo: refused",
        &mut wrong,
    );
    report(
        "more memory than the quota has, kubectl's start included: warned",
        &mut warned,
    );
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn a_slow_infra_cluster_hides_no_known_cause() -> Result<()> {
    let _alone = ALONE.lock().await;
    let case = start(&["--infra-unreachable=refuse"]).await?;
    // Two answers one after the other are in time, three are not.
    case.bed
        .infra()
        .proxy()
        .delay(MACHINES, Duration::from_millis(800));
    let mut machine = located("slow");
    let vm = manifest::virtual_machine(&mut machine);
    vm["instancetype"]["name"] = json!("standrad-2");
    vm["template"]["primaryDisk"]["storageClassName"] = json!("standart");
    let (took, said) = create(&case, &machine).await;
    report(
        "an infra cluster that takes 0.8 s for each answer: refused",
        &mut [took],
    );
    assert!(
        said.contains("\"standart\": there is no StorageClass of that name"),
        "{said}"
    );
    assert!(said.contains("the infra cluster could not be asked"), "{said}");
    case.finish_without_controller(&[]).await
}

#[tokio::test]
async fn an_unresponsive_infra_cluster_does_not_block_checks_of_others() -> Result<()> {
    /// As many requests as the webhook handles at once.
    const STUCK: usize = 60;
    let _alone = ALONE.lock().await;
    let case = start(&[]).await?;
    let other = infra::kubeconfig_of(&case, INFRA_ACCOUNT, OTHER).await?;
    infra::store(case.bed.user().client(), OTHER_SECRET, &other).await?;
    let machine = |name: String, secret: &str| {
        let mut machine = located(&name);
        infra::kubeconfig_in(&mut machine)["secretKeyRef"]["name"] = json!(secret);
        machine
    };
    case.bed.infra().proxy().black_hole(MACHINES);
    let stuck: Vec<Value> = (0..STUCK)
        .map(|n| machine(format!("stuck-{n}"), INFRA_SECRET))
        .collect();
    let free: Vec<Value> = (0..SAMPLES)
        .map(|n| machine(format!("free-{n}"), OTHER_SECRET))
        .collect();
    let (stuck, free) = tokio::join!(
        join_all(stuck.iter().map(|machine| create(&case, machine))),
        async {
            // They come while the others are waiting.
            let mut times = Vec::new();
            for machine in &free {
                times.push(create(&case, machine).await);
            }
            times
        }
    );
    for (_, said) in stuck.iter().chain(&free) {
        assert_eq!(said, "", "every one of them is taken, with or without a warning");
    }
    let times =
        |answers: Vec<(Duration, String)>| answers.into_iter().map(|(took, _)| took).collect::<Vec<_>>();
    report(
        "60 at once whose infra cluster is a black hole",
        &mut times(stuck),
    );
    report("meanwhile those of another infra cluster", &mut times(free));
    // The circuit breaker is open: there is no further wait.
    let (taken, said) = kubectl(
        &case,
        &["create", "-f", "-"],
        &machine("late".to_owned(), INFRA_SECRET),
    )
    .await?;
    assert!(
        taken && said.contains("the infra cluster could not be asked"),
        "{said}"
    );
    case.finish_without_controller(&[]).await
}

/// Creates it with one request of a connected client. Returns the latency, and the refusal.
async fn create(case: &Case, object: &Value) -> (Duration, String) {
    let kind = object["kind"].as_str().unwrap_or_default();
    let resource = objects::ours(kind);
    let api = Api::<DynamicObject>::namespaced_with(case.bed.user().client(), manifest::NAMESPACE, &resource);
    let begun = Instant::now();
    let answer = match serde_json::from_value(object.clone()) {
        Ok(object) => api.create(&PostParams::default(), &object).await,
        Err(error) => return (begun.elapsed(), error.to_string()),
    };
    let said = answer.err().map(|error| error.to_string()).unwrap_or_default();
    (begun.elapsed(), said)
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_millis();
    println!(
        "{what}: {} samples, p50 {} ms, p90 {} ms, longest {} ms",
        times.len(),
        at(50),
        at(90),
        at(100)
    );
}

async fn quota(case: &Case) -> Result<()> {
    let infra = case.bed.infra();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team", "namespace": INFRA_NAMESPACE},
        "spec": {"hard": {"requests.memory": "10Gi"}},
    });
    infra
        .kubectl_ok(&["create", "-f", "-"], &quota.to_string())
        .await?;
    // Its controller does not run here.
    let status = json!({"status": {"hard": {"requests.memory": "10Gi"}, "used": {"requests.memory": "1Gi"}}});
    let (status, patch) = (
        status.to_string(),
        [
            "patch",
            "resourcequota",
            "team",
            "--subresource=status",
            "--type=merge",
        ],
    );
    let args = ["--namespace", INFRA_NAMESPACE, "--patch", &status];
    infra.kubectl_ok(&[&patch[..], &args].concat(), "").await?;
    Ok(())
}
