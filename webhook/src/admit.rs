//! From a request to a verdict: which rule is asked, and what its answer means to the API server.

use machinist_infra::kubeconfig::AddressPolicy;
use machinist_shared::admission::{
    AdmissionSettings, Author, mutate_create, mutate_update, patch, validate_create, validate_update,
};
use machinist_shared::field::{ErrorKind, FieldPath, Report};
use serde_json::Value;

use crate::kubeconfig::Verdicts;
use crate::refusal::Status;
use crate::review::Request;
pub use crate::review::{Kind, Operation, Verdict};

/// The rules, and what they were told from outside.
#[derive(Debug)]
pub struct Admission {
    settings: AdmissionSettings,
    kubeconfigs: Verdicts,
    /// Specs may leave the kubeconfig to the environment.
    environment_has_kubeconfig: bool,
}

impl Admission {
    /// Admission under these settings; kubeconfigs in specs may lead where `policy` says, and may be absent if the
    /// environment has one.
    pub fn new(settings: AdmissionSettings, policy: AddressPolicy, environment_has_kubeconfig: bool) -> Self {
        Self {
            settings,
            kubeconfigs: Verdicts::new(policy),
            environment_has_kubeconfig,
        }
    }

    /// Defaults: a patch, never a refusal.
    pub(crate) fn mutate(&self, request: &Request<'_, Value>) -> Verdict {
        let (Kind::Machine, Some(object)) = (request.kind(), &request.object) else {
            return Verdict::default();
        };
        let mutated = match request.operation() {
            Operation::Create => mutate_create(object, &self.settings),
            Operation::Update => mutate_update(request.old_object.as_ref().unwrap_or(&Value::Null), object),
            Operation::Other => return Verdict::default(),
        };
        Verdict {
            patch: patch(object, &mutated),
            ..Verdict::default()
        }
    }

    /// The verdict: refused with every reason, or allowed, with warnings either way.
    pub(crate) fn validate(&self, request: &Request<'_, Value>) -> Verdict {
        let (Kind::Machine, Some(object)) = (request.kind(), &request.object) else {
            return Verdict::default();
        };
        let report = match request.operation() {
            Operation::Create => self.validate_create(object, self.settings.author(request.username())),
            Operation::Update => validate_update(
                request.old_object.as_ref().unwrap_or(&Value::Null),
                object,
                &self.settings,
            ),
            Operation::Other => return Verdict::default(),
        };
        let name = object
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        Verdict {
            refusal: Status::of_machine(name, &report),
            warnings: report.warnings,
            ..Verdict::default()
        }
    }

    fn validate_create(&self, object: &Value, author: Author) -> Report {
        let mut report = validate_create(object, author, &self.settings);
        let Some(found) = Kubeconfig::of(object) else {
            return report;
        };
        let path = || {
            let value = FieldPath::new("spec").child("providerSpec").child("value");
            value.child("cloudProviderSpec").child("auth").child("kubeconfig")
        };
        let wrong = match found {
            Kubeconfig::Inline(text) => self
                .kubeconfigs
                .judge(text)
                .map(|why| (ErrorKind::Invalid, why.to_string())),
            Kubeconfig::Absent if self.environment_has_kubeconfig => None,
            Kubeconfig::Absent => {
                let why = "must be set: there is none in the environment (KUBEVIRT_KUBECONFIG) either";
                Some((ErrorKind::Required, why.to_owned()))
            }
            Kubeconfig::Elsewhere => None,
        };
        match (wrong, author) {
            (None, _) => {}
            (Some(_), _) if report.blames(&path()) => {}
            (Some((kind, why)), Author::Person) => report.error(&path(), kind, why),
            (Some((_, why)), Author::SetController) => report.warn(&path(), why),
        }
        report
    }
}

/// Where a spec's kubeconfig is.
#[derive(Debug, PartialEq, Eq)]
enum Kubeconfig<'a> {
    /// In the spec itself. Wins over a reference, as it always has.
    Inline(&'a str),
    /// Behind a reference.
    Elsewhere,
    /// Nowhere in the spec.
    Absent,
}

