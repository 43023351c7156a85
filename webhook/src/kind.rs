//! The kinds that are judged.

/// Which of our kinds a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Machine.
    Machine,
    /// A MachineDeployment.
    MachineDeployment,
    /// A MachineSet.
    MachineSet,
    /// Anything else: let through.
    Other,
}

impl Kind {
    /// As metrics and spans have it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Machine => "machines",
            Self::MachineDeployment => "machinedeployments",
            Self::MachineSet => "machinesets",
            Self::Other => "other",
        }
    }
}
