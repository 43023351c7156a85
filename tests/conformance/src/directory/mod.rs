//! A provider whose instances are directories: small, complete, and for tests only.
//!
//! A site is a directory on this machine, a namespace is a directory in it, an instance a directory in that. [`spec`] is the
//! pure half, [`provider`] the I/O half; [`files`] is what both agree on. The test, in the role of the guest, writes
//! `guest.json` into its instance.

mod client;
pub mod files;
pub mod provider;
pub mod spec;

pub use provider::Directories;
pub use spec::Directory;
