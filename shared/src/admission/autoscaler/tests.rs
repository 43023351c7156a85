use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::admission::Subject;
use crate::api::ValueAt;
use crate::api::config_var::LookupError;
use crate::api::field::Report;
use crate::api::names::autoscaler::{CAPACITY, MAX_SIZE, MIN_SIZE, WRITTEN};
use crate::kubevirt::spec::Matcher;

fn group(vm: &Value, annotations: &Value) -> Value {
    json!({
        "metadata": {"name": "d", "annotations": annotations},
        "spec": {
            "replicas": 1,
            "template": {"spec": {
                "metadata": {"labels": {"a": "b", "bad key": "x"}},
                "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}, {"key": "l", "effect": "NoExecute"}],
                "providerSpec": {"value": {
                    "cloudProvider": "kubevirt", "operatingSystem": "ubuntu",
                    "cloudProviderSpec": {"virtualMachine": vm},
                }},
            }},
        },
    })
}

fn vm() -> Value {
    json!({"template": {"cpus": "1500m", "memory": "4Gi", "primaryDisk": {"size": "10Gi"}}})
}

fn typed() -> Value {
    json!({"instancetype": {"name": "large"}, "template": {"primaryDisk": {"size": "10Gi"}}})
}

fn sized() -> Value {
    json!({MIN_SIZE: "0", MAX_SIZE: "5"})
}

fn of(object: &Value, key: &str) -> Option<String> {
    let mut found = annotations(object).filter(|(found, _)| found.strip_prefix(CAPACITY) == Some(key));
    found.next().map(|(_, text)| text.to_owned())
}

fn needed(old: Option<&Value>, object: &Value) -> Option<Matcher> {
    instancetype_needed(old, &Subject::new(object, ValueAt::TEMPLATE))
}

fn unread(_: &crate::api::config_var::KeyRef) -> Result<String, LookupError> {
    Err(LookupError::NoObject)
}

#[rstest]
#[case::none(json!({}), None)]
#[case::of_up_to_five(json!({MIN_SIZE: "1", MAX_SIZE: "5"}), Some((1, 5)))]
#[case::from_none(json!({MAX_SIZE: "+5"}), Some((0, 5)))]
#[case::of_none_at_all(json!({MIN_SIZE: "0", MAX_SIZE: "0"}), None)]
#[case::with_a_space(json!({MAX_SIZE: "5 "}), None)]
#[case::upside_down(json!({MIN_SIZE: "5", MAX_SIZE: "1"}), None)]
fn a_node_group_has_sizes(#[case] annotations: Value, #[case] want: Option<(i64, i64)>) {
    let found = sizes(&group(&vm(), &annotations));
    assert_eq!(found.map(|sizes| (sizes.min, sizes.max)), want);
}

#[test]
fn the_sets_of_a_deployment_are_no_node_groups() {
    let mut set = group(&vm(), &json!({MIN_SIZE: "x", MAX_SIZE: "5"}));
    set["metadata"]["ownerReferences"] = json!([{"kind": "MachineDeployment", "name": "d"}]);
    let mut report = Report::new();
    validate(&set, &mut report);
    assert_eq!(report, Report::new());
    assert_eq!(write(None, set.clone(), None), set);
}

#[rstest]
#[case::a_fraction("min-size", "1.5")]
#[case::nothing("min-size", "")]
#[case::a_space("max-size", " 5")]
#[case::below_zero("min-size", "-1")]
#[case::beyond_64_bits("max-size", "9223372036854775808")]
fn a_size_that_would_drop_every_group_is_refused(#[case] which: &str, #[case] text: &str) {
    let key = format!("cluster.k8s.io/cluster-api-autoscaler-node-group-{which}");
    let mut annotations = sized();
    annotations[&key] = json!(text);
    let mut report = Report::new();
    validate(&group(&vm(), &annotations), &mut report);
    assert_eq!(report.errors.len(), 1, "{report:?}");
    assert!(report.errors[0].message.contains("every node group"));
    assert_eq!(
        report.errors[0].path.to_string(),
        format!("metadata.annotations[{key}]")
    );
}

#[test]
fn a_smallest_size_of_nothing_alone_is_no_node_group_and_harmless() {
    let mut report = Report::new();
    validate(&group(&vm(), &json!({MIN_SIZE: "0"})), &mut report);
    assert!(report.is_ok(), "{report:?}");
}

#[rstest]
#[case::upside_down(json!({MIN_SIZE: "5", MAX_SIZE: "1"}), "must not be below the minimum size 5")]
#[case::no_largest(json!({MIN_SIZE: "1"}), "must be set")]
fn sizes_that_do_not_fit_are_refused(#[case] annotations: Value, #[case] why: &str) {
    let mut report = Report::new();
    validate(&group(&vm(), &annotations), &mut report);
    assert_eq!(
        report.errors[0].path.to_string(),
        format!("metadata.annotations[{MAX_SIZE}]")
    );
    assert!(report.errors[0].message.contains(why), "{report:?}");
}

