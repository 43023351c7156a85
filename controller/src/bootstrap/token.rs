//! Bootstrap tokens, each bound to one Machine by a label and to nothing but a kubelet's first certificate by its group.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use machinist_shared::api::names::{self, label};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use crate::cache::TOKEN_NAMESPACE;

/// How long a token lives from its creation or extension.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(30);

/// Names of bootstrap token Secrets are this and the token's ID; the API server looks them up by it.
const NAME_PREFIX: &str = "bootstrap-token-";
/// Letters of IDs and secrets, as Kubernetes' tokens have them: `[a-z0-9]`.
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

mod key {
    pub(super) const ID: &str = "token-id";
    pub(super) const SECRET: &str = "token-secret";
    pub(super) const EXPIRATION: &str = "expiration";
    pub(super) const AUTHENTICATION: &str = "usage-bootstrap-authentication";
    pub(super) const SIGNING: &str = "usage-bootstrap-signing";
    pub(super) const GROUPS: &str = "auth-extra-groups";
    pub(super) const DESCRIPTION: &str = "description";
}

/// The public half of a token: six letters of `[a-z0-9]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(String);

impl TokenId {
    /// The ID that `text` spells, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        is_word(text, ID_LENGTH).then(|| Self(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret half of a token; it never shows in a log.
#[derive(Clone)]
pub struct TokenSecret(SecretString);

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// A bootstrap token of ours as the user cluster holds it.
#[derive(Debug, Clone)]
pub struct TokenView {
    /// Its public half.
    pub id: TokenId,
    /// `metadata.uid` of its Secret.
    pub secret_uid: String,
    /// UID of the Machine that it is bound to.
    pub machine_uid: String,
    /// When its Secret was created, to the second.
    pub created: Timestamp,
    /// From when on the API server refuses it.
    pub expiration: Timestamp,
    secret: TokenSecret,
}

/// Why a Secret is no usable token of ours. The Secret is `kube-system/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is of another type.
    #[error("Secret {name} is not of type {}", names::TOKEN_SECRET_TYPE)]
    Type {
        /// Its name.
        name: String,
    },
    /// The label that binds it to a Machine is missing.
    #[error("Secret {name} has no label {}", label::MACHINE_UID)]
    Unbound {
        /// Its name.
        name: String,
    },
    /// It is being deleted, so the API server refuses the token.
    #[error("Secret {name} is being deleted")]
    Deleting {
        /// Its name.
        name: String,
    },
    /// A field that the API server sets or a key of its data is missing or not what we write.
    #[error("Secret {name}: {field} is missing or not as a bootstrap token of ours has it")]
    Field {
        /// Its name.
        name: String,
        /// Which one.
        field: &'static str,
    },
}

impl TokenView {
    /// Reads a token back. Anything but what [`secret`] writes is refused: a Secret that another client gave other groups or
    /// usages is not ours to hand to a guest.
    pub fn from_secret(object: &Secret) -> Result<Self, TokenError> {
        let metadata = &object.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let field = |field: &'static str| TokenError::Field {
            name: name.clone(),
            field,
        };
        if object.type_.as_deref() != Some(names::TOKEN_SECRET_TYPE) {
            return Err(TokenError::Type { name });
        }
        if metadata.deletion_timestamp.is_some() {
            return Err(TokenError::Deleting { name });
        }
        let machine_uid = metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(label::MACHINE_UID));
        let Some(machine_uid) = machine_uid.filter(|uid| !uid.is_empty()) else {
            return Err(TokenError::Unbound { name });
        };
        let text = |key: &str| {
            let bytes = &object.data.as_ref()?.get(key)?.0;
            std::str::from_utf8(bytes).ok()
        };
        let id = text(key::ID)
            .and_then(TokenId::parse)
            .ok_or_else(|| field(key::ID))?;
        if name.strip_prefix(NAME_PREFIX) != Some(id.as_str()) {
            return Err(field("metadata.name"));
        }
        let secret = text(key::SECRET).filter(|text| is_word(text, SECRET_LENGTH));
        let secret = secret.ok_or_else(|| field(key::SECRET))?;
        let expiration = text(key::EXPIRATION).and_then(|text| text.parse().ok());
        if text(key::GROUPS) != Some(names::TOKEN_GROUP) {
            return Err(field(key::GROUPS));
        }
        if text(key::AUTHENTICATION) != Some("true") {
            return Err(field(key::AUTHENTICATION));
        }
        if text(key::SIGNING).is_some() {
            return Err(field(key::SIGNING));
        }
        Ok(Self {
            id,
            secret_uid: metadata.uid.clone().ok_or_else(|| field("metadata.uid"))?,
            machine_uid: machine_uid.clone(),
            created: metadata
                .creation_timestamp
                .as_ref()
                .ok_or_else(|| field("metadata.creationTimestamp"))?
                .0,
            expiration: expiration.ok_or_else(|| field(key::EXPIRATION))?,
            secret: TokenSecret(secret.into()),
        })
    }

    /// Name of its Secret in kube-system.
    pub fn secret_name(&self) -> String {
        format!("{NAME_PREFIX}{}", self.id)
    }

    /// What the kubelet authenticates with: `id.secret`.
    pub fn bootstrap_token(&self) -> SecretString {
        format!("{}.{}", self.id, self.secret.0.expose_secret()).into()
    }

    /// A token for tests, created half an hour before its expiration.
    ///
    /// # Panics
    ///
    /// If `id` is no token ID.
    #[cfg(test)]
    pub fn for_test(id: &str, machine_uid: &str, expiration: Timestamp) -> Self {
        Self {
            id: TokenId::parse(id).expect("a test names a valid token ID"),
            secret_uid: format!("uid-of-{NAME_PREFIX}{id}"),
            machine_uid: machine_uid.to_owned(),
            created: expiration - LIFETIME,
            expiration,
            secret: TokenSecret("0123456789abcdef".into()),
        }
    }
}

