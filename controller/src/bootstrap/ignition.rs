//! A guest as an Ignition configuration, for Flatcar.
//!
//! KubeVirt passes it in an annotation, whose size the API server limits; so files are compressed where that helps.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::guest::{File, Guest};
use super::size;

/// Version of the specification; every Flatcar since 2022 reads it.
const VERSION: &str = "3.3.0";

/// Renders it.
pub(super) fn render(guest: &Guest<'_>) -> String {
    let hostname = File::new("/etc/hostname", 0o644, format!("{}\n", guest.hostname));
    let files: Vec<Value> = std::iter::once(&hostname).chain(&guest.files).map(file).collect();
    let mut config = json!({
        "ignition": {"version": VERSION},
        "storage": {"files": files},
        // Its text is among the files; here it is only enabled.
        "systemd": {"units": [{"name": guest.service, "enabled": true}]},
    });
    if !guest.ssh_keys.is_empty() {
        config["passwd"] = json!({"users": [{"name": "core", "sshAuthorizedKeys": guest.ssh_keys}]});
    }
    config.to_string()
}

fn file(file: &File) -> Value {
    let plain = STANDARD.encode(&file.content);
    let packed = STANDARD.encode(size::gzip(file.content.as_bytes()));
    let contents = if packed.len() + 24 < plain.len() {
        json!({"source": format!("data:;base64,{packed}"), "compression": "gzip"})
    } else {
        json!({"source": format!("data:;base64,{plain}")})
    };
    json!({"path": file.path, "mode": file.mode, "overwrite": true, "contents": contents})
}
