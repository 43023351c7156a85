//! The registry of providers.

use serde_json::Value;

use crate::api::raw::Object;
use crate::kubevirt::provider::KubeVirt;
use crate::provider::{self, Provider};

/// The providers that ship. A new one is a line here.
static SHIPPED: [&dyn Provider; 1] = [&KubeVirt];

/// The one that is asked about what is common to all where a spec names none.
pub const DEFAULT: &dyn Provider = &KubeVirt;

/// What `cloudProvider` may say.
pub fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(|provider| provider.name()).collect()
}

/// The provider that `cloudProvider` calls so.
pub fn find(name: &str) -> Option<&'static dyn Provider> {
    SHIPPED.into_iter().find(|provider| provider.name() == name)
}

/// The provider that `providerSpec.value` names, whatever else is in there.
pub fn of(value: Option<&Value>) -> Option<&'static dyn Provider> {
    find(provider::name_in(value?.as_object()?)?)
}

/// The provider that a Machine's spec names.
pub(crate) fn of_spec(spec: &Object) -> Option<&'static dyn Provider> {
    find(provider::named_by(spec)?)
}
