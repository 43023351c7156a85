//! The phases of a Machine, which say no more than its conditions, in a word.

/// What `status.phase` is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has no VM yet.
    Pending,
    /// It has a VM, whose Node is not Ready.
    Provisioning,
    /// Its Node is Ready.
    Running,
    /// It is being deleted.
    Deleting,
    /// It has a failure that does not pass by itself.
    Failed,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Provisioning,
        Self::Running,
        Self::Deleting,
        Self::Failed,
    ];

    /// As it is stored.
    pub fn text(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Provisioning => "Provisioning",
            Self::Running => "Running",
            Self::Deleting => "Deleting",
            Self::Failed => "Failed",
        }
    }

    /// What is stored, unless it is not ours: the one that may edit a Machine may write any phase.
    pub fn stored(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.text() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cluster-autoscaler reads them, and so does the version before.
    #[test]
    fn the_texts_are_part_of_the_api() {
        let texts = Phase::ALL.map(Phase::text);
        assert_eq!(
            texts,
            ["Pending", "Provisioning", "Running", "Deleting", "Failed"]
        );
        assert_eq!(texts.map(Phase::stored), Phase::ALL.map(Some));
    }
}
