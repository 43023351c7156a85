//! Resolution of the values in a spec.

use super::env::Env;
use crate::api::config_var::{ConfigValue, ConfigVar, KeyRef, LookupError, ResolveError};

/// Why a spec could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// A reference cannot be resolved.
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
    /// There is no kubeconfig.
    #[error("auth.kubeconfig: neither the spec nor the environment (KUBEVIRT_KUBECONFIG) has one")]
    NoKubeconfig,
    /// A value, usually a referenced one, does not have the form of the field. It is not shown.
    #[error("{field}: {why}")]
    Unusable {
        /// The field.
        field: &'static str,
        /// What it must be.
        why: &'static str,
    },
}

/// Reads a reference.
pub type Lookup<'a> = dyn Fn(&KeyRef) -> Result<String, LookupError> + 'a;

/// The value of a field, if any.
pub(crate) fn value<T: ConfigValue>(
    field: &'static str,
    var: &ConfigVar<T>,
    lookup: &Lookup<'_>,
) -> Result<Option<T>, Unresolved> {
    var.resolve(lookup)
        .map_err(|error| Unresolved::Reference { field, error })
}

/// Resolves only the cluster's name: the environment's, otherwise the spec's.
pub fn cluster_name(var: &ConfigVar<String>, env: &Env, lookup: &Lookup<'_>) -> Result<String, Unresolved> {
    if !env.cluster_id.is_empty() {
        return Ok(env.cluster_id.clone());
    }
    Ok(value("clusterName", var, lookup)?.unwrap_or_default())
}

/// Whether the referenced object or key certainly does not exist.
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