#[rstest]
#[case("scaledownunneededtime", "10m", None)]
#[case("scaledownunreadytime", "1h30m0.5s", None)]
#[case("maxnodestartuptime", "0", None)]
#[case("maxnodeprovisiontime", "3m", None)]
#[case("maxnodeprovisiontime", "2m59s", Some("is below 3m"))]
#[case("maxnodeprovisiontime", "30s", Some("is below 3m"))]
#[case("maxnodeprovisiontime", "10", Some("is not a duration"))]
#[case("maxnodeprovisiontime", "10 m", Some("is not a duration"))]
#[case("maxnodeprovisiontime", "", Some("is not a duration"))]
#[case("maxnodeprovisiontime", "1.2.3s", Some("is not a duration"))]
#[case("scaledownutilizationthreshold", "0.5", None)]
#[case("scaledownutilizationthreshold", "50%", Some("is not a number"))]
#[case("scaledownunneedtime", "10m", Some("did you mean \"scaledownunneededtime\""))]
fn an_option_that_has_no_effect_is_reported(
    #[case] option: &str,
    #[case] text: &str,
    #[case] want: Option<&str>,
) {
    let mut report = Report::new();
    let annotations = json!({format!("cluster.k8s.io/autoscaling-options-{option}"): text});
    validate(&group(&vm(), &annotations), &mut report);
    assert!(report.is_ok());
    assert_eq!(report.warnings.is_empty(), want.is_none(), "{report:?}");
    assert!(
        want.is_none_or(|want| report.warnings[0].contains(want)),
        "{report:?}"
    );
}

#[rstest]
#[case("cpu", "4", true, 0)]
#[case("cpu", "100m", true, 0)]
#[case("cpu", "0", false, 0)]
#[case("cpu", "-2", false, 0)]
#[case("memory", "0Gi", false, 0)]
#[case("memory", "-1Gi", false, 0)]
#[case("ephemeral-disk", "0", true, 0)]
#[case("ephemeral-disk", "-1Gi", false, 0)]
#[case("maxPods", "-5", false, 0)]
#[case("gpu-count", "-1", false, 0)]
#[case("gpu-count", "0", true, 0)]
#[case("cpu", "four", false, 0)]
#[case("memory", "8GiB", false, 0)]
#[case("ephemeral-disk", "x", false, 0)]
#[case("ephemeral-disk", "", true, 0)]
#[case("maxPods", "1e2", false, 0)]
#[case("gpu-count", "1", true, 0)]
#[case("labels", "a=b,c=", true, 0)]
#[case("labels", "a=b,c", true, 1)]
#[case("taints", "a=b:NoSchedule,c:NoExecute", true, 0)]
#[case("taints", "a=b:Never,c", true, 2)]
#[case("cpus", "4", true, 1)]
#[case("csi-driver", "x=5", true, 0)]
#[case("csi-driver", "x=5,y=10", true, 0)]
#[case("csi-driver", "x=5,y=many", false, 0)]
#[case("csi-driver", "x,=5", true, 2)]
fn capacity_by_hand_is_judged(
    #[case] key: &str,
    #[case] text: &str,
    #[case] ok: bool,
    #[case] warnings: usize,
) {
    let mut report = Report::new();
    validate(
        &group(&vm(), &json!({format!("{CAPACITY}{key}"): text})),
        &mut report,
    );
    assert_eq!(
        (report.is_ok(), report.warnings.len()),
        (ok, warnings),
        "{report:?}"
    );
}

#[rstest]
#[case::a_typo("cluster.k8s.io/cluster-api-autoscaler-node-group-maxsize", "did you mean")]
#[case::another_group(
    "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size",
    "reads cluster.k8s.io/"
)]
fn an_unread_size_is_reported(#[case] key: &str, #[case] want: &str) {
    let mut report = Report::new();
    validate(&group(&vm(), &json!({key: "5"})), &mut report);
    assert!(report.warnings[0].contains(want), "{report:?}");
}

#[test]
fn replicas_out_of_bounds_are_reported() {
    let mut object = write(None, group(&vm(), &sized()), None);
    object["spec"]["replicas"] = json!(6);
    let mut report = Report::new();
    validate(&object, &mut report);
    assert_eq!(
        report.warnings,
        [
            "spec.replicas: 6 is outside the limits of the cluster-autoscaler, 0 to 5: it deletes no node, also no empty one, until a user sets fewer"
        ]
    );
}

