//! Runs rows against the pure functions, in the order in which an API server calls the webhook.

use machinist_shared::admission::{
    AdmissionSettings, mutate_create, mutate_deployment, mutate_set, mutate_update, validate_create,
    validate_deployment, validate_set, validate_update,
};
use machinist_shared::api::field::Report;
use serde_json::{Value, json};

use super::{INFRA_NAMESPACE, Kind, Row};

/// The outcome of a row.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Fields that the refusal names as causes; empty if the object was admitted.
    pub rejected: Vec<String>,
    /// All causes of the refusal: field and message.
    pub causes: Vec<(String, String)>,
    /// The object that is stored, or would be stored.
    pub stored: Value,
    /// Warnings.
    pub warnings: Vec<String>,
    /// The message of the refusal.
    pub message: String,
}

/// Runs a row against the pure functions.
pub fn in_process(row: &Row) -> Outcome {
    let settings = AdmissionSettings {
        infra_namespace: INFRA_NAMESPACE.to_owned(),
        ..AdmissionSettings::default()
    };
    let object = &row.object;
    let (stored, report) = match (row.kind, &row.old) {
        (Kind::Machine, None) => {
            let stored = named(mutate_create(object, &settings));
            let report = validate_create(&stored, row.author, &settings);
            (stored, report)
        }
        (Kind::Machine, Some(old)) => {
            let stored = mutate_update(old, object);
            let report = validate_update(old, &stored, row.author, &settings);
            (stored, report)
        }
        (Kind::Set, old) => {
            let stored = mutate_set(old.as_ref(), object, row.author, &settings);
            let report = validate_set(old.as_ref(), &stored, row.author, &settings);
            (stored, report)
        }
        (Kind::Deployment, old) => {
            let stored = mutate_deployment(old.as_ref(), object, &settings);
            let report = validate_deployment(old.as_ref(), &stored, &settings);
            (stored, report)
        }
    };
    outcome(stored, report)
}

fn outcome(stored: Value, report: Report) -> Outcome {
    let message = report
        .errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    let causes: Vec<_> = report
        .errors
        .iter()
        .map(|error| (error.path.to_string(), error.message.clone()))
        .collect();
    Outcome {
        rejected: causes.iter().map(|(field, _)| field.clone()).collect(),
        causes,
        stored,
        warnings: report.warnings,
        message,
    }
}

/// The API server generates names between the mutating and the validating step.
fn named(mut object: Value) -> Value {
    let base = object
        .pointer("/metadata/generateName")
        .and_then(Value::as_str)
        .map(str::to_owned);
    if let (Some(base), None) = (base, object.pointer("/metadata/name")) {
        object["metadata"]["name"] = json!(format!("{base}x7x9z"));
    }
    object
}
