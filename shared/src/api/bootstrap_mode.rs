//! Where user data comes from.

use std::fmt;
use std::str::FromStr;

use super::names::BOOTSTRAP_MODES;

/// Bootstrap mode, of a controller and of one Machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BootstrapMode {
    /// *osm* if and only if the MachineDeployment names an operating system profile.
    #[default]
    Auto,
    /// operating-system-manager's Secret.
    Osm,
    /// Machinist's own user data, with a token for that Machine alone.
    Builtin,
}

/// Text that names no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no bootstrap mode; write auto, osm or builtin")]
pub struct ModeError(String);

impl FromStr for BootstrapMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text {
            "auto" => Ok(Self::Auto),
            "osm" => Ok(Self::Osm),
            "builtin" => Ok(Self::Builtin),
            other => Err(ModeError(other.to_owned())),
        }
    }
}

impl fmt::Display for BootstrapMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [auto, osm, builtin] = BOOTSTRAP_MODES;
        f.write_str(match self {
            Self::Auto => auto,
            Self::Osm => osm,
            Self::Builtin => builtin,
        })
    }
}
