//! machine-controller's flags, and what became of them.

use std::fmt;

/// A flag of machine-controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    /// Its name without dashes.
    pub name: &'static str,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It means the same.
    Same,
    /// It is a flag, with this difference.
    Differs(&'static str),
    /// It is taken, and nothing comes of it.
    NoEffect {
        /// What it takes.
        takes: Takes,
        /// Why nothing comes of it, and what to use instead.
        why: &'static str,
    },
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A value behind `=`, or as the next argument.
    Value,
    /// A boolean behind `=`, or nothing.
    Boolean,
}

impl Former {
    /// A flag that means the same.
    pub const fn same(name: &'static str) -> Self {
        let fate = Fate::Same;
        Self { name, fate }
    }

    /// A flag that works otherwise, namely `so`.
    pub const fn differs(name: &'static str, so: &'static str) -> Self {
        let fate = Fate::Differs(so);
        Self { name, fate }
    }

    /// A flag with a value, which has no effect.
    pub const fn no_effect(name: &'static str, why: &'static str) -> Self {
        let takes = Takes::Value;
        let fate = Fate::NoEffect { takes, why };
        Self { name, fate }
    }

    /// A boolean flag, which has no effect.
    pub const fn boolean_without_effect(name: &'static str, why: &'static str) -> Self {
        let takes = Takes::Boolean;
        let fate = Fate::NoEffect { takes, why };
        Self { name, fate }
    }

    /// Does nothing come of it?
    pub const fn is_without_effect(&self) -> bool {
        matches!(self.fate, Fate::NoEffect { .. })
    }
}

impl fmt::Display for Former {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fate {
            Fate::Same => write!(f, "--{} means the same", self.name),
            Fate::Differs(so) => write!(f, "--{}: {so}", self.name),
            Fate::NoEffect { why, .. } => write!(f, "--{} has no effect: {why}", self.name),
        }
    }
}
