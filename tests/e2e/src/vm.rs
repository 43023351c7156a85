//! The VirtualMachine that the controller renders for a Machine, in process.

use std::collections::BTreeMap;

use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::kubevirt::facts::Facts;
use machinist_shared::kubevirt::render::{RenderInput, render};
use machinist_shared::kubevirt::resolved::resolve;
use machinist_shared::provider::Env;
use machinist_shared::provider_spec::ProviderConfig;
use serde_json::Value;

/// The inputs of a VirtualMachine besides its Machine.
#[derive(Debug, Clone, Default)]
pub struct Setting<'a> {
    /// Environment of the controller.
    pub env: Env,
    /// Facts of the infra cluster.
    pub facts: Facts,
    /// Name of the MachineDeployment.
    pub deployment: Option<&'a str>,
    /// User data passed by Ignition.
    pub ignition: Option<&'a str>,
}

/// The VirtualMachine of a stored Machine, whether or not admission accepts it, or why there is none. The value of each key of
/// a Secret or ConfigMap is the key's name.
pub fn of(machine: &Value, setting: &Setting<'_>) -> Result<Value, String> {
    let (path, mut report) = (FieldPath::new("spec.providerSpec.value"), Report::new());
    let config = ProviderConfig::decode(machine.pointer("/spec/providerSpec/value"), &path, &mut report);
    let cloud = config.cloud_provider_spec.ok_or("no cloudProviderSpec")?;
    let cloud = cloud.of().ok_or("another provider's cloudProviderSpec")?;
    let spec = resolve(cloud, &setting.env, &|key| Ok(key.key.clone())).map_err(|error| error.to_string())?;
    let texts = |pointer: &str| -> BTreeMap<String, String> {
        let map = machine.pointer(pointer).and_then(Value::as_object);
        let texts = map.into_iter().flatten();
        texts
            .map(|(key, text)| (key.clone(), text.as_str().unwrap_or_default().to_owned()))
            .collect()
    };
    Ok(render(&RenderInput {
        name: machine
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or("m"),
        uid: "4f8c9a1e-0000-4000-8000-000000000001",
        labels: &texts("/metadata/labels"),
        annotations: &texts("/metadata/annotations"),
        machine_deployment: setting.deployment,
        cluster_uid: "c7a1d2b3-0000-4000-8000-000000000002",
        namespace: &setting.env.infra_namespace,
        spec: &spec,
        facts: &setting.facts,
        user_data_secret: "userdata-m",
        ignition: setting.ignition,
    }))
}
