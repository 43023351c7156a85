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
            #[cfg(test)]
            tests::DECODED.with(|decoded| decoded.set(decoded.get() + 1));
            let mut faults = Report::new();
            let value = self.object.pointer(self.at.pointer);
            let config = ProviderConfig::decode(value, &FieldPath::new(self.at.path), &mut faults);
            (config, faults)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::admission::{
        AdmissionSettings, Author, validate_create_subject, validate_deployment_subject,
        validate_set_subject, validate_update,
    };

    thread_local! {
        /// How many provider specs this test has decoded.
        pub(super) static DECODED: Cell<usize> = const { Cell::new(0) };
    }

    /// Whatever a request asks of it, and whatever the webhook asks after that.
    #[rstest]
    #[case::create_a_machine("Machine", false, 1)]
    #[case::change_a_machine_with_the_bypass("Machine", true, 1)]
    #[case::create_a_set("MachineSet", false, 1)]
    #[case::change_a_set("MachineSet", true, 2)]
    #[case::create_a_deployment("MachineDeployment", false, 1)]
    #[case::change_a_deployment("MachineDeployment", true, 2)]
    fn a_request_decodes_the_spec_of_each_of_its_objects_once(
        #[case] kind: &str,
        #[case] is_update: bool,
        #[case] decoded: usize,
    ) {
        let (settings, at) = match kind {
            "Machine" => (AdmissionSettings::default(), ValueAt::MACHINE),
            _ => (AdmissionSettings::default(), ValueAt::TEMPLATE),
        };
        let object = |name: &str| {
            let value = json!({"cloudProvider": "kubevirt", "operatingSystem": "ubuntu", "cloudProviderSpec": {"clusterName": name}});
            let spec = json!({"providerSpec": {"value": value}});
            let bypass = crate::api::names::annotation::BYPASS_IMMUTABILITY;
            match kind {
                "Machine" => {
                    json!({"metadata": {"name": "m", "annotations": {bypass: "true"}}, "spec": spec})
                }
                _ => json!({"metadata": {"name": "m"}, "spec": {"template": {"spec": spec}}}),
            }
        };
        let (before, after) = (object("a"), object("b"));
        let (old, new) = (
            is_update.then(|| Subject::new(&before, at)),
            Subject::new(&after, at),
        );
        let (old, author) = (old.as_ref(), Author::Person);
        let _judged = match (kind, old) {
            ("Machine", _) if is_update => validate_update(&before, &after, author, &settings),
            ("Machine", _) => validate_create_subject(&new, author, &settings),
            ("MachineSet", _) => validate_set_subject(old, &new, author, &settings),
            _ => validate_deployment_subject(old, &new, &settings),
        };
        if kind != "Machine" || !is_update {
            assert!(new.config().cloud_provider.is_some());
        }
        assert_eq!(DECODED.get(), decoded);
    }

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
