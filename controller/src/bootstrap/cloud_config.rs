//! A guest as a cloud-config: for cloud-init, and for Flatcar's coreos-cloudinit, which knows fewer keys.
//!
//! Files are carried as base64, so that nothing a person wrote into a Machine can end a YAML string.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::guest::Guest;

/// Who reads the cloud-config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// cloud-init.
    CloudInit,
    /// coreos-cloudinit.
    CoreOs,
}

/// Renders it.
pub(super) fn render(guest: &Guest<'_>, reader: Reader) -> String {
    let write_files: Vec<Value> = guest
        .files
        .iter()
        .map(|file| {
            json!({
                "path": file.path,
                "permissions": format!("{:04o}", file.mode),
                "owner": "root:root",
                "encoding": "b64",
                "content": STANDARD.encode(&file.content),
            })
        })
        .collect();
    let mut config = json!({"hostname": guest.hostname, "write_files": write_files});
    if !guest.ssh_keys.is_empty() {
        config["ssh_authorized_keys"] = json!(guest.ssh_keys);
    }
    match reader {
        Reader::CloudInit => {
            config["fqdn"] = json!(guest.hostname);
            config["preserve_hostname"] = json!(false);
            config["manage_etc_hosts"] = json!(true);
            config["ssh_pwauth"] = json!(false);
            config["runcmd"] = json!([["systemctl", "enable", "--now", "--no-block", guest.service]]);
            if !guest.time_servers.is_empty() {
                config["ntp"] = json!({"enabled": true, "servers": guest.time_servers});
            }
        }
        Reader::CoreOs => {
            config["coreos"] =
                json!({"units": [{"name": guest.service, "enable": true, "command": "start"}]});
        }
    }
    // JSON is YAML, so no quoting rule of YAML can go wrong.
    format!("#cloud-config\n{config:#}\n")
}
