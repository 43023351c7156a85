//! MachineDeployments scaled by other clients: by kubectl, and by a HorizontalPodAutoscaler, which only uses the `/scale`
//! subresource.

use anyhow::Result;
use e2e::{Case, case::WAIT_TIMEOUT, rollout::deployment, wait};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use machinist_shared::api::MachineDeployment;
use serde_json::{Value, json};

const POOL: &str = "pool";

#[tokio::test]
async fn a_horizontal_pod_autoscaler_keeps_a_pool_within_its_bounds() -> Result<()> {
    let case = Case::start().await?;
    case.apply(&deployment(POOL, 1)).await?;
    case.kubectl(&["wait", "--for=condition=Available", "md/pool", "--timeout=120s"])
        .await?;
    case.apply(&autoscaler(2, 3)).await?;
    available(&case, 2).await?;
    // It has read size and selector; without a metrics server, it cannot compute a size.
    let autoscalers: Api<HorizontalPodAutoscaler> =
        Api::namespaced(case.bed.user().client(), e2e::manifest::NAMESPACE);
    let fits = |hpa: &HorizontalPodAutoscaler| {
        said(hpa, "AbleToScale").0 == "True"
            && said(hpa, "ScalingActive") == ("False".to_owned(), "FailedGetResourceMetric".to_owned())
    };
    let hpa = wait::for_state(&autoscalers, POOL, "out of anything to weigh", WAIT_TIMEOUT, fits).await?;
    assert_eq!(said(&hpa, "AbleToScale").1, "SucceededGetScale");
    let status = hpa.status.unwrap_or_default();
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(2), 2));

    // The autoscaler corrects a size beyond its bounds, and Machines are created and deleted.
    case.kubectl(&["scale", "md/pool", "--replicas=4"]).await?;
    let is_scaled_back = |md: &MachineDeployment| md.spec.replicas == Some(3);
    wait::for_state(
        &case.deployments(),
        POOL,
        "scaled back",
        WAIT_TIMEOUT,
        is_scaled_back,
    )
    .await?;
    available(&case, 3).await?;
    case.apply(&autoscaler(1, 1)).await?;
    available(&case, 1).await?;
    let table = case.kubectl(&["get", "hpa", POOL]).await?;
    assert!(table.contains("MachineDeployment/pool"), "{table}");
    println!("{table}");

    case.kubectl(&["delete", "hpa", POOL]).await?;
    case.kubectl(&["scale", "md/pool", "--replicas=0"]).await?;
    available(&case, 0).await?;
    case.kubectl(&["wait", "--for=condition=Available", "md/pool", "--timeout=60s"])
        .await?;
    case.delete_deployment(POOL).await?;
    case.finish(&[]).await
}

fn autoscaler(min: i32, max: i32) -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": POOL, "namespace": e2e::manifest::NAMESPACE},
        "spec": {
            "scaleTargetRef": {"apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineDeployment", "name": POOL},
            "minReplicas": min, "maxReplicas": max,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}}],
        },
    })
}

/// Status and reason of a condition.
fn said(hpa: &HorizontalPodAutoscaler, kind: &str) -> (String, String) {
    let conditions = hpa
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let found = conditions.into_iter().find(|found| found.type_ == kind);
    found.map_or_else(Default::default, |found| {
        (found.status.clone(), found.reason.clone().unwrap_or_default())
    })
}

/// Waits until there are as many Machines as that, and all of them are available.
async fn available(case: &Case, count: i32) -> Result<()> {
    let fits = |md: &MachineDeployment| {
        let status = md.status.clone().unwrap_or_default();
        let counts = [status.replicas, status.available_replicas];
        md.spec.replicas == Some(count)
            && status.observed_generation == md.metadata.generation
            && counts.map(Option::unwrap_or_default) == [count, count]
    };
    let what = format!("{count} available Machines");
    wait::for_state(&case.deployments(), POOL, &what, WAIT_TIMEOUT, fits)
        .await
        .map(drop)
}
