//! Processes a row's manifest: defaulted and validated as at admission, then rendered as by the controller.

use machinist_shared::admission::{AdmissionSettings, Author, mutate_create, validate_create};
use machinist_shared::provider::Env;
use serde_json::Value;

use super::{Form, Row};
use crate::{rules::INFRA_NAMESPACE, vm};

impl Row {
    /// The resulting VirtualMachine, or why there is none.
    pub fn render(&self, form: Form) -> Result<Value, String> {
        let env = Env::new(|name| {
            let set = self.env.iter().find(|(known, _)| *known == name);
            match (set, name) {
                (Some((_, value)), _) => Some((*value).to_owned()),
                (None, "POD_NAMESPACE") => Some(INFRA_NAMESPACE.to_owned()),
                (None, _) => None,
            }
        });
        let settings = AdmissionSettings {
            infra_namespace: env.infra_namespace.clone(),
            ..AdmissionSettings::default()
        };
        let machine = mutate_create(&self.manifest(form), &settings);
        let report = validate_create(&machine, Author::Person, &settings);
        if !report.is_ok() {
            return Err(format!("{}: {:?}", self.id, report.errors));
        }
        let setting = vm::Setting {
            env,
            facts: self.facts.clone(),
            deployment: self.deployment,
            ignition: self.ignition,
        };
        vm::of(&machine, &setting).map_err(|error| format!("{}: {error}", self.id))
    }
}
