//! Locations of Machine specs.

/// The location of a provider's spec in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueAt {
    /// JSON pointer.
    pub pointer: &'static str,
    /// For people.
    pub path: &'static str,
}

impl ValueAt {
    /// In a Machine.
    pub const MACHINE: Self = Self {
        pointer: "/spec/providerSpec/value",
        path: "spec.providerSpec.value",
    };
    /// In a MachineSet or MachineDeployment.
    pub const TEMPLATE: Self = Self {
        pointer: "/spec/template/spec/providerSpec/value",
        path: "spec.template.spec.providerSpec.value",
    };
}
