//! An object as it is delivered, before it is projected.

use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

/// Spec and status are not decoded yet.
#[derive(Deserialize)]
pub struct Raw {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Null if absent.
    #[serde(default)]
    pub spec: Value,
    /// Null if absent.
    #[serde(default)]
    pub status: Value,
}