#[test]
fn capacity_follows_from_the_template() {
    let object = group(&vm(), &sized());
    let known = capacity(&object, &unread, None);
    let want = [
        ("cpu", "2"),
        ("ephemeral-disk", "10Gi"),
        (
            "labels",
            "a=b,v1.machine-controller.kubermatic.io/operating-system=ubuntu",
        ),
        ("memory", "4Gi"),
        ("taints", "k=v:NoSchedule,l:NoExecute"),
    ];
    assert_eq!(known.iter().collect::<Vec<_>>(), want);
}

#[rstest]
#[case::of_the_template(json!({"MaxPods": "60"}), json!({}), Some("60"))]
#[case::of_the_deployment_alone(json!({}), json!({"MaxPods": "50"}), None)]
#[case::of_the_deployment_of_a_profile(json!({}), json!({"MaxPods": "50", "profile": "osp-ubuntu"}), Some("50"))]
#[case::of_both(json!({"MaxPods": "60"}), json!({"MaxPods": "50", "profile": "osp-ubuntu"}), Some("60"))]
#[case::of_a_profile_that_is_not_used(json!({"mode": "builtin"}), json!({"MaxPods": "50", "profile": "osp-ubuntu"}), None)]
#[case::of_no_use(json!({"MaxPods": "many"}), json!({}), None)]
fn the_number_of_pods_is_that_of_the_generator_of_user_data(
    #[case] template: Value,
    #[case] deployment: Value,
    #[case] want: Option<&str>,
) {
    use crate::api::names::annotation;
    let named = |short: &Value| -> Value {
        let pairs = short.as_object().unwrap().iter().map(|(key, value)| {
            let key = match key.as_str() {
                "mode" => annotation::BOOTSTRAP.to_owned(),
                "profile" => annotation::OPERATING_SYSTEM_PROFILE.to_owned(),
                setting => format!("{}{setting}", annotation::KUBELET_CONFIG),
            };
            (key, value.clone())
        });
        pairs.collect()
    };
    let mut object = group(&vm(), &named(&deployment));
    object["spec"]["template"]["metadata"] = json!({"annotations": named(&template)});
    let known = capacity(&object, &unread, None);
    let found = known.iter().find(|(key, _)| *key == "maxPods");
    assert_eq!(found.map(|(_, value)| value), want);
}

#[test]
fn cores_win_over_cpus() {
    let mut vm = vm();
    vm["template"]["vcpus"] = json!({"cores": 8});
    let known = capacity(&group(&vm, &json!({})), &unread, None);
    assert!(known.iter().any(|found| found == ("cpu", "8")));
}

#[test]
fn capacity_follows_from_the_instancetype() {
    let object = group(&typed(), &sized());
    let unknown = capacity(&object, &unread, None);
    assert!(unknown.iter().all(|(key, _)| key != "cpu" && key != "memory"));
    let spec = json!({
        "cpu": {"guest": 4}, "memory": {"guest": "16Gi"},
        "gpus": [{"name": "a", "deviceName": "nvidia.com/TU104GL"}, {"name": "b", "deviceName": "nvidia.com/TU104GL"}],
    });
    let known = capacity(&object, &unread, Some(&spec));
    for want in [
        ("cpu", "4"),
        ("memory", "16Gi"),
        ("gpu-count", "2"),
        ("gpu-type", "nvidia.com/gpu"),
    ] {
        assert!(known.iter().any(|found| found == want), "{want:?}: {known:?}");
    }
}

#[test]
fn referenced_values_need_a_reader_with_permission() {
    let mut vm = vm();
    vm["template"]["memory"] = json!({"secretKeyRef": {"namespace": "a", "name": "b", "key": "c"}});
    let object = group(&vm, &sized());
    let written = write(None, object.clone(), None);
    assert_eq!(
        (of(&written, "cpu").as_deref(), of(&written, "memory")),
        (Some("2"), None)
    );
    let known = capacity(&object, &|_| Ok("2Gi".to_owned()), None);
    assert!(known.iter().any(|found| found == ("memory", "2Gi")));
}

#[test]
fn only_node_groups_are_written_to() {
    let object = group(&vm(), &json!({"x": "y"}));
    assert_eq!(write(None, object.clone(), None), object);
}

#[test]
fn writing_twice_is_writing_once() {
    let once = write(None, group(&vm(), &sized()), None);
    assert_eq!(of(&once, "cpu").as_deref(), Some("2"));
    assert_eq!(write(None, once.clone(), None), once);
    assert_eq!(write(Some(&once), once.clone(), None), once);
}

