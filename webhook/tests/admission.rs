//! Reviews through the whole webhook: what a Machine becomes, and what is said of a bad one.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

mod common;

use common::{Server, machine, patch, review};
use rstest::rstest;
use serde_json::{Value, json};

#[tokio::test]
async fn a_machine_as_kubectl_sends_it_is_defaulted_and_then_admitted() {
    let server = Server::start();
    let mut client = server.client().await;
    let mut stored = machine();
    let response = client
        .review("/mutate", &review("CREATE", &stored, &Value::Null))
        .await;
    assert_eq!(response["allowed"], true);
    json_patch::patch(&mut stored, &patch(&response)).unwrap();
    assert_eq!(stored["spec"]["metadata"]["name"], "m");
    assert_eq!(
        stored["spec"]["metadata"]["annotations"]["cluster.x-k8s.io/cluster-namespace"],
        "vms"
    );
    assert_eq!(
        stored["spec"]["providerSpec"]["value"]["operatingSystemSpec"],
        json!({"distUpgradeOnBoot": false})
    );

    let response = client
        .review("/validate", &review("CREATE", &stored, &Value::Null))
        .await;
    assert_eq!(response, json!({"uid": response["uid"], "allowed": true}));
    let response = client
        .review("/mutate", &review("CREATE", &stored, &Value::Null))
        .await;
    assert_eq!(
        response,
        json!({"uid": response["uid"], "allowed": true}),
        "defaulting twice changes nothing"
    );
}

#[tokio::test]
async fn every_error_is_reported_at_once_in_causes_and_message() {
    let server = Server::start();
    let mut bad = machine();
    bad["spec"]["versions"] = json!({});
    let value = &mut bad["spec"]["providerSpec"]["value"];
    value["operatingSystem"] = json!("ubunt");
    value["sshPublicKeys"] = json!(["not a key"]);
    value["cloudProviderSpec"]["virtualMachine"]["template"]["memory"] = json!("4GB");
    value["cloudProviderSpec"]["virtualMachine"]["evictionStrategy"] = json!("LiveMigrat");
    let response = server
        .client()
        .await
        .review("/validate", &review("CREATE", &bad, &Value::Null))
        .await;
    assert_eq!(response["allowed"], false);
    let status = &response["status"];
    assert_eq!(
        (status["code"].as_u64(), status["reason"].as_str()),
        (Some(422), Some("Invalid"))
    );
    assert_eq!(
        (
            status["details"]["kind"].as_str(),
            status["details"]["name"].as_str()
        ),
        (Some("Machine"), Some("m"))
    );
    let causes = status["details"]["causes"].as_array().unwrap();
    let mut fields: Vec<_> = causes
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    fields.sort_unstable();
    let value = "spec.providerSpec.value";
    assert_eq!(
        fields,
        [
            format!("{value}.cloudProviderSpec.virtualMachine.evictionStrategy"),
            format!("{value}.cloudProviderSpec.virtualMachine.template.memory"),
            format!("{value}.operatingSystem"),
            format!("{value}.sshPublicKeys[0]"),
            "spec.versions.kubelet".to_owned(),
        ]
    );
    let message = status["message"].as_str().unwrap();
    for cause in causes {
        let line = format!(
            "{}: {}",
            cause["field"].as_str().unwrap(),
            cause["message"].as_str().unwrap()
        );
        assert!(message.contains(&line), "{line:?} is not in {message:?}");
    }
    assert!(message.contains("did you mean \"LiveMigrate\"?"), "{message}");
}

#[tokio::test]
async fn an_inline_kubeconfig_is_judged() {
    use base64::Engine as _;
    let server = Server::start();
    let mut bad = machine();
    let text = "current-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n\
                clusters: [{name: c, cluster: {server: 'https://infra'}}]\nusers: [{name: u, user: {exec: {command: sesame}}}]";
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    bad["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["auth"]["kubeconfig"] = json!(encoded);
    let response = server
        .client()
        .await
        .review("/validate", &review("CREATE", &bad, &Value::Null))
        .await;
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("spec.providerSpec.value.cloudProviderSpec.auth.kubeconfig: exec "),
        "{message}"
    );
    assert!(!response.to_string().contains("sesame"));
}

#[tokio::test]
async fn a_spec_is_immutable_and_a_status_is_not() {
    let server = Server::start();
    let mut client = server.client().await;
    let (old, mut new) = (machine(), machine());
    new["status"] = json!({"nodeRef": {"name": "m"}});
    assert_eq!(
        client.review("/validate", &review("UPDATE", &new, &old)).await["allowed"],
        true
    );
    new["spec"]["versions"]["kubelet"] = json!("1.34.0");
    let response = client.review("/validate", &review("UPDATE", &new, &old)).await;
    assert_eq!(
        response["status"]["details"]["causes"][0]["field"],
        "spec.versions.kubelet"
    );
    assert_eq!(
        response["status"]["details"]["causes"][0]["reason"],
        "FieldValueForbidden"
    );
}

#[tokio::test]
async fn unknown_keys_outside_the_strict_part_are_warned_of() {
    let server = Server::start();
    let mut odd = machine();
    odd["spec"]["taint"] = json!([]);
    let response = server
        .client()
        .await
        .review("/validate", &review("CREATE", &odd, &Value::Null))
        .await;
    assert_eq!(response["allowed"], true);
    let warnings = response["warnings"].as_array().unwrap();
    assert!(
        warnings
            .iter()
            .any(|w| w.as_str().unwrap().contains("did you mean \"taints\"?")),
        "{warnings:?}"
    );
}

