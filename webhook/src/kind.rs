//! The validated kinds.

/// The kind of object in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Machine.
    Machine,
    /// A MachineDeployment.
    MachineDeployment,
    /// A MachineSet.
    MachineSet,
    /// Anything else is allowed.
    Other,
}

impl Kind {
    /// Its label in metrics and spans.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Machine => "machines",
            Self::MachineDeployment => "machinedeployments",
            Self::MachineSet => "machinesets",
            Self::Other => "other",
        }
    }
}
