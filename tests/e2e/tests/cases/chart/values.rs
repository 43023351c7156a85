//! Values have descriptions, match the docs, and invalid ones are refused by name.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e::helm::{self, Helm};
use rstest::rstest;
use serde_json::{Value, json};
use testbed::paths;

#[test]
fn the_schema_describes_each_value_and_no_other() -> Result<()> {
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(helm::file("values.schema.json"))?)?;
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(helm::file("values.yaml"))?)?;
    let mut values = values;
    // Values that parent charts may set.
    values["global"] = json!({});
    values["enabled"] = json!(true);
    let mut complaints = Vec::new();
    compare(&schema, &schema, &values, "", &mut complaints);
    assert!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}

/// Compares the properties of a part of the schema with the default of a value.
fn compare(root: &Value, part: &Value, value: &Value, path: &str, complaints: &mut Vec<String>) {
    let part = resolved(root, part);
    let Some(properties) = part["properties"].as_object() else {
        return;
    };
    if part["additionalProperties"] != json!(false) {
        complaints.push(format!("{path}: takes any name"));
    }
    for (name, property) in properties {
        let described =
            property["description"].is_string() || resolved(root, property)["description"].is_string();
        if !described {
            complaints.push(format!("{path}/{name}: has no description"));
        }
    }
    let defaults = value.as_object().into_iter().flatten();
    let (names, known): (BTreeSet<_>, BTreeSet<_>) = (
        defaults.map(|(name, _)| name).collect(),
        properties.keys().collect(),
    );
    // The contents of an object that is empty by default are up to the user.
    if names.is_empty() {
        return;
    }
    for name in names.symmetric_difference(&known) {
        complaints.push(format!(
            "{path}/{name}: in one of values.yaml and values.schema.json"
        ));
    }
    for (name, property) in properties {
        compare(
            root,
            property,
            &value[name],
            &format!("{path}/{name}"),
            complaints,
        );
    }
}

fn resolved<'a>(root: &'a Value, part: &'a Value) -> &'a Value {
    let reference = part["$ref"]
        .as_str()
        .or_else(|| part["allOf"][0]["$ref"].as_str());
    match reference.and_then(|reference| reference.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(&Value::Null),
        None => part,
    }
}

#[test]
fn the_docs_mention_only_existing_values() -> Result<()> {
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(helm::file("values.yaml"))?)?;
    let tops: BTreeSet<_> = values
        .as_object()
        .into_iter()
        .flatten()
        .map(|(top, _)| top)
        .collect();
    let mut found = 0;
    for entry in std::fs::read_dir(paths::workspace().join("docs"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        // Every second piece is between backquotes; `--set name=value` and `name: value` are about names.
        for code in text.split('`').skip(1).step_by(2) {
            let words = code.split(|c: char| !(c.is_ascii_alphanumeric() || "./-_".contains(c)));
            for word in words {
                // Also of a comment's last word.
                let word = word.trim_end_matches('.');
                let Some((top, _)) = word.split_once('.') else {
                    continue;
                };
                if !tops.contains(&top.to_owned()) || word.contains('/') || word.contains("..") {
                    continue;
                }
                found += 1;
                ensure!(
                    is_value(&values, word),
                    "{}: there is no value {word}",
                    path.display()
                );
            }
        }
    }
    ensure!(found > 40, "only {found} values were found in docs/");
    Ok(())
}

/// Whether there is a value of that path. What is in an object that is empty by default is for Kubernetes to know.
fn is_value(values: &Value, path: &str) -> bool {
    let mut value = values;
    for name in path.split('.') {
        let Some(object) = value.as_object() else {
            return false;
        };
        match object.get(name) {
            Some(next) => value = next,
            None => return object.is_empty(),
        }
    }
    true
}

