//! The effect of values on the rendered objects.

use std::collections::BTreeSet;

use anyhow::Result;
use e2e::helm::{self, Helm};
use rstest::rstest;
use serde_json::{Value, json};

use super::{CONTROLLER, EVERYTHING, HOST_NETWORK, NAMED, NAMESPACE, WEBHOOK, by_name};

const OWN: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const ALL: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

const TERMS: &str =
    "controller.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";

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
#[case(&[], WEBHOOK, "pod/nodeSelector", Value::Null)]
#[case(&["controller.nodeSelector.disk=fast"], CONTROLLER, "pod/nodeSelector", json!({"disk": "fast"}))]
// For any value of the label: kubeadm's is empty, that of k3s and RKE2 is not.
#[case(
    &[], WEBHOOK, "pod/affinity",
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]},
    ]}}})
)]
#[case(
    &[
        &*format!("{TERMS}[0].matchExpressions[0].key=a"), &format!("{TERMS}[0].matchExpressions[0].operator=Exists"),
        &format!("{TERMS}[1].matchFields[0].key=metadata.name"), &format!("{TERMS}[1].matchFields[0].operator=In"),
        &format!("{TERMS}[1].matchFields[0].values[0]=b"),
    ],
    CONTROLLER, "pod/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    json!([
        {"matchExpressions": [
            {"key": "a", "operator": "Exists"}, {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"},
        ]},
        {
            "matchExpressions": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}],
        },
    ])
)]
#[case(&["placement=anywhere"], CONTROLLER, "pod/affinity", Value::Null)]
#[case(
    &["controller.tolerations[0].key=a"], CONTROLLER, "pod/tolerations",
    json!([
        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"},
        {"key": "node-role.kubernetes.io/etcd", "operator": "Exists"},
        {"key": "a"},
    ])
)]
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
// Values cannot change labels of the Deployment's selector.
#[case(
    &["controller.podLabels.app\\.kubernetes\\.io/component=mine"], CONTROLLER,
    "spec/template/metadata/labels/app.kubernetes.io~1component", json!("controller")
)]
#[case(&["controller.podLabels.team=a"], CONTROLLER, "spec/template/metadata/labels/team", json!("a"))]
// Rights follow the ServiceAccount, and so do the users that webhook and policies trust.
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
// Which component creates the webhook's certificate, which CA is trusted, and which account may read it.
#[case(&[], "MutatingWebhookConfiguration/machinist", "webhooks/0/clientConfig/caBundle", Value::Null)]
#[case(&[], "Secret/machinist-webhook-cert", "", Value::Null)]
#[case(&[], WEBHOOK, "pod/volumes", Value::Null)]
#[case(
    &[], "Role/machinist-webhook-certificate", "rules/0",
    json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["machinist-webhook-cert"], "verbs": ["list", "watch"]})
)]
#[case(
    &["webhook.caBundle=YQ=="], "MutatingWebhookConfiguration/machinist", "webhooks/0/clientConfig/caBundle", json!("YQ==")
)]
#[case(
    &["webhook.caBundle=YQ==", "webhook.certificate.secretName=mine"], WEBHOOK, "pod/volumes",
    json!([{"name": "tls", "secret": {"secretName": "mine"}}])
)]
#[case(&["webhook.caBundle=YQ=="], "Role/machinist-webhook-certificate", "", Value::Null)]
#[case(&["webhook.caBundle=YQ=="], "ClusterRole/machinist-controller-certificates", "", Value::Null)]
#[case(&["webhook.certificate.mode=certManager"], "Role/machinist-controller-certificates", "", Value::Null)]
#[case(
    &["webhook.certificate.mode=certManager"], "ValidatingWebhookConfiguration/machinist",
    "metadata/annotations/cert-manager.io~1inject-ca-from", json!("machinist-system/machinist-webhook")
)]
#[case(
    &["webhook.certificate.mode=certManager"], "Certificate/machinist-webhook", "spec/dnsNames",
    json!(["machinist-webhook.machinist-system.svc"])
)]
#[case(
    &["webhook.certificate.mode=certManager", "webhook.certificate.issuerRef.name=mine"], "Certificate/machinist-webhook",
    "spec/issuerRef", json!({"name": "mine"})
)]
#[case(
    &["webhook.certificate.mode=certManager", "webhook.certificate.issuerRef.name=mine"], "Certificate/machinist-webhook-ca", "",
    Value::Null
)]
#[case(
    &["webhook.certificate.mode=certManager", "webhook.url=https://[::1]:99"], "Certificate/machinist-webhook", "spec/ipAddresses",
    json!(["::1"])
)]
#[case(
    &["webhook.certificate.mode=selfManaged", "webhook.url=https://10.0.0.1"], "Role/machinist-controller-certificates",
    "rules/4", Value::Null
)]
#[case(&[], "ClusterRole/machinist-webhook", "rules/3/resources", json!(["secrets", "configmaps"]))]
#[case(&["webhook.infraUnreachable=off"], "ClusterRole/machinist-webhook", "rules/3", Value::Null)]
#[case(
    &["webhook.clientCA.configMapName=cas", "webhook.clientCA.allowedNames={kube-apiserver}"], WEBHOOK, "pod/volumes",
    json!([{"name": "client-ca", "configMap": {"name": "cas"}}])
)]
// NetworkPolicies admit the named peers, and all peers if none is named.
#[case(&[], "NetworkPolicy/machinist-webhook", "", Value::Null)]
#[case(
    &["networkPolicy.enabled=true"], "NetworkPolicy/machinist-webhook", "spec/ingress",
    json!([{"ports": [{"port": "ops"}]}, {"ports": [{"port": "webhook"}]}])
)]
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.webhookFrom[0].ipBlock.cidr=10.0.0.0/28", "webhook.caBundle=YQ=="],
    "NetworkPolicy/machinist-webhook", "spec/ingress/1/from", json!([{"ipBlock": {"cidr": "10.0.0.0/28"}}])
)]
// And the controller, which checks the served certificate.
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.webhookFrom[0].ipBlock.cidr=10.0.0.0/28"],
    "NetworkPolicy/machinist-webhook", "spec/ingress/1/from/1/podSelector/matchLabels/app.kubernetes.io~1component",
    json!("controller")
)]
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.egress[0].ports[0].port=443"], "NetworkPolicy/machinist-controller",
    "spec/egress/1/ports", json!([{"port": "webhook"}])
)]
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.metricsFrom[0].podSelector.matchLabels.a=b"],
    "NetworkPolicy/machinist-controller", "spec/ingress",
    json!([{"ports": [{"port": "metrics"}], "from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}])
)]
#[case(&["networkPolicy.enabled=true"], "NetworkPolicy/machinist-controller", "spec/policyTypes", json!(["Ingress"]))]
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.egress[0].ports[0].port=443", "webhook.caBundle=YQ=="],
    "NetworkPolicy/machinist-controller", "spec/egress", json!([{"ports": [{"port": 443}]}])
)]
// With hostNetwork, selectors do not match pods, so NetworkPolicies do not apply.
#[case(
    &["networkPolicy.enabled=true", "networkPolicy.egress[0].ports[0].port=443", "webhook.hostNetwork=true", "webhook.port=10876"],
    "NetworkPolicy/machinist-controller", "spec/egress", json!([{"ports": [{"port": 443}]}, {"ports": [{"port": 10876}]}])
)]
#[case(
    &["networkPolicy.enabled=true", "webhook.hostNetwork=true"], "NetworkPolicy/machinist-webhook", "", Value::Null
)]
#[case(
    &["networkPolicy.enabled=true", "controller.hostNetwork=true"], "NetworkPolicy/machinist-controller", "", Value::Null
)]
// Kubernetes' default applies where the value is removed.
#[case(&["webhook.podSecurityContext.runAsUser=null"], WEBHOOK, "pod/securityContext/runAsUser", Value::Null)]
#[case(&["webhook.replicas=null"], WEBHOOK, "spec/replicas", Value::Null)]
#[tokio::test]
async fn values_are_rendered_in_their_fields(
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

#[rstest]
#[case::behind_the_service(
    &[], &["--webhook-replicas=machinist-webhook", "--webhook-certificate-names=machinist-webhook.machinist-system.svc"]
)]
#[case::at_a_url(
    &["webhook.certificate.mode=selfManaged", "webhook.url=https://hooks.example.com"],
    &["--webhook-replicas=hooks.example.com:443", "--webhook-certificate-names=hooks.example.com"]
)]
#[case::at_a_url_with_a_port_and_known_replicas(
    &["webhook.certificate.mode=selfManaged", "webhook.url=https://[fd00::1]:99", "webhook.certificate.replicas={a:1,b:2}"],
    &["--webhook-replicas=a:1,b:2", "--webhook-certificate-names=fd00::1"]
)]
#[case::of_others(&["webhook.caBundle=YQ=="], &[])]
#[tokio::test]
async fn the_controller_gets_the_flags_of_the_certificate_that_it_creates(
    #[case] sets: &[&str],
    #[case] want: &[&str],
) -> Result<()> {
    let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let objects = by_name(Helm::alone().await?.render(NAMESPACE, &sets).await?);
    let args = &objects[CONTROLLER]["spec"]["template"]["spec"]["containers"][0]["args"];
    let args = args.as_array().into_iter().flatten().filter_map(Value::as_str);
    let places = ["--webhook-replicas=", "--webhook-certificate-names="];
    let found: Vec<_> = args
        .filter(|arg| places.iter().any(|place| arg.starts_with(place)))
        .collect();
    assert_eq!(found, want);
    Ok(())
}

