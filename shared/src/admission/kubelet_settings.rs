//! Kubelet settings in a Machine's annotations, in the form that operating-system-manager reads:
//! `v1.kubelet-config.machine-controller.kubermatic.io/KEY` and `v1.kubelet-featuregates.…/GATE`.
//!
//! A setting that would keep the kubelet from starting is an error here, and becomes a condition instead of a broken
//! node.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::config_var::ConfigValue as _;
use crate::api::did_you_mean::did_you_mean;
use crate::api::names::annotation::{KUBELET_CONFIG, KUBELET_FEATURE_GATES};
use crate::api::quantity;

/// Keys after the prefix.
pub const KEYS: [&str; 10] = [
    "SystemReserved",
    "KubeReserved",
    "EvictionHard",
    "ContainerLogMaxSize",
    "ContainerLogMaxFiles",
    "MaxPods",
    "ImageGCHighThresholdPercent",
    "ImageGCLowThresholdPercent",
    "ImageMinimumGCAge",
    "ImageMaximumGCAge",
];

/// Resources that can be reserved.
const RESOURCES: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

/// Eviction signals of the kubelet.
const SIGNALS: [&str; 7] = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "pid.available",
];

/// A feature gate that every kubelet enables by default and that admission writes to every Machine. A kubelet that has
/// removed the gate would not start with it.
const ENABLED_BY_DEFAULT: &str = "RotateKubeletServerCertificate";

/// An annotation with an invalid setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {why}")]
pub struct SettingError {
    /// Its key.
    pub annotation: String,
    /// What is wrong with it.
    pub why: String,
}

/// Parses the annotations: fields of the KubeletConfiguration, and all errors.
pub fn read(annotations: &BTreeMap<String, String>) -> (Map<String, Value>, Vec<SettingError>) {
    let (mut config, mut errors) = (Map::new(), Vec::new());
    let mut gates = Map::new();
    for (annotation, text) in annotations {
        let result = if let Some(key) = annotation.strip_prefix(KUBELET_CONFIG) {
            setting(key, text.trim()).map(|(field, value)| {
                config.insert(field.to_owned(), value);
            })
        } else if let Some(gate) = annotation.strip_prefix(KUBELET_FEATURE_GATES) {
            feature_gate(gate, text.trim()).map(|on| {
                if !(on && gate == ENABLED_BY_DEFAULT) {
                    gates.insert(gate.to_owned(), json!(on));
                }
            })
        } else {
            Ok(())
        };
        if let Err(why) = result {
            errors.push(SettingError {
                annotation: annotation.clone(),
                why,
            });
        }
    }
    if !gates.is_empty() {
        config.insert("featureGates".to_owned(), Value::Object(gates));
    }
    errors.extend(thresholds(&config));
    (config, errors)
}

fn setting(key: &str, text: &str) -> Result<(&'static str, Value), String> {
    Ok(match key {
        "SystemReserved" => ("systemReserved", reserved(text)?),
        "KubeReserved" => ("kubeReserved", reserved(text)?),
        "EvictionHard" => ("evictionHard", eviction(text)?),
        "ContainerLogMaxSize" => ("containerLogMaxSize", json!(amount(text)?)),
        "ContainerLogMaxFiles" => ("containerLogMaxFiles", number(text, 2, i32::MAX)?),
        "MaxPods" => ("maxPods", number(text, 1, 65_535)?),
        "ImageGCHighThresholdPercent" => ("imageGCHighThresholdPercent", number(text, 0, 100)?),
        "ImageGCLowThresholdPercent" => ("imageGCLowThresholdPercent", number(text, 0, 100)?),
        "ImageMinimumGCAge" => ("imageMinimumGCAge", age(text)?),
        "ImageMaximumGCAge" => ("imageMaximumGCAge", age(text)?),
        _ => {
            let hint = did_you_mean(key, KEYS);
            return Err(format!("{key:?} is not known{hint}"));
        }
    })
}

/// The kubelet requires the low threshold to be below the high one, 85 by default.
fn thresholds(config: &Map<String, Value>) -> Option<SettingError> {
    let of = |key: &str, default| config.get(key).and_then(Value::as_i64).unwrap_or(default);
    let (high, low) = (
        of("imageGCHighThresholdPercent", 85),
        of("imageGCLowThresholdPercent", 80),
    );
    (low >= high).then(|| SettingError {
        annotation: format!("{KUBELET_CONFIG}ImageGCLowThresholdPercent"),
        why: format!("{low} must be less than the high threshold, {high}"),
    })
}

