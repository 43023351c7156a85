//! Real guests: a Linux under QEMU's emulation that boots with the VM's own user data, in a network namespace with
//! others of its kind.
//!
//! What KubeVirt's launcher does for a domain is done here for a process: the disk is an overlay of the image, the user
//! data comes on a NoCloud disk, the network is a tap on a bridge with DHCP, power is switched through QMP. Switched on
//! per VM by annotation ([`crate::faults::Faults::real`]). `hack/guest-image.sh` builds what is needed.

mod boot;
mod host;
mod lease;
pub mod machine;
mod qmp;
mod seed;

use std::path::PathBuf;

pub(crate) use boot::{Guest, unplug};
pub(crate) use host::Host;
pub use host::HostError;
pub(crate) use machine::NetworkCard;

/// What real guests need.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder that `hack/guest-image.sh` filled: QEMU, kernel, initrd and disk.
    pub image: PathBuf,
    /// File of the network namespace that has the bridge [`BRIDGE`].
    pub network: PathBuf,
    /// Folder of the guests' consoles (`VM.log`) and of the DHCP server's leases.
    pub consoles: PathBuf,
}

/// The bridge that guests are plugged into. Its first address, [`GATEWAY`], is where they find the API server.
pub const BRIDGE: &str = "guests";
/// The bridge's own address, of a network of 16 bits.
pub const GATEWAY: &str = "10.201.0.1";
/// First and last address that guests are given.
const RANGE: [&str; 2] = ["10.201.1.0", "10.201.254.255"];
const NETMASK: &str = "255.255.0.0";

/// How a guest has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestExit {
    /// It has switched itself off, or was switched off.
    PoweredOff,
    /// It has panicked, or its process died.
    Crashed,
}

/// What is known of a real guest's virtual hardware.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Address of its network interface.
    pub mac: String,
    /// The IP address that it was given.
    pub address: Option<String>,
    /// Whether it has ended.
    pub end: Option<GuestExit>,
}
