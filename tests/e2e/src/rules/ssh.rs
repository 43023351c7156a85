//! SSH public keys (2.6).

use serde_json::{Value, json};

use super::Row;
use super::base::{SSH_KEY, value};

/// One key of each type that `ssh-keygen` makes, and a certificate.
const KEYS: &str = include_str!("../../../../shared/tests/data/ssh_public_keys");

fn keys(keys: &[&str]) -> Value {
    value("sshPublicKeys", json!(keys))
}

pub(super) fn rows() -> Vec<Row> {
    let key = |i: &str| match i {
        "1" => "spec.providerSpec.value.sshPublicKeys[1]",
        _ => "spec.providerSpec.value.sshPublicKeys[0]",
    };
    vec![
        Row::create("2.6/every-type", keys(&KEYS.lines().collect::<Vec<_>>())),
        Row::create("2.6/no-keys", keys(&[])),
        Row::create(
            "2.6/options-and-comment",
            keys(&[&format!("no-pty,command=\"a b\" {SSH_KEY} me@home")]),
        ),
        Row::create(
            "2.6/first-usable-line",
            keys(&[&format!("# mine\n\nssh-rsa bad\n{SSH_KEY}\r\n")]),
        ),
        Row::create(
            "2.6/the-blob-decides",
            keys(&[&SSH_KEY.replace("ssh-ed25519 ", "ssh-rsa ")]),
        ),
        Row::create("2.6/an-empty-entry", keys(&[""])).blames(&[key("0")]),
        Row::create("2.6/the-placeholder", keys(&["<< YOUR_PUBLIC_KEY >>"])).blames(&[key("0")]),
        Row::create("2.6/one-of-two", keys(&[SSH_KEY, "ssh-ed25519 AAAA"])).blames(&[key("1")]),
        Row::create("2.6/only-a-comment", keys(&["# none"])).blames(&[key("0")]),
        Row::create("2.6/trailing-bytes", keys(&[&format!("{SSH_KEY}AAAA")])).blames(&[key("0")]),
        Row::create("2.6/not-base64", keys(&["ssh-ed25519 %%%"])).blames(&[key("0")]),
        Row::create(
            "2.6/an-unknown-type",
            keys(&["ssh-ed448 AAAACXNzaC1lZDQ0OAAAAAR4eHh4"]),
        )
        .blames(&[key("0")]),
        Row::create(
            "2.6/an-even-exponent",
            keys(&["ssh-rsa AAAAB3NzaC1yc2EAAAABBAAAAAQBAAAB"]),
        )
        .blames(&[key("0")]),
        Row::create("2.6/an-rsa-key-too-long", keys(&[&rsa(1025)])).blames(&[key("0")]),
        Row::create("2.6/the-longest-rsa-key", keys(&[&rsa(1024)])),
    ]
}

/// An RSA key with a modulus of that many bytes and the exponent 65537.
fn rsa(modulus: usize) -> String {
    let number = [&[0][..], &vec![0xff; modulus]].concat();
    let parts: [&[u8]; 3] = [b"ssh-rsa", &[1, 0, 1], &number];
    let blob = parts.iter().flat_map(|part| {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        length
            .to_be_bytes()
            .into_iter()
            .chain(part.iter().copied())
            .collect::<Vec<_>>()
    });
    format!("ssh-rsa {}", base64(&blob.collect::<Vec<_>>()))
}

fn base64(bytes: &[u8]) -> String {
    // Kubernetes writes bytes as base64.
    let text = serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec()));
    text.ok()
        .and_then(|text| text.as_str().map(str::to_owned))
        .unwrap_or_default()
}