/// YAML parses `123` as a number, and Kubernetes accepts no number as a name.
#[rstest]
#[case::of_all(&[])]
#[case::with_everything(&["--values", EVERYTHING])]
#[case::with_certificates_of_cert_manager(&["--set", "webhook.certificate.mode=certManager"])]
#[case::of_a_controller(&["--values", NAMED])]
#[case::with_names_like_numbers(&[
    "--set-string",
    "leaderElection.namespace=1,leaderElection.lease=2,infra.namespace=3,infra.kubeconfigSecret.name=4,infra.kubeconfigSecret.key=5,\
     controller.name=6,controller.serviceAccount.name=7,controller.priorityClassName=8,webhook.serviceAccount.name=9,\
     webhook.certificate.secretName=10,webhook.certificate.caSecretName=11,webhook.clientCA.configMapName=12,\
     webhook.clientCA.key=13,webhook.clientCA.allowedNames={14},metrics.dashboard.namespace=14",
    "--set", "metrics.dashboard.enabled=true,metrics.serviceMonitor.enabled=true,networkPolicy.enabled=true",
])]
#[case::with_numbers_for_names_at_cert_manager(&[
    "--set-string", "webhook.certificate.secretName=10,webhook.certificate.caSecretName=11",
    "--set", "webhook.certificate.mode=certManager",
])]
#[case::of_a_controller_with_a_number(&["--set", "parts=controller", "--set-string", "controller.name=6"])]
#[tokio::test]
async fn names_that_look_like_numbers_are_strings(#[case] more: &[&str]) -> Result<()> {
    let chart = helm::chart();
    let more = more.iter().map(|arg| match *arg {
        EVERYTHING | NAMED => helm::file(arg),
        arg => arg.to_owned(),
    });
    let args: Vec<String> = ["template", "123", &*chart, "--namespace", "456"]
        .into_iter()
        .map(str::to_owned)
        .chain(more)
        .collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&Helm::alone().await?.ok(&args).await?)?;
    let mut texts = Vec::new();
    for object in &objects {
        let name = format!("{}/{}", object["kind"], object["metadata"]["name"]);
        texts_in(object, &name, &mut texts);
    }
    assert!(texts.len() > 100, "{}", texts.len());
    let numbers: Vec<_> = texts
        .iter()
        .filter(|(_, value)| !value.is_string() && !value.is_object() && !value.is_array())
        .collect();
    assert!(numbers.is_empty(), "{numbers:#?}");
    Ok(())
}

