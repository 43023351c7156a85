//! From values as they are written to values that are known.

use super::env::Env;
use crate::api::config_var::{ConfigValue, ConfigVar, KeyRef, LookupError, ResolveError};

/// Why a spec could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// A reference leads nowhere.
    #[error("{field}: {error}")]
    Reference {
        /// The field.
        field: &'static str,
        /// What is wrong.
        error: ResolveError,
    },
    /// An inline kubeconfig must be base64.
    #[error(
        "auth.kubeconfig: the inline value is not base64; encode the kubeconfig with `base64 -w0`, or refer to a Secret"
    )]
    KubeconfigNotBase64,
    /// No kubeconfig anywhere.
    #[error("auth.kubeconfig: there is none in the spec and none in the environment (KUBEVIRT_KUBECONFIG)")]
    NoKubeconfig,
    /// A value, most often one behind a reference, is not of the form that the field takes. It is not shown.
    #[error("{field}: {why}")]
    Unusable {
        /// The field.
        field: &'static str,
        /// What it must be.
        why: &'static str,
    },
}

/// Looks a reference up.
pub type Lookup<'a> = dyn Fn(&KeyRef) -> Result<String, LookupError> + 'a;

/// The value behind a field, if there is one.
pub(crate) fn value<T: ConfigValue>(
    field: &'static str,
    var: &ConfigVar<T>,
    lookup: &Lookup<'_>,
) -> Result<Option<T>, Unresolved> {
    var.resolve(lookup)
        .map_err(|error| Unresolved::Reference { field, error })
}

/// Resolves the cluster's name alone: the environment's, else the spec's.
pub fn cluster_name(var: &ConfigVar<String>, env: &Env, lookup: &Lookup<'_>) -> Result<String, Unresolved> {
    if !env.cluster_id.is_empty() {
        return Ok(env.cluster_id.clone());
    }
    Ok(value("clusterName", var, lookup)?.unwrap_or_default())
}

/// Whether it is known that there is nothing at the end of a reference.
pub(crate) fn is_known_missing(error: &Unresolved) -> bool {
    let Unresolved::Reference {
        error: ResolveError::Lookup { cause, .. },
        ..
    } = error
    else {
        return false;
    };
    match cause {
        LookupError::NoObject | LookupError::NoKey => true,
        LookupError::Unavailable(_) => false,
    }
}
