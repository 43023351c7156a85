//! The kubeconfig of a spec: inline, referenced, or from the environment.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::env::Env;
use super::resolve::{Lookup, Unresolved, is_known_missing, value};
use super::secret::Secret;
use crate::api::config_var::{ConfigVar, KeyRef};

/// The source of a kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubeconfigSource {
    /// Inline in the spec.
    Inline,
    /// A Secret's or ConfigMap's key.
    Reference(KeyRef),
    /// The process's environment.
    Environment,
}

/// A kubeconfig and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// The kubeconfig, YAML or JSON.
    pub text: Secret,
    /// Its source.
    pub source: KubeconfigSource,
}

/// The kubeconfig of a spec. An inline value wins over a reference and must be base64; a reference or the environment
/// may contain it raw or as base64. A missing or empty reference falls through to the environment if that has one, as
/// with machine-controller. A reference that could not be read does not, because its content is unknown.
pub fn kubeconfig(var: &ConfigVar<String>, env: &Env, lookup: &Lookup<'_>) -> Result<Kubeconfig, Unresolved> {
    if let Some(inline) = var.value.as_deref().filter(|text| !text.is_empty()) {
        let text = decode_base64(inline).ok_or(Unresolved::KubeconfigNotBase64)?;
        return Ok(Kubeconfig {
            text: Secret::new(text),
            source: KubeconfigSource::Inline,
        });
    }
    if let Some(reference) = var.reference() {
        let text = match value("auth.kubeconfig", var, lookup) {
            Err(error) if env.kubeconfig.is_empty() || !is_known_missing(&error) => return Err(error),
            found => found.unwrap_or_default().unwrap_or_default(),
        };
        if !text.is_empty() {
            let source = KubeconfigSource::Reference(reference.clone());
            return Ok(Kubeconfig {
                text: Secret::new(raw_or_base64(text)),
                source,
            });
        }
    }
    if env.kubeconfig.is_empty() {
        return Err(Unresolved::NoKubeconfig);
    }
    let text = raw_or_base64(env.kubeconfig.clone());
    Ok(Kubeconfig {
        text: Secret::new(text),
        source: KubeconfigSource::Environment,
    })
}

/// Decodes a text that must be base64.
pub fn decode_base64(text: &str) -> Option<String> {
    let decoded = if text.contains(['\r', '\n']) {
        STANDARD.decode(text.replace(['\r', '\n'], ""))
    } else {
        STANDARD.decode(text)
    };
    String::from_utf8(decoded.ok()?).ok()
}

/// Decodes a text that may be base64.
pub fn raw_or_base64(text: String) -> String {
    decode_base64(&text).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::api::config_var::{LookupError, RefKind};

    fn reference() -> KeyRef {
        KeyRef {
            kind: RefKind::Secret,
            namespace: "n".into(),
            name: "s".into(),
            key: "k".into(),
        }
    }

    fn env(kubeconfig: &str) -> Env {
        Env::new(|name| (name == "KUBEVIRT_KUBECONFIG").then(|| kubeconfig.to_owned()))
    }

    #[test]
    fn an_inline_kubeconfig_wins_and_must_be_base64() {
        let var = ConfigVar {
            value: Some("YWJj\n".to_owned()),
            secret_ref: Some(reference()),
            config_map_ref: None,
        };
        let found = kubeconfig(&var, &env("other"), &|_| Ok("secret".into())).unwrap();
        assert_eq!(
            (found.text.expose(), found.source),
            ("abc", KubeconfigSource::Inline)
        );
        let raw = ConfigVar::literal("apiVersion: v1".to_owned());
        assert_eq!(
            kubeconfig(&raw, &env(""), &|_| Ok(String::new())),
            Err(Unresolved::KubeconfigNotBase64)
        );
    }

    #[test]
    fn a_reference_may_be_raw_or_base64() {
        let var = ConfigVar {
            value: None,
            secret_ref: Some(reference()),
            config_map_ref: None,
        };
        let raw = kubeconfig(&var, &env(""), &|_| Ok("apiVersion: v1".into())).unwrap();
        assert_eq!(raw.text.expose(), "apiVersion: v1");
        let encoded = kubeconfig(&var, &env(""), &|_| Ok("YWJj".into())).unwrap();
        assert_eq!(encoded.text.expose(), "abc");
    }

    #[rstest]
    #[case::no_object(Err(LookupError::NoObject), true)]
    #[case::no_key(Err(LookupError::NoKey), true)]
    #[case::an_empty_text(Ok(String::new()), true)]
    #[case::not_yet_read(Err(LookupError::Unavailable("it is being read".into())), false)]
    fn a_reference_to_nothing_falls_through_to_the_environment_and_one_not_read_does_not(
        #[case] behind: Result<String, LookupError>,
        #[case] falls: bool,
    ) {
        let var = ConfigVar {
            value: None,
            secret_ref: Some(reference()),
            config_map_ref: None,
        };
        let found = kubeconfig(&var, &env("fallback"), &|_| behind.clone());
        let source = found.map(|found| found.source).ok();
        assert_eq!(source, falls.then_some(KubeconfigSource::Environment));

        // Without one there, the person is reported what is wrong with the reference.
        let error = kubeconfig(&var, &env(""), &|_| behind.clone()).unwrap_err();
        let reported = matches!(
            error,
            Unresolved::Reference {
                field: "auth.kubeconfig",
                ..
            }
        );
        assert_eq!(reported, behind.is_err(), "{error}");
    }

    #[test]
    fn without_one_the_environment_is_used_and_nothing_shows_it() {
        let found = kubeconfig(&ConfigVar::default(), &env("apiVersion: v1"), &|_| {
            Ok(String::new())
        })
        .unwrap();
        assert_eq!(found.source, KubeconfigSource::Environment);
        assert!(!format!("{found:?} {:?}", env("hush")).contains("apiVersion"));
        assert!(!format!("{:?}", env("hush")).contains("hush"));
    }
}
