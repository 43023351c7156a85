//! The way of a row's manifest: defaulted and judged as at admission, then rendered as by the controller.

use std::collections::BTreeMap;

use machinist_shared::admission::{AdmissionSettings, Author, mutate_create, validate_create};
use machinist_shared::field::{FieldPath, Report};
use machinist_shared::kubevirt::render::{RenderInput, render};
use machinist_shared::kubevirt::resolved::{Env, resolve};
use machinist_shared::provider_spec::ProviderConfig;
use serde_json::Value;

use super::{Form, Row};
use crate::rules::INFRA_NAMESPACE;

impl Row {
    /// The VirtualMachine that follows, or why there is none.
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
        let (path, mut report) = (FieldPath::new("spec.providerSpec.value"), Report::new());
        let config = ProviderConfig::decode(machine.pointer("/spec/providerSpec/value"), &path, &mut report);
        let cloud = config.cloud_provider_spec.ok_or("no cloudProviderSpec")?;
        let cloud = cloud.of().ok_or("another provider's cloudProviderSpec")?;
        let spec = resolve(cloud, &env, &|key| Ok(key.key.clone()))
            .map_err(|error| format!("{}: {error}", self.id))?;
        let texts = |pointer: &str| -> BTreeMap<String, String> {
            let map = machine.pointer(pointer).and_then(Value::as_object);
            let texts = map.into_iter().flatten();
            texts
                .map(|(key, text)| (key.clone(), text.as_str().unwrap_or_default().to_owned()))
                .collect()
        };
        Ok(render(&RenderInput {
            name: "m",
            uid: "4f8c9a1e-0000-4000-8000-000000000001",
            labels: &texts("/metadata/labels"),
            annotations: &texts("/metadata/annotations"),
            machine_deployment: self.deployment,
            cluster_uid: "c7a1d2b3-0000-4000-8000-000000000002",
            namespace: &env.infra_namespace,
            spec: &spec,
            facts: &self.facts,
            user_data_secret: "userdata-m",
            ignition: self.ignition,
        }))
    }
}
