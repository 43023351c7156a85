//! SSH public keys in the format of `authorized_keys`, validated like Go's `golang.org/x/crypto/ssh`.
//!
//! An entry may have several lines; the first valid one counts. The key type before the key is not compared with the
//! type inside the key, which determines the type.

use base64::{Engine, engine::general_purpose::STANDARD};
use ssh_key::public::{EcdsaPublicKey, KeyData, PublicKey};

/// Why an entry is not an SSH public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshKeyError {
    /// No line looks like a key.
    #[error("no SSH public key in it")]
    NoKey,
    /// The last line that looks like a key is not valid; why.
    #[error("no SSH public key in it: {0}")]
    BadKey(String),
}

/// Checks one entry of `sshPublicKeys`.
pub fn check(entry: &str) -> Result<(), SshKeyError> {
    let mut last = SshKeyError::NoKey;
    for line in entry.split('\n') {
        let line = line.split('\r').next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let without_options = skip_options(line);
        for candidate in [Some(line), without_options].into_iter().flatten() {
            let Some((_, rest)) = candidate.split_once([' ', '\t']) else {
                continue;
            };
            let encoded = rest.trim().split([' ', '\t']).next().unwrap_or_default();
            match check_blob(encoded) {
                Ok(()) => return Ok(()),
                Err(why) => last = SshKeyError::BadKey(why),
            }
        }
    }
    Err(last)
}

/// The line after its leading options, which end at the first blank outside double quotes.
fn skip_options(line: &str) -> Option<&str> {
    let (mut quoted, mut before) = (false, ' ');
    for (at, c) in line.char_indices() {
        if !quoted && (c == ' ' || c == '\t') {
            return Some(line[at..].trim_start_matches([' ', '\t'])).filter(|rest| !rest.is_empty());
        }
        if c == '"' && before != '\\' {
            quoted = !quoted;
        }
        before = c;
    }
    None
}

fn check_blob(encoded: &str) -> Result<(), String> {
    let blob = STANDARD
        .decode(encoded)
        .map_err(|e| format!("the key is not base64: {e}"))?;
    match split_certificate(&blob) {
        None => check_plain(&blob),
        Some(Ok(found)) => check_plain(&found.key).and_then(|()| check_plain(found.signer)),
        Some(Err(Malformed)) => Err("the certificate is cut off or too long".to_owned()),
    }
}

fn check_plain(blob: &[u8]) -> Result<(), String> {
    check_key(PublicKey::from_bytes(blob).map_err(|e| e.to_string())?.key_data())
}

/// A certificate that is cut off, too long, or of an unknown type.
struct Malformed;

/// The validated parts of a certificate.
struct Certificate<'a> {
    /// The certified key, as a blob of its own.
    key: Vec<u8>,
    /// The signer's key.
    signer: &'a [u8],
}

/// The key in an OpenSSH certificate, as a blob of its own, and its signer's key. `None` if the blob is not a
/// certificate. (The crate's own parser refuses certificates that never expire.)
fn split_certificate(blob: &[u8]) -> Option<Result<Certificate<'_>, Malformed>> {
    let mut rest = blob;
    let name = text(&mut rest)?.strip_suffix(b"-cert-v01@openssh.com")?;
    // Key fields between the nonce and the serial number (PROTOCOL.certkeys); all of them start with their length.
    let fields = match name {
        b"ssh-ed25519" => 1,
        b"ssh-rsa"
        | b"sk-ssh-ed25519"
        | b"ecdsa-sha2-nistp256"
        | b"ecdsa-sha2-nistp384"
        | b"ecdsa-sha2-nistp521" => 2,
        b"sk-ecdsa-sha2-nistp256" => 3,
        b"ssh-dss" => 4,
        _ => return Some(Err(Malformed)),
    };
    let suffix: &[u8] = if name.starts_with(b"sk-") {
        b"@openssh.com"
    } else {
        b""
    };
    let mut read = || {
        text(&mut rest)?;
        let start = rest;
        for _ in 0..fields {
            text(&mut rest)?;
        }
        let key = &start[..start.len() - rest.len()];
        let length = u32::try_from(name.len() + suffix.len()).ok()?;
        let key = [length.to_be_bytes().as_slice(), name, suffix, key].concat();
        // Serial number and type; ID and principals; validity; critical options, extensions and a reserved field.
        rest = rest.get(12..)?;
        text(&mut rest).and_then(|_| text(&mut rest))?;
        rest = rest.get(16..)?;
        for _ in 0..3 {
            text(&mut rest)?;
        }
        let signer = text(&mut rest)?;
        text(&mut rest)?;
        rest.is_empty().then_some(Certificate { key, signer })
    };
    Some(read().ok_or(Malformed))
}

/// Reads bytes with a length prefix.
fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<4>()?;
    let (text, behind) = behind.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = behind;
    Some(text)
}