#[test]
fn what_a_person_wrote_stays() {
    let mut annotations = sized();
    annotations[format!("{CAPACITY}cpu")] = json!("1500m");
    let mut object = write(None, group(&vm(), &annotations), None);
    assert_eq!(of(&object, "cpu").as_deref(), Some("1500m"));
    // An annotation that a user changes is the user's from then on.
    object["metadata"]["annotations"][format!("{CAPACITY}memory")] = json!("3Gi");
    object["spec"]["template"]["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["virtualMachine"]["template"]
        ["memory"] = json!("8Gi");
    let object = write(None, object, None);
    assert_eq!(of(&object, "memory").as_deref(), Some("3Gi"));
    assert_eq!(of(&object, "cpu").as_deref(), Some("1500m"));
}

#[test]
fn what_we_wrote_follows_the_template() {
    let stored = write(None, group(&vm(), &sized()), None);
    let mut changed = stored.clone();
    let spec = &mut changed["spec"]["template"]["spec"];
    spec["taints"] = json!([]);
    spec["providerSpec"]["value"]["cloudProviderSpec"]["virtualMachine"]["template"]["memory"] = json!("8Gi");
    let changed = write(Some(&stored), changed, None);
    assert_eq!(of(&changed, "memory").as_deref(), Some("8Gi"));
    assert_eq!(of(&changed, "taints"), None);
}

#[test]
fn another_way_to_write_an_amount_is_no_change() {
    let stored = write(None, group(&vm(), &sized()), None);
    let mut changed = stored.clone();
    changed["spec"]["template"]["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["virtualMachine"]["template"]
        ["memory"] = json!("4096Mi");
    assert_eq!(write(Some(&stored), changed.clone(), None), changed);
}

#[test]
fn nothing_of_ours_is_left_on_what_is_no_group_any_more() {
    let mut object = write(None, group(&vm(), &sized()), None);
    let annotations = object["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove(MAX_SIZE);
    annotations.insert(format!("{CAPACITY}maxPods"), json!("50"));
    let object = write(None, object, None);
    let left: Vec<_> = annotations_of(&object);
    assert_eq!(left, [format!("{CAPACITY}maxPods"), MIN_SIZE.to_owned()]);
}

fn annotations_of(object: &Value) -> Vec<String> {
    let mut keys: Vec<_> = annotations(object).map(|(key, _)| key.to_owned()).collect();
    keys.sort();
    keys
}

#[test]
fn an_instancetype_is_read_once_per_template() {
    let spec = json!({"cpu": {"guest": 4}, "memory": {"guest": "16Gi"}});
    let object = group(&typed(), &sized());
    assert_eq!(needed(None, &object).unwrap().name, "large");
    let stored = write(None, object.clone(), Some(&spec));
    assert_eq!(needed(Some(&stored), &stored), None);
    // Someone puts back a manifest that has none of ours.
    let put_back = write(Some(&stored), object.clone(), None);
    assert_eq!(put_back, stored);
    let mut other = stored.clone();
    other["spec"]["template"]["spec"]["providerSpec"]["value"]["cloudProviderSpec"]["virtualMachine"]["instancetype"]
        ["name"] = json!("small");
    assert_eq!(needed(Some(&stored), &other).unwrap().name, "small");
    assert_eq!(needed(None, &group(&typed(), &json!({}))), None);
}

#[test]
fn what_an_instancetype_has_become_meanwhile_is_let_through_although_the_template_stays() {
    let spec = json!({"cpu": {"guest": 4}, "memory": {"guest": "16Gi"},
        "gpus": [{"name": "a", "deviceName": "nvidia.com/TU104GL"}]});
    let stored = write(None, group(&typed(), &sized()), Some(&spec));
    assert_eq!(of(&stored, "gpu-count").as_deref(), Some("1"));
    let spec = json!({"cpu": {"guest": 8}, "memory": {"guest": "16Gi"}});
    let corrected = corrections(&stored, &capacity(&stored, &unread, Some(&spec)));
    let mut changed = stored.clone();
    for (key, value) in corrected {
        let annotations = changed["metadata"]["annotations"].as_object_mut().unwrap();
        match value {
            Some(value) => annotations.insert(key, json!(value)),
            None => annotations.remove(&key),
        };
    }
    assert_eq!(of(&changed, "cpu").as_deref(), Some("8"));
    assert_eq!(of(&changed, "gpu-count"), None);
    // Admission, which does not ask again, has nothing to add.
    assert_eq!(write(Some(&stored), changed.clone(), None), changed);
}

#[test]
fn the_record_of_what_is_ours_is_json() {
    let object = write(None, group(&vm(), &sized()), None);
    let record = object["metadata"]["annotations"][WRITTEN].as_str().unwrap();
    let record: Value = serde_json::from_str(record).unwrap();
    assert_eq!(record["memory"], "4Gi");
    let mut nonsense = object.clone();
    nonsense["metadata"]["annotations"][WRITTEN] = json!("{");
    // Then nothing is ours, and everything stays.
    let kept = write(None, nonsense, None);
    assert_eq!(of(&kept, "memory").as_deref(), Some("4Gi"));
    assert_eq!(kept["metadata"]["annotations"].get(WRITTEN), None);
}
