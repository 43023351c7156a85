//! Decoding of the object; all errors in its shape are reported.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Commands, DEFAULT_PERMISSIONS, GuestFile, KubeletExtras, Machinist, Proxy, Registries};
use crate::api::config_var::ConfigVarString;
use crate::api::decode::{Field, Fields};
use crate::api::field::{ErrorKind, Report};

/// Decodes the object at `field`; absent equals empty.
pub fn decode(field: &Field<'_>, report: &mut Report) -> Machinist {
    let mut machinist = Machinist::default();
    let Some(mut fields) = field.object(report) else {
        return machinist;
    };
    let files = fields.take("files").items(report).unwrap_or_default();
    machinist.files = files.iter().filter_map(|item| file(item, report)).collect();
    if let Some(commands) = fields.take("commands").object(report) {
        machinist.commands = self::commands(commands, report);
    }
    if let Some(kubelet) = fields.take("kubelet").object(report) {
        machinist.kubelet = self::kubelet(kubelet, report);
    }
    machinist.time_servers = fields.take("timeServers").strings(report).unwrap_or_default();
    if let Some(registries) = fields.take("registries").object(report) {
        machinist.registries = self::registries(registries, report);
    }
    if let Some(proxy) = fields.take("proxy").object(report) {
        machinist.proxy = self::proxy(proxy, report);
    }
    machinist.ca_bundle = ConfigVarString::decode(&fields.take("caBundle"), report);
    fields.deny_unknown(report);
    machinist
}

fn file(item: &Field<'_>, report: &mut Report) -> Option<GuestFile> {
    let mut fields = Fields::of(item.value.unwrap_or(&Value::Null), item.path.clone(), report)?;
    let permissions = fields.take("permissions").string(report);
    let file = GuestFile {
        path: fields.take("path").string(report).unwrap_or_default(),
        permissions: permissions.unwrap_or_else(|| DEFAULT_PERMISSIONS.to_owned()),
        content: fields.take("content").string(report).unwrap_or_default(),
    };
    fields.deny_unknown(report);
    Some(file)
}

fn commands(mut fields: Fields<'_>, report: &mut Report) -> Commands {
    let commands = Commands {
        pre_install: fields.take("preInstall").strings(report).unwrap_or_default(),
        post_install: fields.take("postInstall").strings(report).unwrap_or_default(),
    };
    fields.deny_unknown(report);
    commands
}

fn kubelet(mut fields: Fields<'_>, report: &mut Report) -> KubeletExtras {
    let arguments = object(&fields.take("extraArgs"), report);
    let mut extra_args = BTreeMap::new();
    for (path, name, value) in arguments {
        // Values of flags can be numbers and booleans as well as strings.
        match value {
            Value::String(text) => extra_args.insert(name, text),
            Value::Number(_) | Value::Bool(_) => extra_args.insert(name, value.to_string()),
            _ => {
                report.error(&path, ErrorKind::Type, "must be a string, a number or a boolean");
                None
            }
        };
    }
    let extra_config = fields.take("extraConfig");
    let kubelet = KubeletExtras {
        extra_args,
        extra_config: object(&extra_config, report)
            .into_iter()
            .map(|(_, name, value)| (name, value))
            .collect(),
    };
    fields.deny_unknown(report);
    kubelet
}

fn registries(mut fields: Fields<'_>, report: &mut Report) -> Registries {
    let mut mirrors = BTreeMap::new();
    for (path, registry, value) in object(&fields.take("mirrors"), report) {
        let hosts = Field {
            path,
            value: Some(&value).filter(|value| !value.is_null()),
        };
        mirrors.insert(registry, hosts.strings(report).unwrap_or_default());
    }
    let registries = Registries {
        mirrors,
        credentials: ConfigVarString::decode(&fields.take("credentials"), report),
    };
    fields.deny_unknown(report);
    registries
}

fn proxy(mut fields: Fields<'_>, report: &mut Report) -> Proxy {
    let mut text = |key| fields.take(key).string(report).unwrap_or_default();
    let (http, https) = (text("http"), text("https"));
    let proxy = Proxy {
        http,
        https,
        no: fields.take("no").strings(report).unwrap_or_default(),
    };
    fields.deny_unknown(report);
    proxy
}

/// The entries of an object with arbitrary keys.
fn object(field: &Field<'_>, report: &mut Report) -> Vec<(crate::api::field::FieldPath, String, Value)> {
    let Some(value) = field.value else {
        return Vec::new();
    };
    // Reports a value that is not an object.
    if Fields::of(value, field.path.clone(), report).is_none() {
        return Vec::new();
    }
    let empty = Map::new();
    let entries = value.as_object().unwrap_or(&empty).iter();
    entries
        .map(|(key, value)| (field.path.child(key), key.clone(), value.clone()))
        .collect()
}
