//! The pure half of a provider: what its part of a spec means, without asking anybody.
//!
//! The I/O half is `machinist_infra::provider`. What passes between the two halves of one provider and nobody else
//! understands goes as [`Opaque`]; `docs/adding-a-provider.md` shows both by example.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use serde_json::Value;

pub use crate::kubevirt::resolved::Secret;

/// A spec whose every value is known: what an instance is made from.
pub trait Blueprint: Debug + Send + Sync {
    /// Names of the disks that the instance of the Machine of that name will have: what bears them and is a stranger's is
    /// in the way.
    fn disks(&self, machine: &str) -> Vec<String>;

    /// What must be asked of the place before the instance can be rendered.
    fn facts_needed(&self) -> Opaque;

    /// Where the instance will be, by spec and facts.
    fn failure_domain(&self, facts: &Opaque) -> FailureDomain;

    /// The instance, as the I/O half creates it; `None` for facts of another provider. Equal orders, equal instances.
    fn render(&self, order: &Order<'_>, facts: &Opaque) -> Option<Value>;
}

/// What an instance is rendered from, besides spec and facts.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Name of the Machine, and so of the instance.
    pub name: &'a str,
    /// UID of the Machine; the instance bears it as a label.
    pub uid: &'a str,
    /// Labels of the Machine.
    pub labels: &'a BTreeMap<String, String>,
    /// Annotations of the Machine.
    pub annotations: &'a BTreeMap<String, String>,
    /// Name of the MachineDeployment above the Machine.
    pub machine_deployment: Option<&'a str>,
    /// UID of the user cluster; the instance bears it as a label.
    pub cluster_uid: &'a str,
    /// Namespace of the instance.
    pub namespace: &'a str,
    /// Name under which the user data will be delivered.
    pub user_data: &'a str,
    /// User data to pass by Ignition, for flatcar.
    pub ignition: Option<&'a str>,
}

/// Region and zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailureDomain {
    /// Region.
    pub region: Option<String>,
    /// Zone.
    pub zone: Option<String>,
}

/// What only the two halves of one provider understand.
#[derive(Clone)]
pub struct Opaque(Arc<dyn Any + Send + Sync>);

impl Opaque {
    /// Wraps a value.
    pub fn new<T: Any + Send + Sync>(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// The value, if it is one of that type.
    pub fn of<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

/// It may hold secrets, and nobody here knows.
impl Debug for Opaque {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opaque")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_comes_out_as_its_own_type_only_and_is_never_shown() {
        let opaque = Opaque::new("sesame".to_owned());
        assert_eq!(opaque.of::<String>().map(String::as_str), Some("sesame"));
        assert!(opaque.of::<u8>().is_none());
        assert!(!format!("{opaque:?}").contains("sesame"));
    }
}
