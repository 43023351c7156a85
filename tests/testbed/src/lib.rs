//! A real control plane for tests and for manual use: etcd, kube-apiserver and kube-controller-manager on loopback, with
//! KubeVirt's own CRDs, from package registries alone.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use testbed::{ControlPlane, control_plane::Options};
//!
//! let infra = ControlPlane::start(Options::infra()).await?;
//! let version = infra.client().apiserver_version().await?;
//! println!("{} at {}", version.git_version, infra.server());
//! # Ok(())
//! # }
//! ```
//!
//! Every process that it starts is stopped when its owner is dropped, and when this process exits for any reason. Logs stay in
//! `target/testbed`.

pub mod another_infra;
pub mod audit;
pub mod bed;
pub mod binaries;
pub mod cert_manager;
pub mod chart;
pub mod clock;
pub mod control_plane;
pub mod crds;
mod flags;
mod go_build;
pub mod guest_network;
pub mod inventory;
pub mod kubeconfig;
pub mod kubevirt;
pub mod kubevirt_processes;
pub mod paths;
pub mod pki;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod runs;
pub mod seed;
pub mod server;
mod template;
pub mod timings;
pub mod tools;
pub mod virtualization;

pub use another_infra::AnotherInfra;
pub use bed::{Cluster, Testbed};
pub use cert_manager::CertManager;
pub use control_plane::ControlPlane;
pub use guest_network::GuestNetwork;
pub use kubevirt::Kubevirt;
pub use kubevirt_processes::KubevirtProcesses;
pub use proxy::FaultProxy;
pub use server::Server;
