//! The chart, without installing it: what it renders, what it refuses, and what a real API server says to all of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use e2e::helm::{self, Helm};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use rstest::rstest;
use serde_json::{Value, json};
use testbed::{ControlPlane, binaries, control_plane, crds, paths};

const NAMESPACE: &str = "machinist-system";
const EVERYTHING: &str = "ci/everything-values.yaml";
const HOST_NETWORK: &str = "ci/host-network-values.yaml";
const CONTROLLER: &str = "Deployment/machinist-controller";
const WEBHOOK: &str = "Deployment/machinist-webhook";

#[test]
fn the_schema_describes_each_value_and_no_other() -> Result<()> {
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(helm::file("values.schema.json"))?)?;
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(helm::file("values.yaml"))?)?;
    let mut values = values;
    // What parents of the chart may set.
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
    // An empty object leaves to whoever sets it what is in it.
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
fn the_docs_speak_of_values_that_there_are() -> Result<()> {
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
// A value that cannot be meant.
#[case(&["placement=workers"], "'/placement': value must be one of 'controlPlane', 'anywhere'")]
#[case(&["webhook.failurePolicy=fail"], "'/webhook/failurePolicy': value must be one of 'Fail', 'Ignore'")]
#[case(&["webhook.timeoutSeconds=31"], "'/webhook/timeoutSeconds'")]
#[case(&["webhook.url=http://10.0.0.1"], "'/webhook/url'")]
#[case(&["controller.joinClusterTimeout=25 minutes"], "'/controller/joinClusterTimeout'")]
#[case(&["controller.metricsPort=80800"], "'/controller/metricsPort'")]
#[case(&["image.digest=sha256:abc"], "'/image/digest'")]
#[case(&["infra.namespace="], "'/infra/namespace'")]
#[case(&["webhook.topologySpreadConstraints[0].maxSkew=1"], "'/webhook/topologySpreadConstraints/0'")]
// What goes together with nothing else that was said.
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
#[tokio::test]
async fn values_that_cannot_be_meant_are_refused_by_their_names(
    #[case] sets: &[&str],
    #[case] says: &str,
) -> Result<()> {
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

#[tokio::test]
async fn the_servers_know_every_flag_that_they_are_given() -> Result<()> {
    let servers = [(CONTROLLER, binaries::CONTROLLER), (WEBHOOK, binaries::WEBHOOK)];
    tokio::task::spawn_blocking(move || binaries::build(&servers.map(|(_, program)| program))).await??;
    let helm = Helm::alone().await?;
    for values in ["values.yaml", EVERYTHING, HOST_NETWORK] {
        let objects = by_name(helm.render(NAMESPACE, &["--values", &helm::file(values)]).await?);
        for (deployment, program) in servers {
            let container = &objects[deployment]["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(container["command"], json!([program]));
            let args: Vec<String> = serde_json::from_value(container["args"].clone())?;
            let answer = |more: &[&str]| {
                Command::new(binaries::find(program)?)
                    .args(args.iter().map(String::as_str).chain(more.iter().copied()))
                    .arg("--help")
                    .stdin(Stdio::null())
                    .output()
                    .context("starting the server")
            };
            let output = answer(&[])?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{values}: {program} {args:?}: {said}");
            // The flags before --help are read, or this would prove nothing.
            assert!(!answer(&["--no-such-flag"])?.status.success());
            assert!(!answer(&["--log-format=loud"])?.status.success());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_real_api_server_takes_every_rendering_under_restricted_pod_security() -> Result<()> {
    let plane = ControlPlane::start(control_plane::Options::user()).await?;
    crds::install(&plane.client(), &monitoring()?).await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    plane
        .kubectl_ok(&["apply", "-f", "-"], &namespace.to_string())
        .await?;
    plane.ensure_namespace("monitoring").await?;
    let helm = Helm::of(&plane);
    for values in ["values.yaml", EVERYTHING, HOST_NETWORK] {
        let objects = helm.render(NAMESPACE, &["--values", &helm::file(values)]).await?;
        // Pods are refused whose ServiceAccount is not there; one may be the user's.
        for pod in pods(&objects)? {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
                "namespace": NAMESPACE, "name": pod["spec"]["serviceAccountName"],
            }});
            plane
                .kubectl_ok(&["apply", "-f", "-"], &account.to_string())
                .await?;
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--validate=strict",
            "--dry-run=server",
            "-f",
            "-",
        ];
        let taken = plane.kubectl_ok(&apply, &list).await.context(values)?;
        ensure!(taken.lines().count() == objects.len(), "{values}: {taken}");

        for mut pod in pods(&objects)? {
            let create = ["create", "--dry-run=server", "-f", "-"];
            let in_the_nodes_network = pod["spec"]["hostNetwork"] == json!(true);
            let output = plane.kubectl(&create, &pod.to_string()).await?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.success(), !in_the_nodes_network, "{values}: {said}");
            if in_the_nodes_network {
                // And nothing else is wrong with it.
                assert!(said.contains("host namespaces (hostNetwork=true)"), "{said}");
                pod["spec"]["hostNetwork"] = json!(false);
                plane.kubectl_ok(&create, &pod.to_string()).await?;
            }
            // Pod Security is on, or this would prove nothing.
            pod["spec"]["securityContext"]["seccompProfile"] = Value::Null;
            let output = plane.kubectl(&create, &pod.to_string()).await?;
            assert!(String::from_utf8_lossy(&output.stderr).contains("seccompProfile"));
        }
    }
    Ok(())
}

/// A pod of each Deployment's template.
fn pods(objects: &[Value]) -> Result<Vec<Value>> {
    let pods: Vec<_> = objects
        .iter()
        .filter(|object| object["kind"] == "Deployment")
        .map(|deployment| {
            let mut pod = deployment["spec"]["template"].clone();
            pod["apiVersion"] = json!("v1");
            pod["kind"] = json!("Pod");
            pod["metadata"]["name"] = deployment["metadata"]["name"].clone();
            pod["metadata"]["namespace"] = json!(NAMESPACE);
            pod
        })
        .collect();
    ensure!(pods.len() == 2, "{} Deployments", pods.len());
    Ok(pods)
}

/// Objects by `Kind/name`.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
    };
    objects
        .into_iter()
        .map(|object| (name(&object), object))
        .collect()
}

/// The CRDs of prometheus-operator that the chart can make objects of, from its own module.
fn monitoring() -> Result<Vec<CustomResourceDefinition>> {
    const MODULE: &str = "github.com/prometheus-operator/prometheus-operator";
    let output = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .current_dir(paths::tools_module().join("prometheus-operator"))
        .stdin(Stdio::null())
        .output()
        .context("starting go")?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let dir = answer["Dir"].as_str().with_context(|| answer.to_string())?;
    ["podmonitors", "servicemonitors", "prometheusrules"]
        .into_iter()
        .map(|name| {
            let path = format!("{dir}/example/prometheus-operator-crd/monitoring.coreos.com_{name}.yaml");
            let text = std::fs::read_to_string(&path).context(path)?;
            Ok(serde_saphyr::from_str(&text)?)
        })
        .collect()
}