fn feature_gate(gate: &str, text: &str) -> Result<bool, String> {
    if gate.is_empty() || !gate.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(format!("{gate:?} is not a feature gate"));
    }
    bool::of_text(text.to_owned()).ok_or_else(|| format!("{text:?} is not true or false"))
}

/// `cpu=200m,memory=200Mi`.
fn reserved(text: &str) -> Result<Value, String> {
    pairs(text, &['='], |key, value| {
        if !RESOURCES.contains(&key) {
            let hint = did_you_mean(key, RESOURCES);
            return Err(format!("{key:?} is not one of {}{hint}", RESOURCES.join(", ")));
        }
        amount(value)
    })
}

/// `memory.available<100Mi,nodefs.available<10%`.
fn eviction(text: &str) -> Result<Value, String> {
    pairs(text, &['<', '='], |key, value| {
        if !SIGNALS.contains(&key) {
            let hint = did_you_mean(key, SIGNALS);
            return Err(format!("{key:?} is not an eviction signal{hint}"));
        }
        match value.strip_suffix('%') {
            None => amount(value),
            Some(percent) if percent.parse::<f64>().is_ok_and(|p| (0.0..100.0).contains(&p)) => Ok(value),
            Some(_) => Err(format!("{value:?} is not a percentage below 100")),
        }
    })
}

fn pairs<'a>(
    text: &'a str,
    separators: &[char],
    check: impl Fn(&'a str, &'a str) -> Result<&'a str, String>,
) -> Result<Value, String> {
    let mut map = Map::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once(separators) else {
            let separator = separators.first().unwrap_or(&'=');
            return Err(format!("{pair:?} is not written as name{separator}amount"));
        };
        let (key, value) = (key.trim(), value.trim());
        if map.insert(key.to_owned(), json!(check(key, value)?)).is_some() {
            return Err(format!("{key:?} is there twice"));
        }
    }
    if map.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(Value::Object(map))
}

fn amount(text: &str) -> Result<&str, String> {
    match quantity::parse(text) {
        Some(amount) if amount >= 0.0 => Ok(text),
        _ => Err(format!(
            "{text:?} is not a quantity; write one like 200m, 200Mi or 1Gi"
        )),
    }
}

fn number(text: &str, least: i32, most: i32) -> Result<Value, String> {
    match text.parse::<i32>() {
        Ok(number) if (least..=most).contains(&number) => Ok(json!(number)),
        _ if most == i32::MAX => Err(format!("{text:?} is not a whole number of at least {least}")),
        _ => Err(format!("{text:?} is not a whole number from {least} to {most}")),
    }
}

