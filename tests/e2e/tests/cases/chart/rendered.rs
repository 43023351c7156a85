//! What values make of the objects.

use std::collections::BTreeSet;

use anyhow::Result;
use e2e::helm::{self, Helm};
use rstest::rstest;
use serde_json::{Value, json};

use super::{CONTROLLER, EVERYTHING, HOST_NETWORK, NAMESPACE, WEBHOOK, by_name};

const OWN: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const ALL: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

#[rstest]
// Images.
#[case(&[], CONTROLLER, "container/image", json!("machinist:0.1.0"))]
#[case(&["image.tag=v2"], WEBHOOK, "container/image", json!("machinist:v2"))]
#[case(&["image.tag=v2", &format!("image.digest={ALL}")], WEBHOOK, "container/image", json!(format!("machinist@{ALL}")))]
#[case(
    &[&format!("image.digest={ALL}"), "controller.image.tag=canary"], CONTROLLER, "container/image",
    json!("machinist:canary")
)]
#[case(
    &[&format!("image.digest={ALL}"), "controller.image.tag=canary"], WEBHOOK, "container/image",
    json!(format!("machinist@{ALL}"))
)]
#[case(
    &[&format!("image.digest={ALL}"), &format!("webhook.image.digest={OWN}"), "webhook.image.repository=other"], WEBHOOK,
    "container/image", json!(format!("other@{OWN}"))
)]
#[case(&["webhook.image.pullPolicy=Always"], WEBHOOK, "container/imagePullPolicy", json!("Always"))]
#[case(&["image.pullSecrets[0].name=a"], WEBHOOK, "pod/imagePullSecrets", json!([{"name": "a"}]))]
// Where pods run.
#[case(&[], WEBHOOK, "pod/nodeSelector", json!({"node-role.kubernetes.io/control-plane": ""}))]
#[case(
    &["controller.nodeSelector.disk=fast"], CONTROLLER, "pod/nodeSelector",
    json!({"disk": "fast", "node-role.kubernetes.io/control-plane": ""})
)]
#[case(
    &["controller.tolerations[0].key=a"], CONTROLLER, "pod/tolerations",
    json!([{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}, {"key": "a"}])
)]
#[case(&["placement=anywhere"], CONTROLLER, "pod/nodeSelector", Value::Null)]
#[case(&["placement=anywhere"], CONTROLLER, "pod/tolerations", Value::Null)]
#[case(
    &[], WEBHOOK, "pod/topologySpreadConstraints/0/labelSelector/matchLabels",
    json!({"app.kubernetes.io/component": "webhook", "app.kubernetes.io/instance": "machinist"})
)]
#[case(
    &["webhook.topologySpreadConstraints[0].topologyKey=zone", "webhook.topologySpreadConstraints[0].maxSkew=1",
      "webhook.topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule",
      "webhook.topologySpreadConstraints[0].labelSelector.matchLabels.a=b"],
    WEBHOOK, "pod/topologySpreadConstraints/0/labelSelector", json!({"matchLabels": {"a": "b"}})
)]
// A webhook in the node's network, whose ports two pods on a node cannot share.
#[case(&["webhook.hostNetwork=true"], WEBHOOK, "pod/dnsPolicy", json!("ClusterFirstWithHostNet"))]
#[case(
    &["webhook.hostNetwork=true"], WEBHOOK, "spec/strategy/rollingUpdate",
    json!({"maxSurge": 0, "maxUnavailable": 1})
)]
#[case(&[], WEBHOOK, "spec/strategy/rollingUpdate", json!({"maxSurge": 1, "maxUnavailable": 0}))]
#[case(&["webhook.hostNetwork=true"], CONTROLLER, "pod/hostNetwork", Value::Null)]
#[case(&["webhook.port=1234"], WEBHOOK, "container/ports/0/containerPort", json!(1234))]
#[case(&["webhook.port=1234"], WEBHOOK, "container/args/0", json!("--listen-address=0.0.0.0:1234"))]
#[case(&["webhook.port=1234"], "Service/machinist-webhook", "spec/ports/0/targetPort", json!("webhook"))]
#[case(&["bindAddress=[::]"], WEBHOOK, "container/args/0", json!("--listen-address=[::]:9876"))]
// Labels that the Deployment selects by are nobody's to change.
#[case(
    &["controller.podLabels.app\\.kubernetes\\.io/component=mine"], CONTROLLER,
    "spec/template/metadata/labels/app.kubernetes.io~1component", json!("controller")
)]
#[case(&["controller.podLabels.team=a"], CONTROLLER, "spec/template/metadata/labels/team", json!("a"))]
// Rights follow the ServiceAccount, and so does whom webhook and policies believe.
#[case(
    &["controller.serviceAccount.name=mine"], "ClusterRoleBinding/machinist-controller", "subjects/0/name",
    json!("mine")
)]
#[case(
    &["controller.serviceAccount.name=mine"], WEBHOOK, "container/args/4",
    json!("--controller-user=system:serviceaccount:machinist-system:mine")
)]
#[case(
    &["controller.serviceAccount.name=mine"], "ValidatingAdmissionPolicy/machinist-secrets",
    "spec/matchConditions/0/expression",
    json!("request.userInfo.username == \"system:serviceaccount:machinist-system:mine\"")
)]
#[case(&["controller.serviceAccount.name=mine"], "ServiceAccount/machinist-controller", "", Value::Null)]
#[case(
    &["controller.serviceAccount.create=false", "controller.serviceAccount.name=mine"], "ServiceAccount/mine", "",
    Value::Null
)]
// Budgets.
#[case(&[], "PodDisruptionBudget/machinist-webhook", "spec/maxUnavailable", json!(1))]
#[case(
    &["webhook.podDisruptionBudget.minAvailable=0"], "PodDisruptionBudget/machinist-webhook", "spec/minAvailable", json!(0)
)]
#[case(&["webhook.podDisruptionBudget.enabled=false"], "PodDisruptionBudget/machinist-webhook", "", Value::Null)]
// A webhook outside the cluster has no pods here.
#[case(&["webhook.url=https://10.0.0.1"], WEBHOOK, "", Value::Null)]
#[case(&["webhook.url=https://10.0.0.1"], "PodDisruptionBudget/machinist-webhook", "", Value::Null)]
#[case(
    &["webhook.url=https://10.0.0.1", "metrics.podMonitor.enabled=true"], "PodMonitor/machinist-webhook", "",
    Value::Null
)]
#[case(
    &["webhook.namespaceSelector.matchLabels.a=b"], "ValidatingWebhookConfiguration/machinist",
    "webhooks/2/namespaceSelector", json!({"matchLabels": {"a": "b"}})
)]
#[case(&[], "ValidatingWebhookConfiguration/machinist", "webhooks/0/matchConditions/0/name", json!("touches-the-spec"))]
#[case(
    &["webhook.exemptController=true", "controller.serviceAccount.name=mine"], "ValidatingWebhookConfiguration/machinist",
    "webhooks/0/matchConditions/0/expression",
    json!("request.userInfo.username != \"system:serviceaccount:machinist-system:mine\"")
)]
// Policies let in whom they name, and everybody where they name nobody.
#[case(&[], "NetworkPolicy/machinist-webhook", "", Value::Null)]
#[case(
    &["networkPolicy.enabled=true"], "NetworkPolicy/machinist-webhook", "spec/ingress",
    json!([{"ports": [{"port": "ops"}]}, {"ports": [{"port": "webhook"}]}])
)]
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.webhookFrom[0].ipBlock.cidr=10.0.0.0/28"],
    "NetworkPolicy/machinist-webhook", "spec/ingress/1/from", json!([{"ipBlock": {"cidr": "10.0.0.0/28"}}])
)]
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.metricsFrom[0].podSelector.matchLabels.a=b"],
    "NetworkPolicy/machinist-controller", "spec/ingress",
    json!([{"ports": [{"port": "metrics"}], "from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}])
)]
#[case(&["networkPolicy.enabled=true"], "NetworkPolicy/machinist-controller", "spec/policyTypes", json!(["Ingress"]))]
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.egress[0].ports[0].port=443"], "NetworkPolicy/machinist-controller",
    "spec/egress", json!([{"ports": [{"port": 443}]}])
)]
// Kubernetes' own value is left alone where ours is taken out.
#[case(&["webhook.podSecurityContext.runAsUser=null"], WEBHOOK, "pod/securityContext/runAsUser", Value::Null)]
#[case(&["webhook.replicas=null"], WEBHOOK, "spec/replicas", Value::Null)]
#[tokio::test]
async fn values_come_out_where_they_belong(
    #[case] sets: &[&str],
    #[case] object: &str,
    #[case] path: &str,
    #[case] want: Value,
) -> Result<()> {
    let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let objects = by_name(Helm::alone().await?.render(NAMESPACE, &sets).await?);
    let path = match path.split_once('/') {
        Some(("pod", rest)) => format!("spec/template/spec/{rest}"),
        Some(("container", rest)) => format!("spec/template/spec/containers/0/{rest}"),
        _ => path.to_owned(),
    };
    let pointer = if path.is_empty() { path } else { format!("/{path}") };
    let found = objects.get(object).and_then(|object| object.pointer(&pointer));
    assert_eq!(found.unwrap_or(&Value::Null), &want, "{object} {pointer}");
    Ok(())
}

