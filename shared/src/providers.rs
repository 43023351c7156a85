//! The registry of providers.

use serde_json::Value;

use crate::api::raw::Object;
use crate::kubevirt::provider::KubeVirt;
use crate::provider::{self, Provider};

/// The built-in providers. Add a line for a new one.
static SHIPPED: [&dyn Provider; 1] = [&KubeVirt];

/// The provider for common questions if a spec names none.
pub const DEFAULT: &dyn Provider = &KubeVirt;

/// The allowed values of `cloudProvider`.
pub fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(|provider| provider.name()).collect()
}

/// The provider with that name.
pub fn find(name: &str) -> Option<&'static dyn Provider> {
    SHIPPED.into_iter().find(|provider| provider.name() == name)
}

/// The provider that `providerSpec.value` names, even if the rest is malformed.
pub fn of(value: Option<&Value>) -> Option<&'static dyn Provider> {
    find(provider::name_in(value?.as_object()?)?)
}

/// The provider that a Machine's spec names.
pub(crate) fn of_spec(spec: &Object) -> Option<&'static dyn Provider> {
    find(provider::named_by(spec)?)
}
