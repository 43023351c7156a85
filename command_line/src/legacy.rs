//! machine-controller's flags, and their meaning in Machinist.

use std::fmt;

/// A flag of machine-controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegacyFlag {
    /// Its name without dashes.
    pub name: &'static str,
    /// Its meaning in Machinist.
    pub compatibility: Compatibility,
}

/// The meaning of machine-controller's flag in Machinist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compatibility {
    /// It means the same.
    Same,
    /// It exists, with this difference.
    Differs(&'static str),
    /// It is accepted, without effect.
    NoEffect {
        /// The kind of its value.
        takes: ValueKind,
        /// Why it has no effect, and what to use instead.
        why: &'static str,
    },
}

/// The kind of a flag's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// A value after `=`, or as the next argument.
    Value,
    /// A boolean after `=`, or no value.
    Boolean,
}

impl LegacyFlag {
    /// A flag that means the same.
    pub const fn same(name: &'static str) -> Self {
        let compatibility = Compatibility::Same;
        Self { name, compatibility }
    }

    /// A flag with a different meaning, described by `so`.
    pub const fn differs(name: &'static str, so: &'static str) -> Self {
        let compatibility = Compatibility::Differs(so);
        Self { name, compatibility }
    }

    /// A flag with a value, which has no effect.
    pub const fn no_effect(name: &'static str, why: &'static str) -> Self {
        let takes = ValueKind::Value;
        let compatibility = Compatibility::NoEffect { takes, why };
        Self { name, compatibility }
    }

    /// A boolean flag, which has no effect.
    pub const fn boolean_without_effect(name: &'static str, why: &'static str) -> Self {
        let takes = ValueKind::Boolean;
        let compatibility = Compatibility::NoEffect { takes, why };
        Self { name, compatibility }
    }

    /// Whether it has no effect.
    pub const fn is_without_effect(&self) -> bool {
        matches!(self.compatibility, Compatibility::NoEffect { .. })
    }
}

impl fmt::Display for LegacyFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.compatibility {
            Compatibility::Same => write!(f, "--{} means the same", self.name),
            Compatibility::Differs(so) => write!(f, "--{}: {so}", self.name),
            Compatibility::NoEffect { why, .. } => write!(f, "--{} has no effect: {why}", self.name),
        }
    }
}
