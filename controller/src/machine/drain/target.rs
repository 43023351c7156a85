//! What a drain evicts.

/// A pod to evict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Name of the only budget about it.
    pub budget: Option<String>,
}