/// The Secret of a new token for the Machine, to be created in kube-system. `entropy` must come from a generator that is
/// fit for cryptography.
pub fn secret(
    machine_uid: &str,
    machine_namespace: &str,
    machine_name: &str,
    entropy: [u8; 32],
    now: Timestamp,
) -> Secret {
    let (for_id, for_secret) = entropy.split_at(16);
    let id = word(for_id, ID_LENGTH);
    let name = format!("{NAME_PREFIX}{id}");
    let description = format!("First certificate of the node of Machine {machine_namespace}/{machine_name}.");
    let data = [
        (key::ID, id),
        (key::SECRET, word(for_secret, SECRET_LENGTH)),
        (key::EXPIRATION, expiration(now)),
        (key::AUTHENTICATION, "true".to_owned()),
        (key::GROUPS, names::TOKEN_GROUP.to_owned()),
        (key::DESCRIPTION, description),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(TOKEN_NAMESPACE.to_owned()),
            labels: Some(BTreeMap::from([(
                label::MACHINE_UID.to_owned(),
                machine_uid.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        type_: Some(names::TOKEN_SECRET_TYPE.to_owned()),
        data: Some(
            data.into_iter()
                .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())))
                .collect(),
        ),
        ..Secret::default()
    }
}

/// A merge patch that lets the token live on for another [`LIFETIME`]. The UID in it makes the API server refuse the
/// patch for a later Secret of the same name.
pub fn extend(token: &TokenView, now: Timestamp) -> serde_json::Value {
    json!({
        "metadata": {"uid": token.secret_uid},
        "data": {key::EXPIRATION: STANDARD.encode(expiration(now))},
    })
}

/// RFC 3339 with whole seconds, as kubeadm writes it.
fn expiration(now: Timestamp) -> String {
    (now + LIFETIME).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `length` letters from 16 random bytes, seen as a number of base 36. 36¹⁶ is below 2⁸³, so no letter is likelier than
/// another by more than 2⁻⁴⁵.
fn word(entropy: &[u8], length: usize) -> String {
    let mut number = entropy
        .iter()
        .fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    let letters = ALPHABET.len() as u128;
    let mut text = String::with_capacity(length);
    for _ in 0..length {
        // The remainder is below 36.
        text.push(char::from(ALPHABET[(number % letters) as usize]));
        number /= letters;
    }
    text
}

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|letter| ALPHABET.contains(&letter))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use rstest::rstest;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T12:00:00.75Z".parse().unwrap()
    }

    fn entropy() -> [u8; 32] {
        std::array::from_fn(|i| u8::try_from(i * 7 + 3).unwrap())
    }

    /// What the API server answers after the creation.
    fn stored() -> Secret {
        let mut object = secret("m1", "team", "worker-1", entropy(), now());
        object.metadata.uid = Some("s1".to_owned());
        object.metadata.creation_timestamp = Some(Time("2026-01-01T12:00:00Z".parse().unwrap()));
        object
    }

    fn text<'a>(object: &'a Secret, key: &str) -> &'a str {
        std::str::from_utf8(&object.data.as_ref().unwrap()[key].0).unwrap()
    }

    #[test]
    fn a_new_token_is_what_kubernetes_and_our_admission_policy_expect() {
        let object = secret("m1", "team", "worker-1", entropy(), now());
        let id = text(&object, "token-id");
        assert!(is_word(id, 6), "{id}");
        assert!(is_word(text(&object, "token-secret"), 16));
        assert_eq!(
            object.metadata.name.as_deref(),
            Some(format!("bootstrap-token-{id}").as_str())
        );
        assert_eq!(object.metadata.namespace.as_deref(), Some("kube-system"));
        assert_eq!(object.type_.as_deref(), Some("bootstrap.kubernetes.io/token"));
        assert_eq!(
            object.metadata.labels.as_ref().unwrap()["machinist.dev/machine-uid"],
            "m1"
        );
        assert_eq!(text(&object, "expiration"), "2026-01-01T12:30:00Z");
        assert_eq!(text(&object, "usage-bootstrap-authentication"), "true");
        assert_eq!(
            text(&object, "auth-extra-groups"),
            "system:bootstrappers:machinist:machine"
        );
        assert!(text(&object, "description").contains("team/worker-1"));
        assert_eq!(
            object.data.as_ref().unwrap().len(),
            6,
            "no signing usage, nothing else"
        );
    }

    #[test]
    fn a_token_is_read_back_as_it_was_written() {
        let object = stored();
        let token = TokenView::from_secret(&object).unwrap();
        assert_eq!(token.secret_name(), object.metadata.name.clone().unwrap());
        assert_eq!(token.machine_uid, "m1");
        assert_eq!(token.secret_uid, "s1");
        assert_eq!(token.created, "2026-01-01T12:00:00Z".parse().unwrap());
        assert_eq!(token.expiration, "2026-01-01T12:30:00Z".parse().unwrap());
        let whole = format!("{}.{}", text(&object, "token-id"), text(&object, "token-secret"));
        assert_eq!(token.bootstrap_token().expose_secret(), whole);
        assert!(!format!("{token:?}").contains(text(&object, "token-secret")));
    }

    #[test]
    fn every_half_of_the_entropy_changes_its_half_of_the_token() {
        let one = stored();
        for (byte, changed, same) in [(15, "token-id", "token-secret"), (31, "token-secret", "token-id")] {
            let mut bytes = entropy();
            bytes[byte] ^= 1;
            let other = secret("m1", "team", "worker-1", bytes, now());
            assert_ne!(text(&one, changed), text(&other, changed));
            assert_eq!(text(&one, same), text(&other, same));
        }
    }

    fn set(object: &mut Secret, key: &str, value: &str) {
        object
            .data
            .as_mut()
            .unwrap()
            .insert(key.to_owned(), ByteString(value.into()));
    }

    #[rstest]
    #[case::another_type(|s: &mut Secret| s.type_ = Some("Opaque".into()), "type")]
    #[case::no_label(|s: &mut Secret| s.metadata.labels = None, "label")]
    #[case::deleting(|s: &mut Secret| s.metadata.deletion_timestamp = Some(Time(now())), "deleted")]
    #[case::a_name_of_another_id(|s: &mut Secret| s.metadata.name = Some("bootstrap-token-aaaaaa".into()), "name")]
    #[case::an_id_in_capitals(|s: &mut Secret| set(s, "token-id", "ABCDEF"), "token-id")]
    #[case::a_short_secret(|s: &mut Secret| set(s, "token-secret", "abc"), "token-secret")]
    #[case::no_expiration(|s: &mut Secret| drop(s.data.as_mut().unwrap().remove("expiration")), "expiration")]
    #[case::an_expiration_of_no_date(|s: &mut Secret| set(s, "expiration", "soon"), "expiration")]
    #[case::more_groups(|s: &mut Secret| set(s, "auth-extra-groups", "system:bootstrappers:machinist:machine,x"), "groups")]
    #[case::no_authentication(|s: &mut Secret| set(s, "usage-bootstrap-authentication", "false"), "authentication")]
    #[case::signing(|s: &mut Secret| set(s, "usage-bootstrap-signing", "true"), "signing")]
    #[case::no_uid(|s: &mut Secret| s.metadata.uid = None, "uid")]
    #[case::no_data(|s: &mut Secret| s.data = None, "token-id")]
    fn a_secret_that_we_would_not_have_written_is_refused(
        #[case] change: fn(&mut Secret),
        #[case] why: &str,
    ) {
        let mut object = stored();
        change(&mut object);
        let error = TokenView::from_secret(&object).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn an_extension_moves_the_expiration_of_this_very_secret() {
        let token = TokenView::from_secret(&stored()).unwrap();
        let patch = extend(&token, "2026-01-01T12:15:00Z".parse().unwrap());
        let expiration = STANDARD.encode("2026-01-01T12:45:00Z");
        assert_eq!(
            patch,
            json!({"metadata": {"uid": "s1"}, "data": {"expiration": expiration}})
        );
    }
}
