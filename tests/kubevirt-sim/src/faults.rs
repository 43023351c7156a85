//! Faults that a test switches on for one VM by annotation.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::api::DynamicObject;

/// Prefix of the annotations.
pub const PREFIX: &str = "sim.kubevirt.io/";

/// When a guest crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Soon after it runs.
    Running,
    /// Before it ever runs.
    BeforeRunning,
}

/// The faults of a VM. Messages are the annotation's value, unless that is `true`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each one is a switch of its own; they combine freely"
)]
pub struct Faults {
    /// `unschedulable`: the scheduler's message.
    pub unschedulable: Option<String>,
    /// `image-pull`: the launcher's image cannot be pulled.
    pub image_pull: Option<String>,
    /// `import-failing`: the importer exits and is started again; its message.
    pub import_failing: Option<String>,
    /// `import-failed`: the DataVolume is Failed for good.
    pub import_failed: bool,
    /// `pvc-pending`: no volume is provisioned.
    pub pvc_pending: bool,
    /// `crash` (`true`, or `before-running`).
    pub crash: Option<Crash>,
    /// `poweroff`: the guest shuts itself down.
    pub power_off: bool,
    /// `never-joins`: the guest has no kubelet.
    pub never_joins: bool,
    /// `paused`: reason of the Paused condition.
    pub paused: Option<String>,
    /// `evacuate`: the launcher's pod is evicted from its node.
    pub evacuate: bool,
    /// `slow-delete`: seconds the guest takes to shut down.
    pub slow_delete: Option<Duration>,
    /// `slow-pod`: seconds that the launcher's pod is there after its guest has ended.
    pub slow_pod: Option<Duration>,
    /// `no-ip`: the guest has no address.
    pub no_ip: bool,
    /// `agent-address`: an address that the guest agent reports, on an interface of a bridge.
    pub agent_address: Option<String>,
    /// `guest` (`real`): no fault, but a Linux under QEMU in place of a simulated guest ([`crate::real`]).
    pub real: bool,
}

impl Faults {
    /// Reads the annotations of the object's template, then those of the object itself, which win; the value
    /// `false` removes a fault.
    pub fn of(object: &DynamicObject) -> Self {
        let template = object.data.pointer("/spec/template/metadata/annotations");
        let template = template
            .and_then(serde_json::Value::as_object)
            .into_iter()
            .flatten();
        let mut annotations: BTreeMap<&str, &str> = template
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
            .collect();
        annotations.extend(
            object
                .annotations()
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str())),
        );
        let mut faults = Self::default();
        for (key, value) in annotations {
            if let Some(name) = key.strip_prefix(PREFIX)
                && value != "false"
            {
                faults.set(name, value);
            }
        }
        faults
    }

    fn set(&mut self, name: &str, value: &str) {
        let seconds = |text: &str| Duration::try_from_secs_f64(text.parse().ok()?).ok();
        let message = |default: &str| {
            Some(if matches!(value, "" | "true") {
                default.to_owned()
            } else {
                value.to_owned()
            })
        };
        match name {
            "unschedulable" => {
                self.unschedulable = message("0/1 nodes are available: 1 Insufficient memory.");
            }
            "image-pull" => self.image_pull = message("rpc error: not found"),
            "import-failing" => {
                self.import_failing = message(
                    "Unable to connect to http data source: expected status code 200, got 404. Status: 404 Not Found",
                );
            }
            "import-failed" => self.import_failed = true,
            "pvc-pending" => self.pvc_pending = true,
            "crash" if value == "before-running" => self.crash = Some(Crash::BeforeRunning),
            "crash" => self.crash = Some(Crash::Running),
            "poweroff" => self.power_off = true,
            "never-joins" => self.never_joins = true,
            "paused" => self.paused = message("PausedByUser"),
            "evacuate" => self.evacuate = true,
            "slow-delete" => self.slow_delete = seconds(value),
            "slow-pod" => self.slow_pod = seconds(value),
            "no-ip" => self.no_ip = true,
            "agent-address" => self.agent_address = Some(value.to_owned()),
            "guest" => self.real = value == "real",
            _ => tracing::warn!(fault = name, "unknown fault"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::objects::{Kind, object};

    fn vm(template: &[(&str, &str)], own: &[(&str, &str)]) -> DynamicObject {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()))
                .collect()
        };
        let template = json!({"spec": {"template": {"metadata": {"annotations": map(template)}}}});
        let mut vm = object(Kind::Vm, "a", template);
        vm.metadata.annotations = Some(map(own));
        vm
    }

    #[rstest]
    #[case::from_the_template(&[("no-ip", "true")], &[], Faults { no_ip: true, ..Faults::default() })]
    #[case::from_the_vm(&[], &[("poweroff", "")], Faults { power_off: true, ..Faults::default() })]
    #[case::the_vm_wins(&[("unschedulable", "a")], &[("unschedulable", "b")], Faults { unschedulable: Some("b".to_owned()), ..Faults::default() })]
    #[case::the_vm_takes_back(&[("never-joins", "true")], &[("never-joins", "false")], Faults::default())]
    #[case::early_crash(&[("crash", "before-running")], &[], Faults { crash: Some(Crash::BeforeRunning), ..Faults::default() })]
    #[case::late_crash(&[("crash", "true")], &[], Faults { crash: Some(Crash::Running), ..Faults::default() })]
    #[case::seconds(&[("slow-delete", "1.5")], &[], Faults { slow_delete: Some(Duration::from_millis(1500)), ..Faults::default() })]
    #[case::real_guest(&[("guest", "real")], &[], Faults { real: true, ..Faults::default() })]
    #[case::simulated_guest(&[("guest", "simulated")], &[], Faults::default())]
    #[case::default_message(&[("image-pull", "true")], &[], Faults { image_pull: Some("rpc error: not found".to_owned()), ..Faults::default() })]
    fn faults_are_read(
        #[case] template: &[(&str, &str)],
        #[case] own: &[(&str, &str)],
        #[case] expected: Faults,
    ) {
        assert_eq!(Faults::of(&vm(template, own)), expected);
    }
}
