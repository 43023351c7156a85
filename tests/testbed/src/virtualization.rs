//! The component that runs the VMs of an infra cluster.

/// The component that runs the VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Virtualization {
    /// The simulator alone.
    Simulated,
    /// KubeVirt's and CDI's own controllers and webhooks; the simulator provides their hosts.
    Real,
}

impl Virtualization {
    /// What `MACHINIST_KUBEVIRT` says (`real`): the same tests run on both.
    pub fn of_environment() -> Self {
        match std::env::var("MACHINIST_KUBEVIRT").as_deref() {
            Ok("real") => Self::Real,
            _ => Self::Simulated,
        }
    }
}
