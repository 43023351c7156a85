//! SSH public keys (2.6).

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::Row;
use super::base::{SSH_KEY, value};

/// One key of each type that `ssh-keygen` creates, and a certificate.
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
        Row::create("2.6/an-empty-entry", keys(&[""])).rejects(&[key("0")]),
        Row::create("2.6/the-placeholder", keys(&["<< YOUR_PUBLIC_KEY >>"])).rejects(&[key("0")]),
        Row::create("2.6/one-of-two", keys(&[SSH_KEY, "ssh-ed25519 AAAA"])).rejects(&[key("1")]),
        Row::create("2.6/only-a-comment", keys(&["# none"])).rejects(&[key("0")]),
        Row::create("2.6/trailing-bytes", keys(&[&format!("{SSH_KEY}AAAA")])).rejects(&[key("0")]),
        Row::create("2.6/not-base64", keys(&["ssh-ed25519 %%%"])).rejects(&[key("0")]),
        Row::create(
            "2.6/an-unknown-type",
            keys(&["ssh-ed448 AAAACXNzaC1lZDQ0OAAAAAR4eHh4"]),
        )
        .rejects(&[key("0")]),
        Row::create(
            "2.6/an-even-exponent",
            keys(&["ssh-rsa AAAAB3NzaC1yc2EAAAABBAAAAAQBAAAB"]),
        )
        .rejects(&[key("0")]),
        Row::create("2.6/an-rsa-key-too-long", keys(&[&rsa(1025, &[1, 0, 1])])).rejects(&[key("0")]),
        Row::create("2.6/the-longest-rsa-key", keys(&[&rsa(1024, &[1, 0, 1])])),
        Row::create("2.6/the-smallest-exponent", keys(&[&rsa(256, &[3])])),
        Row::create("2.6/an-exponent-of-one", keys(&[&rsa(256, &[1])])).rejects(&[key("0")]),
        Row::create(
            "2.6/an-exponent-of-24-bits",
            keys(&[&rsa(256, &[0, 0xff, 0xff, 0xff])]),
        ),
        Row::create("2.6/an-exponent-of-25-bits", keys(&[&rsa(256, &[1, 0, 0, 1])])).rejects(&[key("0")]),
        Row::create("2.6/a-dsa-key", keys(&[&line(&dsa(128))])),
        Row::create("2.6/a-dsa-key-of-another-size", keys(&[&line(&dsa(256))])).rejects(&[key("0")]),
        Row::create(
            "2.6/keys-on-tokens",
            keys(&[&line(&sk_ed25519()), &line(&sk_ecdsa())]),
        ),
        Row::create(
            "2.6/a-certificate-of-every-type",
            keys(&certificates().iter().map(String::as_str).collect::<Vec<_>>()),
        ),
        Row::create(
            "2.6/a-refusal-quotes-the-entry-and-the-last-error",
            keys(&["ssh-ed25519 AAAA me@home"]),
        )
        .rejects(&[key("0")])
        .message_contains("ssh-ed25519 AAAA me@home")
        .message_contains("no SSH public key in it: "),
    ]
}

/// A field of a key: its length and its bytes.
fn field(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

fn fields(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| field(part)).collect()
}

/// A positive number of that many bytes.
fn number(bytes: usize) -> Vec<u8> {
    [&[0][..], &vec![0xff; bytes]].concat()
}

/// A line with this key; the word before it is never read.
fn line(blob: &[u8]) -> String {
    format!("key {}", base64(blob))
}

/// An RSA key with a modulus of that many bytes.
fn rsa(modulus: usize, exponent: &[u8]) -> String {
    line(&fields(&[b"ssh-rsa", exponent, &number(modulus)]))
}

/// A DSA key with a prime of that many bytes.
fn dsa(prime: usize) -> Vec<u8> {
    fields(&[b"ssh-dss", &number(prime), &number(20), &[2], &[4]])
}

fn sk_ed25519() -> Vec<u8> {
    fields(&[b"sk-ssh-ed25519@openssh.com", &[7; 32], b"ssh:"])
}

fn sk_ecdsa() -> Vec<u8> {
    // A point of the curve, from the first key of the file.
    let plain = KEYS.lines().next().map(blob).unwrap_or_default();
    let point = &plain[plain.len() - 65..];
    fields(&[b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", point, b"ssh:"])
}

/// A certificate of each plain key type.
fn certificates() -> Vec<String> {
    let plain = KEYS.lines().filter(|line| !line.contains("-cert-")).map(blob);
    let others = [dsa(128), sk_ed25519(), sk_ecdsa()];
    plain.chain(others).map(|key| line(&certificate(&key))).collect()
}

/// The key in an OpenSSH certificate that never expires (PROTOCOL.certkeys).
fn certificate(key: &[u8]) -> Vec<u8> {
    let length = key
        .iter()
        .take(4)
        .fold(0, |sum, byte| sum * 256 + usize::from(*byte));
    let (name, rest) = key[4..].split_at(length);
    let name = String::from_utf8_lossy(name).replace("@openssh.com", "");
    let signer = fields(&[b"ssh-ed25519", &[7; 32]]);
    let signature = fields(&[b"ssh-ed25519", &[7; 64]]);
    [
        fields(&[format!("{name}-cert-v01@openssh.com").as_bytes(), &[7; 32]]),
        rest.to_vec(),
        // Serial number and type, ID and principals, validity.
        [[0; 8].as_slice(), &[0, 0, 0, 1]].concat(),
        fields(&[b"id", b""]),
        [[0; 8], [0xff; 8]].concat(),
        // Options, extensions, a reserved field.
        fields(&[b"", b"", b"", &signer, &signature]),
    ]
    .concat()
}

fn blob(line: &str) -> Vec<u8> {
    let encoded = line.split(' ').nth(1).unwrap_or_default();
    serde_json::from_value(json!(encoded)).map_or_else(|_| Vec::new(), |ByteString(bytes)| bytes)
}

fn base64(bytes: &[u8]) -> String {
    // Kubernetes writes bytes as base64.
    let text = serde_json::to_value(ByteString(bytes.to_vec()));
    text.ok()
        .and_then(|text| text.as_str().map(str::to_owned))
        .unwrap_or_default()
}
