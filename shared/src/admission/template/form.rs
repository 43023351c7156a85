//! The normal form of `providerSpec.value`: equal for all values with the same meaning.

use serde_json::{Map, Value, json};

use crate::api::quantity;
use crate::api::raw::{Object, any_case, text};

/// The form of a value, which determines the notations that are equal. `null` is always absent.
#[derive(Debug)]
pub(super) enum Form {
    /// Anything; compared as it is.
    Raw,
    /// A string; empty is absent.
    Text,
    /// An integer; zero is absent.
    Integer,
    /// A string that is written down or refers to a Secret or ConfigMap; empty is absent.
    Var,
    /// The same for an amount, which counts by its size.
    Amount,
    /// The same for a boolean that is true where absent.
    FlagOn,
    /// Settings of an operating system: `false` and empty are absent.
    Settings,
    /// A list; empty is absent.
    List(&'static Form),
    /// An object; keys match in any letter case, and unknown ones count. Empty is absent.
    Object(&'static [(&'static str, &'static Form)]),
    /// The same where empty is not absent.
    There(&'static Form),
}

use Form::{Amount, FlagOn, Integer, List, Object as Fields, Raw, Settings, Text, There, Var};

const TEXTS: Form = List(&Text);
const NAMED: Form = Fields(&[("name", &Text)]);
const MATCHER: Form = There(&Fields(&[
    ("name", &Text),
    ("kind", &Text),
    ("revisionName", &Text),
    ("inferFromVolume", &Text),
    ("inferFromVolumeFailurePolicy", &Text),
]));
const PRIMARY_DISK: Form = Fields(&[
    ("size", &Amount),
    ("storageClassName", &Var),
    ("storageAccessType", &Var),
    ("storageTarget", &Var),
    ("osImage", &Var),
    ("source", &Var),
    ("pullMethod", &Var),
    ("dataVolumeSecretRef", &Var),
    ("extraHeadersSecretRef", &Var),
    ("extraHeaders", &TEXTS),
]);
const SECONDARY_DISK: Form = Fields(&[
    ("size", &Amount),
    ("storageClassName", &Var),
    ("storageAccessType", &Var),
]);
const DNS_CONFIG: Form = Fields(&[
    ("nameservers", &TEXTS),
    ("searches", &TEXTS),
    // An option without a value is not one with an empty one.
    ("options", &List(&Fields(&[("name", &Text), ("value", &Raw)]))),
]);
const VIRTUAL_MACHINE: Form = Fields(&[
    ("instancetype", &MATCHER),
    ("preference", &MATCHER),
    (
        "template",
        &Fields(&[
            ("vcpus", &Fields(&[("cores", &Integer)])),
            ("cpus", &Amount),
            ("memory", &Amount),
            ("primaryDisk", &PRIMARY_DISK),
            ("secondaryDisks", &List(&SECONDARY_DISK)),
        ]),
    ),
    ("dnsPolicy", &Var),
    ("dnsConfig", &DNS_CONFIG),
    ("location", &Fields(&[("region", &Text), ("zone", &Text)])),
    (
        "providerNetwork",
        &Fields(&[
            ("name", &Text),
            ("vpc", &Fields(&[("name", &Text), ("subnet", &NAMED)])),
        ]),
    ),
    ("enableNetworkMultiQueue", &FlagOn),
    ("evictionStrategy", &Text),
    ("flavor", &Fields(&[("name", &Var), ("profile", &Var)])),
]);
const CLOUD_PROVIDER_SPEC: Form = Fields(&[
    ("auth", &Fields(&[("kubeconfig", &Var)])),
    ("clusterName", &Var),
    ("projectID", &Var),
    ("virtualMachine", &VIRTUAL_MACHINE),
    (
        "affinity",
        &Fields(&[
            ("podAffinityPreset", &Var),
            ("podAntiAffinityPreset", &Var),
            (
                "nodeAffinityPreset",
                &Fields(&[("type", &Var), ("key", &Var), ("values", &List(&Var))]),
            ),
        ]),
    ),
    (
        "topologySpreadConstraints",
        &List(&Fields(&[
            ("maxSkew", &Var),
            ("topologyKey", &Var),
            ("whenUnsatisfiable", &Var),
        ])),
    ),
]);
/// `providerSpec.value`, after defaults are in.
pub(super) static VALUE: Form = Fields(&[
    ("sshPublicKeys", &TEXTS),
    ("caPublicKey", &Text),
    ("cloudProvider", &Text),
    ("cloudProviderSpec", &CLOUD_PROVIDER_SPEC),
    ("operatingSystem", &Text),
    ("operatingSystemSpec", &Settings),
    (
        "network",
        &Fields(&[
            ("cidr", &Text),
            ("gateway", &Text),
            ("dns", &Fields(&[("servers", &TEXTS)])),
            ("ipFamily", &Text),
        ]),
    ),
    // Set to nothing differs from unset.
    ("overwriteCloudConfig", &Raw),
]);

impl Form {
    /// The value in its normal form; `None` if it is equal to an absent one. A value of a wrong type is not changed.
    pub(super) fn normal(&self, value: &Value) -> Option<Value> {
        match (self, value) {
            (_, Value::Null) => None,
            (Text, Value::String(text)) if text.is_empty() => None,
            (Integer, Value::Number(number)) if number.as_i64() == Some(0) => None,
            (Var | Amount | FlagOn, Value::Object(map)) => self.reference(map, value),
            (Var | Amount, Value::Number(_) | Value::Bool(_)) => self.literal(&json!(value.to_string())),
            (Var | Amount, Value::String(_)) | (FlagOn, Value::Bool(_)) => self.literal(value),
            (Settings, Value::Object(map)) => settings(map),
            (List(form), Value::Array(items)) => (!items.is_empty()).then(|| {
                // In a list, absent items keep their index, and an empty string is an item.
                let item = |item: &Value| match item {
                    Value::String(_) => item.clone(),
                    _ => form.normal(item).unwrap_or_default(),
                };
                items.iter().map(item).collect()
            }),
            (There(form), _) => Some(form.normal(value).unwrap_or_else(|| json!({}))),
            (Fields(fields), Value::Object(map)) => object(fields, map),
            _ => Some(value.clone()),
        }
    }

    /// What is written down.
    fn literal(&self, value: &Value) -> Option<Value> {
        match value {
            Value::String(text) if text.is_empty() => None,
            Value::Bool(true) => None,
            // Fifteen digits: `0.1` and `100m` are equal, and no disk size is truncated.
            Value::String(text) if matches!(self, Amount) => Some(
                quantity::parse(text).map_or_else(|| value.clone(), |amount| json!(format!("{amount:.14e}"))),
            ),
            _ => Some(value.clone()),
        }
    }

    /// The form of an object: complete references, and the value.
    fn reference(&self, map: &Object, whole: &Value) -> Option<Value> {
        let value = match any_case(map, "value").unwrap_or(&Value::Null) {
            Value::Null => None,
            value @ Value::String(_) if !matches!(self, FlagOn) => self.literal(value),
            value @ Value::Bool(_) if matches!(self, FlagOn) => self.literal(value),
            _ => return Some(whole.clone()),
        };
        let mut references = Map::new();
        for key in ["secretKeyRef", "configMapKeyRef"] {
            let reference = match any_case(map, key).unwrap_or(&Value::Null) {
                Value::Null => continue,
                Value::Object(reference) => reference,
                _ => return Some(whole.clone()),
            };
            if !reference.values().all(|part| part.is_string() || part.is_null()) {
                return Some(whole.clone());
            }
            let parts = ["namespace", "name", "key"].map(|part| text(reference, part));
            if parts.iter().all(Option::is_some) {
                references.insert(key.to_owned(), json!(parts));
            }
        }
        if references.is_empty() {
            return value;
        }
        references.extend(value.map(|value| ("value".to_owned(), value)));
        Some(Value::Object(references))
    }
}

fn settings(map: &Object) -> Option<Value> {
    let said = |value: &Value| !(value.is_null() || *value == json!(false) || *value == json!(""));
    let said = map.iter().filter(|(_, value)| said(value));
    let settings: Object = said
        .map(|(key, value)| (key.to_lowercase(), value.clone()))
        .collect();
    (!settings.is_empty()).then_some(Value::Object(settings))
}

fn object(fields: &[(&str, &Form)], map: &Object) -> Option<Value> {
    let known = fields.iter().filter_map(|(key, form)| {
        let value = form.normal(any_case(map, key)?)?;
        Some(((*key).to_owned(), value))
    });
    let unknown = map
        .iter()
        .filter(|(key, _)| !fields.iter().any(|(known, _)| known.eq_ignore_ascii_case(key)));
    let unknown = unknown.map(|(key, value)| (key.clone(), value.clone()));
    let object: Object = known.chain(unknown).collect();
    (!object.is_empty()).then_some(Value::Object(object))
}
