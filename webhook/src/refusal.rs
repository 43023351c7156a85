//! A refusal as `metav1.Status`, which kubectl shows as a list of causes, and Helm and Argo CD as one message.

use machinist_shared::api::field::{ErrorKind, FieldError, MAX_REPORTED, Report, cut, reported};
use serde::Serialize;

use crate::kind::Kind;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    #[serde(rename = "status")]
    outcome: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
    details: Details,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    group: &'static str,
    kind: &'static str,
    causes: Vec<Cause>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
    field: String,
}

impl Status {
    /// The refusal of an object with all errors of a report; `None` without errors.
    ///
    /// Code 422 and reason `Invalid`, because the API server turns a refusal without them into a 400 without a reason,
    /// and kubectl lists causes only for this reason.
    pub(crate) fn of(kind: Kind, name: &str, report: &Report) -> Option<Self> {
        if report.is_ok() {
            return None;
        }
        let cause = |error: &FieldError| Cause {
            reason: error.kind.cause_reason(),
            message: cut(error.message.clone()),
            field: cut(error.path.to_string()),
        };
        let mut causes: Vec<_> = report.errors.iter().take(MAX_REPORTED).map(cause).collect();
        if report.errors.len() > MAX_REPORTED {
            causes.push(Cause {
                reason: ErrorKind::Invalid.cause_reason(),
                message: format!("and {} more", report.errors.len() - MAX_REPORTED),
                field: String::new(),
            });
        }
        Some(Self::invalid(kind, name, message(&report.errors), causes))
    }

    /// The refusal of an object that cannot be decoded.
    pub(crate) fn unreadable(kind: Kind, message: String) -> Self {
        Self::invalid(kind, "", message, Vec::new())
    }

    fn invalid(kind: Kind, name: &str, message: String, causes: Vec<Cause>) -> Self {
        Self {
            outcome: "Failure",
            code: 422,
            reason: "Invalid",
            message,
            details: Details {
                name: name.to_owned(),
                group: machinist_shared::api::names::GROUP,
                kind: match kind {
                    Kind::MachineDeployment => "MachineDeployment",
                    Kind::MachineSet => "MachineSet",
                    Kind::Machine | Kind::Other => "Machine",
                },
                causes,
            },
        }
    }
}

/// Each error as `field: text`; multiple errors have one line each.
fn message(errors: &[FieldError]) -> String {
    if let [only] = errors {
        return cut(only.to_string());
    }
    let lines = reported(errors.iter().map(ToString::to_string));
    format!("{} errors:\n  {}", errors.len(), lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use machinist_shared::api::field::FieldPath;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_cause_is_in_the_list_and_in_the_message() {
        let mut report = Report::new();
        report.required(&FieldPath::new("spec.a"), "must be set");
        report.invalid(&FieldPath::new("spec.b"), "\"x\" is not a number");
        let status = serde_json::to_value(Status::of(Kind::Machine, "m", &report)).unwrap();
        let want = json!({
            "status": "Failure", "code": 422, "reason": "Invalid",
            "message": "2 errors:\n  spec.a: must be set\n  spec.b: \"x\" is not a number",
            "details": {"name": "m", "group": "cluster.k8s.io", "kind": "Machine", "causes": [
                {"reason": "FieldValueRequired", "message": "must be set", "field": "spec.a"},
                {"reason": "FieldValueInvalid", "message": "\"x\" is not a number", "field": "spec.b"},
            ]},
        });
        assert_eq!(status, want);
    }

    #[test]
    fn of_many_causes_the_first_are_shown_and_the_rest_is_counted() {
        let mut report = Report::new();
        for nth in 0..100_000 {
            report.invalid(
                &FieldPath::new("spec").child(&format!("a{nth}")),
                "x".repeat(5_000),
            );
        }
        let status = serde_json::to_value(Status::of(Kind::Machine, "m", &report)).unwrap();
        let causes = status["details"]["causes"].as_array().unwrap();
        assert_eq!(causes.len(), 101);
        assert_eq!(causes[100]["message"], "and 99900 more");
        let message = status["message"].as_str().unwrap();
        assert!(
            message.starts_with("100000 errors:\n  spec.a0: xxx") && message.ends_with("\n  and 99900 more")
        );
        assert!(status.to_string().len() < 300_000);
    }

    #[test]
    fn one_cause_is_the_message() {
        let mut report = Report::new();
        report.required(&FieldPath::new("spec.a"), "must be set");
        assert_eq!(
            Status::of(Kind::Machine, "", &report).unwrap().message,
            "spec.a: must be set"
        );
    }

    #[test]
    fn nothing_wrong_is_no_refusal() {
        assert_eq!(Status::of(Kind::Machine, "m", &Report::new()), None);
    }
}
