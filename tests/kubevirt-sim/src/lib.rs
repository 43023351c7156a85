//! A simulated KubeVirt: plays virt-api, virt-controller, CDI, virt-handler and the guests' kubelets against a real
//! API server that has KubeVirt's CRDs.
//!
//! It writes the statuses that KubeVirt writes, in KubeVirt's order, and rejects what KubeVirt rejects. Its guests join
//! a cluster with only their user data. Faults are switched on per VM by annotation ([`faults`]), and so is a real
//! guest: a Linux with a real kubelet, under emulation ([`real`]).
//!
//! ```no_run
//! # async fn example(client: kube::Client) -> Result<(), kubevirt_sim::StartError> {
//! let simulator = kubevirt_sim::Simulator::start(client, kubevirt_sim::Options::new("vms")).await?;
//! // ... create VirtualMachines in the namespace `vms` ...
//! assert_eq!(simulator.guest_error("a-vm"), None);
//! simulator.stop().await;
//! # Ok(())
//! # }
//! ```

pub mod admission;
pub mod data_volume;
pub mod faults;
pub mod guest;
mod guests;
mod hosts;
pub mod instance;
pub mod instancetype;
pub mod objects;
mod options;
pub mod plan;
pub mod real;
mod runner;
mod simulator;
pub mod storage_profile;
pub mod vm;
pub mod vm_status;
pub mod vmi;
pub mod vmi_status;
pub mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use options::{Options, Role};
pub use simulator::{Simulator, StartError};

/// Locks; a panic elsewhere leaves plain data behind, which is still valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
