//! Refusals of the simulated virt-api, as the API server returns them.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

mod common;

use common::{TestNamespace, diskless, spec};
use kube::api::{Patch, PatchParams};
use kubevirt_sim::objects::Kind;
use serde_json::{Value, json};

async fn refused(scene: &TestNamespace, spec: Value) -> kube::core::Status {
    match scene.create(Kind::Vm, "refused", json!({"spec": spec})).await {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn refusals_come_with_kubevirts_message_and_causes() {
    let scene = TestNamespace::start("admission").await;
    let mut two = diskless("Once");
    two["template"]["spec"]["evictionStrategy"] = json!("Sometimes");
    two["template"]["metadata"]["labels"]["kubevirt.io/created-by"] = json!("me");
    let status = refused(&scene, two).await;
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let expected = "admission webhook \"virtualmachine-validator.kubevirt.io\" denied the request: \
                    creation of the following reserved kubevirt.io/ labels on a VMI object is prohibited, \
                    spec.template.spec.evictionStrategy is set with an unrecognized option: Sometimes";
    assert_eq!(status.message, expected);
    let causes = status.details.unwrap().causes;
    let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.template.metadata.labels",
            "spec.template.spec.evictionStrategy"
        ]
    );

    let mut negative = diskless("Once");
    negative["template"]["spec"]["domain"]["cpu"] = json!({"cores": -2});
    let status = refused(&scene, negative).await;
    assert_eq!(status.code, 400);
    assert!(
        status.message.contains("json: cannot unmarshal number -2"),
        "{}",
        status.message
    );

    let content = json!({"spec": {"cpu": {"guest": 1}, "memory": {"guest": "1Gi"}}});
    scene.create(Kind::Instancetype, "small", content).await.unwrap();
    let mut typed = spec("refused", None);
    typed["instancetype"] = json!({"name": "small", "kind": "VirtualMachineInstancetype"});
    // The webhook knows the instancetype by watch, a moment after it was made.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let status = refused(&scene, typed).await;
    assert!(
        status.message.contains("conflicts with selected instance type"),
        "{}",
        status.message
    );

    scene.create_vm("good", diskless("Once")).await;
    scene.vm_is("good", "Running").await;
    let patch = json!({"spec": {"template": {"spec": {"evictionStrategy": "Sometimes"}}}});
    let patched = scene
        .api(Kind::Vm)
        .patch("good", &PatchParams::default(), &Patch::Merge(patch))
        .await;
    assert!(
        matches!(patched, Err(kube::Error::Api(status)) if status.code == 422),
        "an update is judged, too"
    );
    scene.stop().await;
}