#[rstest]
// A name that is not known, at every level.
#[case(&["replicas=2"], "'replicas'")]
#[case(&["controller.replica=2"], "at '/controller': additional properties 'replica' not allowed")]
#[case(&["webhook.certificate.secret=mine"], "'/webhook/certificate'")]
#[case(&["controller.podDisruptionBudget.min=1"], "'/controller/podDisruptionBudget'")]
#[case(&["metrics.podMonitor.on=true"], "'/metrics/podMonitor'")]
#[case(&["webhook.affinity.podAfinity.x=1"], "'/webhook/affinity'")]
// A value of another kind.
#[case(&["controller.replicas=two"], "'/controller/replicas': got string, want integer")]
#[case(&["webhook.hostNetwork=yes"], "'/webhook/hostNetwork': got string, want boolean")]
#[case(&["controller.extraArgs=--name=mine"], "'/controller/extraArgs': got string, want array")]
#[case(&["controller.nodeSelector.disk=1"], "'/controller/nodeSelector/disk': got number, want string")]
// A value of the right type that is invalid.
#[case(&["placement=workers"], "'/placement': value must be one of 'controlPlane', 'anywhere'")]
#[case(&["webhook.failurePolicy=fail"], "'/webhook/failurePolicy': value must be one of 'Fail', 'Ignore'")]
#[case(&["webhook.timeoutSeconds=31"], "'/webhook/timeoutSeconds'")]
// It asks infra clusters for 2 s.
#[case(&["webhook.timeoutSeconds=2"], "'/webhook/timeoutSeconds': minimum: got 2, want 3")]
#[case(&["webhook.kubeletFeatureGates="], "'/webhook/kubeletFeatureGates'")]
#[case(&["webhook.kubeletFeatureGates=A=yes"], "'/webhook/kubeletFeatureGates'")]
#[case(&["controller.name=a b"], "'/controller/name'")]
#[case(&["parts=webhook"], "'/parts': value must be one of 'all', 'controller'")]
#[case(&["webhook.url=http://10.0.0.1"], "'/webhook/url'")]
#[case(&["webhook.certificate.mode=selfmanaged"], "'/webhook/certificate/mode'")]
#[case(&["webhook.certificate.replicas={10.0.0.1}"], "'/webhook/certificate/replicas/0'")]
#[case(&["webhook.tlsMinVersion=1.1"], "'/webhook/tlsMinVersion'")]
#[case(&["tracing.otlpEndpoint=collector:4318"], "'/tracing/otlpEndpoint'")]
#[case(&["controller.joinClusterTimeout=25 minutes"], "'/controller/joinClusterTimeout'")]
#[case(&["controller.metricsPort=80800"], "'/controller/metricsPort'")]
#[case(&["image.digest=sha256:abc"], "'/image/digest'")]
#[case(&["infra.namespace="], "'/infra/namespace'")]
#[case(&["webhook.topologySpreadConstraints[0].maxSkew=1"], "'/webhook/topologySpreadConstraints/0'")]
// A value that contradicts other values.
#[case(
    &["webhook.certificate.mode=existingSecret"],
    "so webhook.caBundle or webhook.certificate.injectCAFrom must say whom to trust"
)]
#[case(
    &["webhook.certificate.mode=selfManaged", "webhook.caBundle=YQ=="],
    "which needs neither webhook.caBundle nor webhook.certificate.injectCAFrom"
)]
#[case(
    &["webhook.certificate.caSecretName=machinist-webhook-cert"],
    "but the CA needs a Secret of its own"
)]
#[case(
    &["webhook.serviceAccount.create=false"],
    "webhook.serviceAccount.create is false, so webhook.serviceAccount.name must name one"
)]
#[case(
    &["metrics.podMonitor.enabled=true", "metrics.serviceMonitor.enabled=true"],
    "both would read every metric twice"
)]
#[case(
    &["metrics.prometheusRule.enabled=true", "metrics.prometheusRule.disabled={MachinistOrphan}"],
    "there is no alert \"MachinistOrphan\""
)]
#[case(
    &["controller.extraArgs={--worker-count=5}"],
    "controller.extraArgs has --worker-count, which the chart sets already"
)]
#[case(
    &["webhook.extraArgs={-log-debug}"],
    "webhook.extraArgs has --log-debug, which the chart sets already"
)]
// A value without an effect.
#[case(
    &["controller.extraEnv[0].name=POD_NAMESPACE", "controller.extraEnv[0].value=a"],
    "controller.extraEnv has POD_NAMESPACE, which the chart sets already: use infra.namespace"
)]
#[case(
    &["infra.clusterID=a", "webhook.extraEnv[0].name=CLUSTER_ID", "webhook.extraEnv[0].value=b"],
    "webhook.extraEnv has CLUSTER_ID, which the chart sets already: use infra.clusterID"
)]
#[case(
    &["infra.projectID=a", "webhook.extraEnv[0].name=PROJECT_ID", "webhook.extraEnv[0].value=b"],
    "use infra.projectID"
)]
#[case(
    &["infra.kubeconfigSecret.name=a", "webhook.extraEnv[0].name=KUBEVIRT_KUBECONFIG", "webhook.extraEnv[0].value=b"],
    "use infra.kubeconfigSecret"
)]
#[case(&["webhook.extraEnv[0].name=A", "webhook.extraEnv[1].name=A"], "webhook.extraEnv has A twice")]
// Two listeners on one port.
#[case(&["webhook.port=8081"], "webhook.port and webhook.opsPort are both 8081")]
#[case(
    &["controller.probesPort=8080"],
    "controller.metricsPort and controller.probesPort are both 8080"
)]
#[case(
    &["controller.hostNetwork=true", "webhook.hostNetwork=true", "webhook.opsPort=8085"],
    "controller.probesPort and webhook.opsPort are both 8085"
)]
// Budgets that keep nodes from being drained.
#[case(
    &["webhook.podDisruptionBudget.minAvailable=1", "webhook.replicas=1"],
    "webhook.podDisruptionBudget.minAvailable is 1 and webhook.replicas is 1, so no pod can be evicted"
)]
#[case(
    &["controller.podDisruptionBudget.minAvailable=51%"],
    "controller.podDisruptionBudget.minAvailable is 51% and controller.replicas is 2"
)]
#[case(
    &["controller.podDisruptionBudget.minAvailable=1", "controller.replicas=null"],
    "controller.podDisruptionBudget.minAvailable is 1 and controller.replicas is 1"
)]
#[case(
    &["controller.podDisruptionBudget.maxUnavailable=0"],
    "controller.podDisruptionBudget.maxUnavailable is \"0\""
)]
#[case(
    &["controller.podDisruptionBudget.maxUnavailable=null"],
    "controller.podDisruptionBudget.maxUnavailable is \"\""
)]
#[case(
    &["webhook.certificate.mode=certManager", "webhook.certificate.issuerRef.kind=ClusterIssuer"],
    "webhook.certificate.issuerRef has no name"
)]
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.webhookFrom[0].podSelector.matchLabels.a=b", "controller.hostNetwork=true"],
    "networkPolicy.webhookFrom has no ipBlock"
)]
// One of several controllers.
#[case(&["parts=controller"], "parts is controller, so controller.name must tell this controller")]
#[case(&["parts=controller", "controller.name=A_B"], "not \"A_B\"")]
#[case(
    &["parts=controller", "controller.name=certificates"],
    "has a ClusterRole machinist-controller-certificates: choose another name"
)]
#[case(
    &["parts=controller", "controller.name=a", "otherControllers={b}"],
    "otherControllers is for the release whose parts are all"
)]
#[tokio::test]
async fn invalid_values_are_refused_by_name(#[case] sets: &[&str], #[case] says: &str) -> Result<()> {
    let chart = helm::chart();
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let args: Vec<_> = ["template", "machinist", &*chart]
        .into_iter()
        .chain(sets)
        .collect();
    let output = Helm::alone().await?.run(&args).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it was taken");
    assert!(said.contains(says), "{said}");
    Ok(())
}

