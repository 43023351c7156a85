//! A provider whose instances are directories: small, complete, and for tests only.
//!
//! A place is a directory on this machine, the namespace one in it, an instance one in that. [`spec`] is the pure half,
//! [`provider`] the I/O half; [`files`] is what both agree on. Whoever plays the guest writes `guest.json` into its
//! instance.

pub mod files;
mod place;
pub mod provider;
pub mod spec;

pub use provider::Directories;
pub use spec::Directory;
