//! An object under validation, with its provider's spec decoded once.

use std::sync::OnceLock;

use serde_json::Value;

use crate::api::ValueAt;
use crate::api::field::{FieldPath, Report};
use crate::provider_spec::ProviderConfig;

/// An object and its `providerSpec.value`, which is decoded on first use.
#[derive(Debug)]
pub struct Subject<'a> {
    object: &'a Value,
    at: ValueAt,
    decoded: OnceLock<(ProviderConfig, Report)>,
}

impl<'a> Subject<'a> {
    /// An object whose provider's spec is at that location.
    pub fn new(object: &'a Value, at: ValueAt) -> Self {
        Self {
            object,
            at,
            decoded: OnceLock::new(),
        }
    }

    /// The object.
    pub fn object(&self) -> &'a Value {
        self.object
    }

    /// Where its provider's spec is.
    pub fn at(&self) -> ValueAt {
        self.at
    }

    /// `providerSpec.value`, as far as it could be read.
    pub fn config(&self) -> &ProviderConfig {
        &self.decoded().0
    }

    /// What is wrong with its form.
    pub fn faults(&self) -> &Report {
        &self.decoded().1
    }

    fn decoded(&self) -> &(ProviderConfig, Report) {
        self.decoded.get_or_init(|| {
            let mut faults = Report::new();
            let value = self.object.pointer(self.at.pointer);
            let config = ProviderConfig::decode(value, &FieldPath::new(self.at.path), &mut faults);
            (config, faults)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_providers_spec_is_decoded_once_with_the_paths_of_its_object() {
        let value = json!({"cloudProvider": "kubevirt", "cloudProviderSpec": {"auth": 1}});
        let set = json!({"spec": {"template": {"spec": {"providerSpec": {"value": value}}}}});
        let subject = Subject::new(&set, ValueAt::TEMPLATE);
        assert!(std::ptr::eq(subject.config(), subject.config()));
        assert_eq!(subject.config().cloud_provider.unwrap().name(), "kubevirt");
        let auth = "spec.template.spec.providerSpec.value.cloudProviderSpec.auth";
        assert!(subject.faults().has_error_at(&FieldPath::new(auth)));
    }
}