/// A duration in Go's syntax, not negative.
fn age(text: &str) -> Result<Value, String> {
    let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(0);
        let (digits, tail) = rest.split_at(number);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        if digits.parse::<f64>().is_err() || !units.contains(&unit) {
            parts = 0;
            break;
        }
        (rest, parts) = (tail, parts + 1);
    }
    if text == "0" || parts > 0 {
        Ok(json!(if text == "0" { "0s" } else { text }))
    } else {
        Err(format!("{text:?} is not a duration; write one like 2m or 1h30m"))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn config(key: &str, text: &str) -> (Map<String, Value>, Vec<SettingError>) {
        read(&BTreeMap::from([(
            format!("{KUBELET_CONFIG}{key}"),
            text.to_owned(),
        )]))
    }

    #[rstest]
    #[case::reserved("SystemReserved", "cpu=200m,memory=200Mi", json!({"systemReserved": {"cpu": "200m", "memory": "200Mi"}}))]
    #[case::with_spaces("KubeReserved", " cpu = 1 , pid=100,", json!({"kubeReserved": {"cpu": "1", "pid": "100"}}))]
    #[case::eviction("EvictionHard", "memory.available<100Mi,nodefs.inodesFree<5%", json!({"evictionHard": {"memory.available": "100Mi", "nodefs.inodesFree": "5%"}}))]
    #[case::log_size("ContainerLogMaxSize", "100Mi", json!({"containerLogMaxSize": "100Mi"}))]
    #[case::log_files("ContainerLogMaxFiles", "5", json!({"containerLogMaxFiles": 5}))]
    #[case::pods("MaxPods", "250", json!({"maxPods": 250}))]
    #[case::high("ImageGCHighThresholdPercent", "90", json!({"imageGCHighThresholdPercent": 90}))]
    #[case::low("ImageGCLowThresholdPercent", "50", json!({"imageGCLowThresholdPercent": 50}))]
    #[case::minimum_age("ImageMinimumGCAge", "2m0s", json!({"imageMinimumGCAge": "2m0s"}))]
    #[case::no_age("ImageMaximumGCAge", "0", json!({"imageMaximumGCAge": "0s"}))]
    fn each_setting_becomes_its_field(#[case] key: &str, #[case] text: &str, #[case] want: Value) {
        let (config, errors) = config(key, text);
        assert_eq!((Value::Object(config), errors), (want, vec![]));
    }

    #[rstest]
    #[case::unknown("MaxPod", "1", "did you mean \"MaxPods\"?")]
    #[case::no_pair("SystemReserved", "200m", "not written as name=amount")]
    #[case::an_unknown_resource("SystemReserved", "cpus=1", "did you mean \"cpu\"?")]
    #[case::twice("SystemReserved", "cpu=1,cpu=2", "twice")]
    #[case::no_quantity("KubeReserved", "memory=200MB", "not a quantity")]
    #[case::negative("KubeReserved", "memory=-1", "not a quantity")]
    #[case::empty("KubeReserved", "", "is empty")]
    #[case::an_unknown_signal("EvictionHard", "memory<100Mi", "not an eviction signal")]
    #[case::too_many_percent("EvictionHard", "memory.available<110%", "not a percentage")]
    #[case::log_size("ContainerLogMaxSize", "many", "not a quantity")]
    #[case::one_log_file("ContainerLogMaxFiles", "1", "of at least 2")]
    #[case::no_pods("MaxPods", "0", "from 1 to")]
    #[case::many_percent("ImageGCHighThresholdPercent", "101", "from 0 to 100")]
    #[case::low_above_high(
        "ImageGCLowThresholdPercent",
        "90",
        "must be less than the high threshold, 85"
    )]
    #[case::no_unit("ImageMinimumGCAge", "120", "not a duration")]
    #[case::an_unknown_unit("ImageMinimumGCAge", "1d", "not a duration")]
    #[case::a_negative_age("ImageMaximumGCAge", "-1h", "not a duration")]
    fn settings_that_keep_a_kubelet_from_starting_are_reported(
        #[case] key: &str,
        #[case] text: &str,
        #[case] why: &str,
    ) {
        let (config, errors) = config(key, text);
        let reported = errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(reported.len(), 1, "{reported:?}, {config:?}");
        assert!(
            reported[0].contains(why) && reported[0].contains(KUBELET_CONFIG),
            "{reported:?}"
        );
    }

    #[rstest]
    #[case::on("SomeGate", "true", json!({"featureGates": {"SomeGate": true}}))]
    #[case::off("SomeGate", "False", json!({"featureGates": {"SomeGate": false}}))]
    #[case::on_by_itself("RotateKubeletServerCertificate", "true", json!({}))]
    #[case::and_turned_off("RotateKubeletServerCertificate", "false", json!({"featureGates": {"RotateKubeletServerCertificate": false}}))]
    fn feature_gates_are_read(#[case] gate: &str, #[case] text: &str, #[case] want: Value) {
        let annotations = BTreeMap::from([(format!("{KUBELET_FEATURE_GATES}{gate}"), text.to_owned())]);
        assert_eq!(Value::Object(read(&annotations).0), want);
        let annotations = BTreeMap::from([(format!("{KUBELET_FEATURE_GATES}{gate}"), "yes".to_owned())]);
        assert_eq!(read(&annotations).1.len(), 1);
    }

    #[test]
    fn other_annotations_are_ignored() {
        let annotations = BTreeMap::from([("MaxPods".to_owned(), "x".to_owned())]);
        assert_eq!(read(&annotations), (Map::new(), vec![]));
    }
}
