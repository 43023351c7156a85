//! The label selector of a set or deployment, read once.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use machinist_shared::admission::selector;
use machinist_shared::api::field::{FieldPath, Report};
use serde_json::{Map, Value};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Labels that Machines of a template are made with.
pub fn labels_of(template: &Value) -> Labels {
    let labels = template.pointer("/metadata/labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A label selector that has been read, or why it selects nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    parsed: Result<Selector, String>,
    /// Why it does not fit the labels of the template beside it.
    unfit: Option<String>,
}

impl Selection {
    /// Reads the selector of `spec`, and holds it against the template's labels there, by the rules of admission.
    pub fn of(spec: &Value) -> Self {
        let mut report = Report::new();
        let empty = Map::new();
        let labels = spec
            .pointer("/template/metadata/labels")
            .and_then(Value::as_object);
        let matches = selector::validate(
            spec.as_object().unwrap_or(&empty),
            labels,
            &FieldPath::new("spec.selector"),
            &mut report,
        );
        let parsed = if report.is_ok() {
            parse(spec.get("selector"))
        } else {
            let faults: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
            Err(faults.join("; "))
        };
        let unfit = (matches == Some(false))
            .then(|| "spec.selector: does not match the labels in spec.template.metadata.labels".to_owned());
        Self { parsed, unfit }
    }

    /// Whether it selects an object with these labels. One that cannot be read, or is empty, selects nothing.
    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        let none = Labels::new();
        let labels = labels.unwrap_or(&none);
        self.parsed
            .as_ref()
            .is_ok_and(|selector| selector.matches(labels))
    }

    /// As text, the way `/scale` shows it.
    pub fn text(&self) -> Option<String> {
        self.parsed.as_ref().ok().map(ToString::to_string)
    }

    /// Why Machines must not be reported by it: it cannot be read, is empty, or does not match the template beside it.
    pub fn fault(&self) -> Option<&str> {
        match &self.parsed {
            Err(why) => Some(why),
            Ok(_) => self.unfit.as_deref(),
        }
    }
}

fn parse(selector: Option<&Value>) -> Result<Selector, String> {
    let selector: LabelSelector = serde_json::from_value(selector.cloned().unwrap_or_default())
        .map_err(|error| format!("spec.selector: {error}"))?;
    Selector::try_from(selector).map_err(|error| format!("spec.selector: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::one_that_matches(json!({"matchLabels": {"a": "b"}}), None, true)]
    #[case::expressions_too(json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), None, true)]
    #[case::another_value(json!({"matchLabels": {"a": "c"}}), Some("does not match the labels"), false)]
    #[case::an_empty_one_selects_nothing(json!({}), Some("must not be empty"), false)]
    #[case::none_selects_nothing(Value::Null, Some("must not be empty"), false)]
    #[case::an_operator_that_does_not_exist(
        json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}), Some("operator"), false)]
    #[case::no_selector_at_all(json!(7), Some("must not be empty"), false)]
    fn a_selector_selects_or_says_why_not(
        #[case] selector: Value,
        #[case] fault: Option<&str>,
        #[case] matches: bool,
    ) {
        let spec = json!({"selector": selector, "template": {"metadata": {"labels": {"a": "b"}}}});
        let selection = Selection::of(&spec);
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        assert_eq!(selection.matches(Some(&labels)), matches);
        match fault {
            Some(fault) => assert!(selection.fault().unwrap().contains(fault), "{selection:?}"),
            None => assert_eq!(selection.fault(), None),
        }
    }

    #[test]
    fn a_selector_shows_as_kubernetes_writes_it() {
        let spec = json!({"selector": {
            "matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["e", "d"]}, {"key": "f", "operator": "DoesNotExist"}],
        }});
        assert_eq!(Selection::of(&spec).text().as_deref(), Some("a=b,c in (d,e),!f"));
    }
}