#[rstest]
#[case::a_deletion("DELETE", "machines", json!(null))]
#[case::a_kind_without_rules("UPDATE", "machineclasses", json!({"spec": 1}))]
#[case::an_unknown_operation("CONNECT", "machines", json!({}))]
#[tokio::test]
async fn what_is_not_ours_to_judge_passes(
    #[case] operation: &str,
    #[case] resource: &str,
    #[case] object: Value,
) {
    let server = Server::start();
    let mut review = review(operation, &object, &Value::Null);
    review["request"]["resource"]["resource"] = json!(resource);
    for path in ["/mutate", "/validate"] {
        let response = server.client().await.review(path, &review).await;
        assert_eq!(response, json!({"uid": response["uid"], "allowed": true}));
    }
}

#[tokio::test]
async fn a_set_is_defaulted_and_judged() {
    let server = Server::start();
    let mut client = server.client().await;
    let mut set = json!({"metadata": {"name": "s"}, "spec": {"deletePolicy": "None"}});
    let mut reviewed = review("CREATE", &set, &Value::Null);
    reviewed["request"]["resource"]["resource"] = json!("machinesets");
    let response = client.review("/mutate", &reviewed).await;
    json_patch::patch(&mut set, &patch(&response)).unwrap();
    assert_eq!(set["spec"]["replicas"], 1);

    let refused = client.review("/validate", &reviewed).await;
    let status = &refused["status"];
    assert_eq!(status["details"]["kind"], "MachineSet");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("spec.deletePolicy: \"None\" is not supported"),
        "{message}"
    );
}

#[tokio::test]
async fn a_deployment_is_defaulted_and_judged_by_its_template() {
    let server = Server::start();
    let mut client = server.client().await;
    let labels = json!({"pool": "a"});
    let mut deployment = json!({
        "apiVersion": "cluster.k8s.io/v1alpha1", "kind": "MachineDeployment",
        "metadata": {"name": "pool", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": machine()["spec"]},
        },
    });
    let ask = |operation, object: &Value, old: &Value| {
        let mut review = review(operation, object, old);
        review["request"]["resource"]["resource"] = json!("machinedeployments");
        review
    };
    let response = client
        .review("/mutate", &ask("CREATE", &deployment, &Value::Null))
        .await;
    json_patch::patch(&mut deployment, &patch(&response)).unwrap();
    assert_eq!(deployment["spec"]["replicas"], 1);
    let response = client
        .review("/validate", &ask("CREATE", &deployment, &Value::Null))
        .await;
    assert_eq!(response["allowed"], true, "{response}");

    let kubeconfig = "/spec/template/spec/providerSpec/value/cloudProviderSpec/auth/kubeconfig";
    let mut bad = deployment.clone();
    *bad.pointer_mut(kubeconfig).unwrap() = json!("bm90aGluZw==");
    let blamed = &["spec.template.spec.providerSpec.value.cloudProviderSpec.auth.kubeconfig"];
    for old in [&Value::Null, &deployment] {
        let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
        let response = client.review("/validate", &ask(operation, &bad, old)).await;
        assert_eq!(response["status"]["details"]["kind"], "MachineDeployment");
        let causes = response["status"]["details"]["causes"].as_array().unwrap();
        let fields: Vec<_> = causes
            .iter()
            .map(|cause| cause["field"].as_str().unwrap())
            .collect();
        assert_eq!(fields, blamed);
    }
    // What is stored already is no reason to refuse.
    let mut scaled = bad.clone();
    scaled["spec"]["replicas"] = json!(3);
    let response = client.review("/validate", &ask("UPDATE", &scaled, &bad)).await;
    assert_eq!(response["allowed"], true, "{response}");
}

#[tokio::test]
async fn the_older_version_is_answered_in_kind() {
    let server = Server::start();
    let mut review = review("CREATE", &machine(), &Value::Null);
    review["apiVersion"] = json!("admission.k8s.io/v1beta1");
    // `Client::review` compares the version.
    assert_eq!(
        server.client().await.review("/validate", &review).await["allowed"],
        true
    );
}

#[rstest]
#[case::null(json!(null))]
#[case::a_string(json!("machine"))]
#[case::a_list(json!([[], {}]))]
#[case::a_spec_that_is_a_list(json!({"spec": []}))]
#[case::metadata_that_is_a_number(json!({"metadata": 5, "spec": {"providerSpec": {"value": 3}}}))]
#[case::null_everywhere(json!({"metadata": null, "spec": {"metadata": null, "providerSpec": {"value": {"cloudProvider": null}}}, "status": null}))]
#[case::huge_numbers(json!({"spec": {"providerSpec": {"value": {"cloudProvider": "kubevirt", "cloudProviderSpec": {"virtualMachine": {"template": {"vcpus": {"cores": 1e300}, "memory": 1e300}}}}}}}))]
#[case::nuls(json!({"metadata": {"name": "\u{0}"}, "spec": {"providerSpec": {"value": {"cloudProvider": "kube\u{0}virt"}}}}))]
#[tokio::test]
async fn nonsense_is_left_alone_by_the_first_step_and_never_admitted_by_the_second(#[case] object: Value) {
    let server = Server::start();
    let mut client = server.client().await;
    for (operation, old) in [
        ("CREATE", Value::Null),
        ("UPDATE", machine()),
        ("UPDATE", Value::Null),
    ] {
        let review = review(operation, &object, &old);
        assert_eq!(client.review("/mutate", &review).await["allowed"], true);
        let response = client.review("/validate", &review).await;
        // No object at all is nothing to judge.
        assert!(
            object.is_null() || operation == "UPDATE" || response["allowed"] == false,
            "{response}"
        );
    }
}