#[tokio::test]
async fn alerts_and_dashboard_come_out_as_their_files_have_them() -> Result<()> {
    let sets = [
        "--set",
        "metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true",
    ];
    let helm = Helm::alone().await?;
    let objects = by_name(helm.render(NAMESPACE, &sets).await?);
    let alerts: Value = serde_saphyr::from_str(&std::fs::read_to_string(helm::file("files/alerts.yaml"))?)?;
    assert_eq!(objects["PrometheusRule/machinist"]["spec"], alerts);
    let shown = &objects["ConfigMap/machinist-dashboard"]["data"]["machinist.json"];
    let dashboard = std::fs::read_to_string(helm::file("files/dashboard.json"))?;
    assert_eq!(shown.as_str(), Some(&*dashboard));

    // One that is left out is the only one that is missing.
    let less = "metrics.prometheusRule.disabled={MachinistOrphans}";
    let objects = by_name(
        helm.render(NAMESPACE, &[&sets[..], &["--set", less]].concat())
            .await?,
    );
    let names = |rules: &Value| -> BTreeSet<String> {
        let rules = rules["groups"].as_array().into_iter().flatten();
        let alerts = rules.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        alerts
            .filter_map(|rule| rule["alert"].as_str().map(str::to_owned))
            .collect()
    };
    let mut expected = names(&alerts);
    assert!(expected.remove("MachinistOrphans"));
    assert_eq!(names(&objects["PrometheusRule/machinist"]["spec"]), expected);
    Ok(())
}

#[tokio::test]
async fn the_linter_of_helm_is_content() -> Result<()> {
    let helm = Helm::alone().await?;
    helm.ok(&["lint", "--strict", &helm::chart()]).await?;
    for values in [EVERYTHING, HOST_NETWORK] {
        helm.ok(&[
            "lint",
            "--strict",
            &helm::chart(),
            "--values",
            &helm::file(values),
        ])
        .await?;
    }
    Ok(())
}