/// The fields that must be strings: names, labels and the like, each with its path.
fn texts_in<'a>(value: &'a Value, path: &str, texts: &mut Vec<(String, &'a Value)>) {
    const NAMES: &[&str] = &[
        "name",
        "namespace",
        "secretName",
        "serviceAccountName",
        "priorityClassName",
        "key",
        "image",
    ];
    // A selector may have labels in it, or maps of them.
    const MANY: &[&str] = &[
        "labels",
        "matchLabels",
        "annotations",
        "selector",
        "resourceNames",
        "dnsNames",
        "args",
        "command",
    ];
    for (field, value) in value.as_object().into_iter().flatten() {
        // Schemas in CRDs contain fields of the same names with another meaning.
        if field == "openAPIV3Schema" {
            continue;
        }
        let path = format!("{path}/{field}");
        if NAMES.contains(&&**field) {
            texts.push((path.clone(), value));
        } else if MANY.contains(&&**field) {
            let members = value.as_object().into_iter().flat_map(serde_json::Map::values);
            let items = value.as_array().into_iter().flatten();
            texts.extend(members.chain(items).map(|value| (path.clone(), value)));
        }
        texts_in(value, &path, texts);
    }
    for value in value.as_array().into_iter().flatten() {
        texts_in(value, path, texts);
    }
}

#[tokio::test]
async fn rendering_is_reproducible() -> Result<()> {
    let helm = Helm::alone().await?;
    for values in ["values.yaml", EVERYTHING, HOST_NETWORK, NAMED] {
        let file = helm::file(values);
        let [first, second] = [
            helm.render(NAMESPACE, &["--values", &file]).await?,
            helm.render(NAMESPACE, &["--values", &file]).await?,
        ];
        assert_eq!(first, second, "{values}");
        let of_a_cluster: Vec<_> = first
            .iter()
            .filter(|object| object["metadata"]["annotations"]["helm.sh/hook"].is_string())
            .collect();
        assert!(of_a_cluster.is_empty(), "{values} has hooks");
    }
    Ok(())
}

#[tokio::test]
async fn alerts_and_dashboard_are_rendered_unchanged() -> Result<()> {
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
async fn helm_lint_passes() -> Result<()> {
    let helm = Helm::alone().await?;
    helm.ok(&["lint", "--strict", &helm::chart()]).await?;
    for values in [EVERYTHING, HOST_NETWORK, NAMED] {
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
