//! How each field of a manifest is rendered into the VirtualMachine, as a table: at least one row for each row of the contract
//! with machine-controller's users.
//!
//! The rows are data. They run in process and on a real API server with KubeVirt's schemas, and `docs/kubevirt-fields.md` is
//! generated from them.

mod contract;
mod manifest;
mod markdown;
mod output;
mod render;
mod spec;

pub use contract::CONTRACT;
pub use manifest::{Form, VARS};
pub use markdown::markdown;

use machinist_shared::kubevirt::facts::Facts;
use serde_json::Value;

/// One case of one field.
#[derive(Debug, Clone)]
pub struct Row {
    /// Unique: section of the contract, its row, and a word if there are several cases.
    pub id: &'static str,
    /// The input: dotted paths in `cloudProviderSpec`, or JSON pointers in the Machine, with values; `null` removes a value.
    pub given: Vec<(&'static str, Value)>,
    /// Environment of the servers.
    pub env: Vec<(&'static str, &'static str)>,
    /// Facts of the infra cluster.
    pub facts: Facts,
    /// Name of the MachineDeployment.
    pub deployment: Option<&'static str>,
    /// User data passed by Ignition.
    pub ignition: Option<&'static str>,
    /// JSON pointers in the VirtualMachine, and their values; `null`: no value.
    pub becomes: Vec<(&'static str, Value)>,
    /// Texts that the VirtualMachine does not contain.
    pub nowhere: Vec<&'static str>,
    /// A note for users.
    pub remark: &'static str,
}

impl Row {
    fn new(id: &'static str) -> Self {
        let mut facts = Facts::default();
        for class in ["standard", "fast"] {
            facts
                .access_modes
                .insert(class.to_owned(), "ReadWriteOnce".to_owned());
        }
        Self {
            id,
            given: Vec::new(),
            env: Vec::new(),
            facts,
            deployment: Some("web"),
            ignition: None,
            becomes: Vec::new(),
            nowhere: Vec::new(),
            remark: "",
        }
    }

    fn given(mut self, path: &'static str, value: impl Into<Value>) -> Self {
        self.given.push((path, value.into()));
        self
    }

    fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.push((name, value));
        self
    }

    fn facts(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(&mut self.facts);
        self
    }

    fn becomes(mut self, pointer: &'static str, value: impl Into<Value>) -> Self {
        self.becomes.push((pointer, value.into()));
        self
    }

    fn leaves_out(mut self, text: &'static str) -> Self {
        self.nowhere.push(text);
        self
    }

    fn remark(mut self, text: &'static str) -> Self {
        self.remark = text;
        self
    }

    /// Section and row of the contract, without the case.
    pub fn rule(&self) -> (&'static str, &'static str) {
        let mut parts = self.id.split('/');
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }

    /// The differences between a VirtualMachine and the row.
    pub fn judge(&self, vm: &Value) -> Result<(), String> {
        for (pointer, want) in &self.becomes {
            let got = vm.pointer(pointer).unwrap_or(&Value::Null);
            if got != want {
                return Err(format!("{}: {pointer} is {got}, not {want}", self.id));
            }
        }
        let text = vm.to_string();
        match self.nowhere.iter().find(|word| text.contains(*word)) {
            Some(word) => Err(format!("{}: {word} is in the VM: {vm:#}", self.id)),
            None => Ok(()),
        }
    }
}

/// All rows.
pub fn all() -> Vec<Row> {
    [spec::rows(), output::rows()].concat()
}