impl<'a> Kubeconfig<'a> {
    /// Reads it from a Machine; nothing if there is no spec of ours to have one.
    fn of(machine: &'a Value) -> Option<Self> {
        let value = machine.pointer("/spec/providerSpec/value")?;
        if any_case(value, "cloudProvider")?.as_str() != Some("kubevirt") {
            return None;
        }
        let spec = any_case(value, "cloudProviderSpec").filter(|spec| spec.is_object())?;
        let Some(found) = any_case(spec, "auth").and_then(|auth| any_case(auth, "kubeconfig")) else {
            return Some(Self::Absent);
        };
        let text = if found.is_object() {
            any_case(found, "value").unwrap_or(&Value::Null)
        } else {
            found
        };
        Some(match text {
            Value::String(text) if !text.is_empty() => Self::Inline(text),
            _ if found.is_object() && refers(found) => Self::Elsewhere,
            Value::Null | Value::String(_) => Self::Absent,
            // Of a wrong type, which has been told.
            _ => Self::Elsewhere,
        })
    }
}

/// Whether a value in object form has a reference that counts: one with all three parts.
fn refers(value: &Value) -> bool {
    ["secretKeyRef", "configMapKeyRef"]
        .iter()
        .filter_map(|kind| any_case(value, kind))
        .any(|reference| {
            let text = |part| {
                any_case(reference, part)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            ["namespace", "name", "key"]
                .iter()
                .all(|part| !text(part).is_empty())
        })
}

/// The value at `key`, in any letter case if the exact key is absent, as everywhere in provider specs.
fn any_case<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let map = object.as_object()?;
    map.get(key).or_else(|| {
        map.iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| v)
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn machine(auth: &Value) -> Value {
        json!({"spec": {"providerSpec": {"value": {"cloudProvider": "kubevirt", "cloudProviderSpec": {"auth": auth}}}}})
    }

    #[rstest]
    #[case::inline(json!({"kubeconfig": "x"}), Kubeconfig::Inline("x"))]
    #[case::inline_in_the_object_form(json!({"Kubeconfig": {"value": "x"}}), Kubeconfig::Inline("x"))]
    #[case::inline_beside_a_reference(json!({"kubeconfig": {"value": "x", "secretKeyRef": {"namespace": "a", "name": "b", "key": "c"}}}), Kubeconfig::Inline("x"))]
    #[case::a_secret(json!({"kubeconfig": {"secretKeyRef": {"namespace": "a", "name": "b", "key": "c"}}}), Kubeconfig::Elsewhere)]
    #[case::a_config_map(json!({"kubeconfig": {"value": "", "configMapKeyRef": {"namespace": "a", "name": "b", "key": "c"}}}), Kubeconfig::Elsewhere)]
    #[case::half_a_reference(json!({"kubeconfig": {"secretKeyRef": {"name": "b", "key": "c"}}}), Kubeconfig::Absent)]
    #[case::empty(json!({"kubeconfig": ""}), Kubeconfig::Absent)]
    #[case::null(json!({"kubeconfig": null}), Kubeconfig::Absent)]
    #[case::no_auth(json!(null), Kubeconfig::Absent)]
    #[case::a_list_is_someone_elses_error(json!({"kubeconfig": []}), Kubeconfig::Elsewhere)]
    fn a_kubeconfig_is_found_where_the_decoder_finds_it(#[case] auth: Value, #[case] want: Kubeconfig<'_>) {
        assert_eq!(Kubeconfig::of(&machine(&auth)), Some(want));
    }

    #[test]
    fn another_providers_spec_has_none() {
        let mut machine = machine(&json!({"kubeconfig": "x"}));
        machine["spec"]["providerSpec"]["value"]["cloudProvider"] = json!("aws");
        assert_eq!(Kubeconfig::of(&machine), None);
    }

    #[test]
    fn a_missing_kubeconfig_is_an_error_unless_the_environment_has_one() {
        let path = "spec.providerSpec.value.cloudProviderSpec.auth.kubeconfig";
        let blamed = |environment, author| {
            let admission = Admission::new(
                AdmissionSettings::default(),
                AddressPolicy::default(),
                environment,
            );
            let report = admission.validate_create(&machine(&json!({})), author);
            (
                report.blames(&FieldPath::new(path)),
                report.warnings.iter().any(|w| w.starts_with(path)),
            )
        };
        assert_eq!(blamed(false, Author::Person), (true, false));
        assert_eq!(blamed(false, Author::SetController), (false, true));
        assert_eq!(blamed(true, Author::Person), (false, false));
    }
}