#[rstest]
#[case::a_port_of_each_in_networks_of_their_own(&["webhook.opsPort=8085"])]
#[case::ports_of_a_webhook_that_is_elsewhere(&["webhook.url=https://10.0.0.1", "webhook.port=8081"])]
#[case::one_of_two_must_be_there(&["webhook.podDisruptionBudget.minAvailable=1"])]
#[case::half_of_two_must_be_there(&["webhook.podDisruptionBudget.minAvailable=50%"])]
#[case::no_pod_and_no_budget(&["webhook.replicas=0", "webhook.podDisruptionBudget.minAvailable=1"])]
#[case::a_variable_that_the_chart_does_not_set(&["webhook.extraEnv[0].name=CLUSTER_ID", "webhook.extraEnv[0].value=a"])]
#[case::several_gates(&["webhook.kubeletFeatureGates=A=true\\, B=false"])]
#[case::nodes_of_the_controller_by_their_addresses(
    &["networkPolicy.enabled=true", "networkPolicy.webhookFrom[0].ipBlock.cidr=10.0.0.0/28", "controller.hostNetwork=true"]
)]
#[case::the_only_controller_may_have_a_name(&["controller.name=Any_Name"])]
#[tokio::test]
async fn unusual_but_valid_values_are_accepted(#[case] sets: &[&str]) -> Result<()> {
    let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
    Helm::alone().await?.render("machinist-system", &sets).await?;
    Ok(())
}