fn check_key(key: &KeyData) -> Result<(), String> {
    match key {
        KeyData::Rsa(rsa) => {
            let (Some(modulus), Some(exponent)) = (rsa.n.as_positive_bytes(), rsa.e.as_positive_bytes())
            else {
                return Err("the RSA key has a negative number".to_owned());
            };
            if bits(modulus) > 8192 {
                return Err(format!(
                    "the RSA key has {} bits; at most 8192 are allowed",
                    bits(modulus)
                ));
            }
            let odd = exponent.last().is_some_and(|byte| byte & 1 == 1);
            if bits(exponent) > 24 || bits(exponent) < 2 || !odd {
                return Err(
                    "the RSA key's exponent must be odd, 3 or more, and have at most 24 bits".to_owned(),
                );
            }
            Ok(())
        }
        KeyData::Dsa(dsa) if bits(dsa.p.as_bytes()) != 1024 || bits(dsa.q.as_bytes()) != 160 => {
            Err("a DSA key must have 1024 and 160 bits".to_owned())
        }
        KeyData::Ecdsa(point) => check_point(point),
        KeyData::SkEcdsaSha2NistP256(key) => check_point(&EcdsaPublicKey::NistP256(*key.ec_point())),
        KeyData::Dsa(_) | KeyData::Ed25519(_) | KeyData::SkEd25519(_) => Ok(()),
        other => Err(format!(
            "keys of type {:?} are not supported",
            other.algorithm().as_str()
        )),
    }
}

fn check_point(point: &EcdsaPublicKey) -> Result<(), String> {
    let on_curve = match point {
        EcdsaPublicKey::NistP256(_) => p256::ecdsa::VerifyingKey::try_from(point).is_ok(),
        EcdsaPublicKey::NistP384(_) => p384::ecdsa::VerifyingKey::try_from(point).is_ok(),
        EcdsaPublicKey::NistP521(_) => p521::ecdsa::VerifyingKey::try_from(point).is_ok(),
    };
    on_curve
        .then_some(())
        .ok_or_else(|| "the key is not a point of its elliptic curve".to_owned())
}

/// Length of a big-endian unsigned number.
fn bits(bytes: &[u8]) -> usize {
    let significant = bytes.iter().skip_while(|byte| **byte == 0);
    let mut significant = significant.peekable();
    let Some(top) = significant.peek() else { return 0 };
    let top = 8 - top.leading_zeros() as usize;
    top + (significant.count() - 1) * 8
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// One key of each type that `ssh-keygen` makes, the last one an RSA certificate.
    const KEYS: &str = include_str!("../../tests/data/ssh_public_keys");
    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJa9IV9papNfkLQvGSqhTbbfHPixDI1P5gZVciP+4YjQ";

    #[test]
    fn every_type_of_key_and_a_certificate_pass() {
        assert_eq!(KEYS.lines().count(), 7);
        for key in KEYS.lines() {
            assert_eq!(check(key), Ok(()), "{key}");
        }
    }

    #[rstest]
    #[case::a_comment_behind(&format!("{ED25519} me@home"))]
    #[case::options_before(&format!("no-pty,command=\"echo \\\"a b\\\"\" {ED25519}"))]
    #[case::comments_and_blank_lines_before(&format!("# mine\n\n  {ED25519}\r\n"))]
    #[case::a_bad_line_before(&format!("ssh-rsa AAAA\n{ED25519}"))]
    #[case::another_type_in_words(&ED25519.replace("ssh-ed25519 ", "ssh-rsa "))]
    fn a_usable_line_passes(#[case] entry: &str) {
        assert_eq!(check(entry), Ok(()));
    }

    #[rstest]
    #[case::nothing("")]
    #[case::only_a_comment("# none")]
    #[case::one_word("AAAAC3NzaC1lZDI1NTE5AAAAIJa9IV9papNfkLQvGSqhTbbfHPixDI1P5gZVciP+4YjQ")]
    #[case::an_open_quote("command=\"x")]
    fn an_entry_without_a_key_says_so(#[case] entry: &str) {
        assert_eq!(check(entry), Err(SshKeyError::NoKey));
    }

    #[rstest]
    #[case::the_placeholder_of_the_example("ssh-rsa YOUR_PUBLIC_KEY")]
    #[case::angle_brackets("<< YOUR_PUBLIC_KEY >>")]
    #[case::cut_off(&ED25519[..60])]
    #[case::trailing_bytes(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJa9IV9papNfkLQvGSqhTbbfHPixDI1P5gZVciP+4YjQAAAA"
    )]
    #[case::a_point_off_the_curve(
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBG4fz2icCQHvHRQWnlTB+AmtGJxRLGz5KUbn49RXzqlzWlTs8WtGI2UHiHUJONUAnbdSVzuCuk3ctRXj87GfGX8="
    )]
    #[case::an_unknown_type("x AAAAC3NzaC1lZDQ0OAAAAAh4eHh4eHh4eA==")]
    #[case::a_certificate_cut_off(
        "ssh-rsa-cert-v01@openssh.com AAAAHHNzaC1yc2EtY2VydC12MDFAb3BlbnNzaC5jb20AAAAgiXWwW4D2MYbQ"
    )]
    #[case::an_even_exponent("ssh-rsa AAAAB3NzaC1yc2EAAAABBAAAAAQBAAAB")]
    fn a_bad_key_says_why(#[case] entry: &str) {
        assert!(
            matches!(check(entry), Err(SshKeyError::BadKey(_))),
            "{:?}",
            check(entry)
        );
    }

    #[rstest]
    #[case(&[], 0)]
    #[case(&[0], 0)]
    #[case(&[0, 0x80], 8)]
    #[case(&[1, 0, 1], 17)]
    fn numbers_have_a_length(#[case] bytes: &[u8], #[case] want: usize) {
        assert_eq!(bits(bytes), want);
    }
}
