//! Admission, as pure functions of raw JSON: defaults, validation, and the patch.
//!
//! ```
//! use machinist_shared::admission::{AdmissionSettings, Author, mutate_create, patch, validate_create};
//! let machine = serde_json::json!({"metadata": {"name": "m"}, "spec": {"providerSpec": {"value": {}}}});
//! let settings = AdmissionSettings::default();
//! let stored = mutate_create(&machine, &settings);
//! assert_eq!(patch(&machine, &stored).0[0].path().to_string(), "/metadata/annotations");
//! let report = validate_create(&stored, Author::Person, &settings);
//! assert!(report.errors.iter().any(|e| e.path.to_string() == "spec.providerSpec.value.cloudProvider"));
//! ```

pub mod autoscaler;
mod bypass;
mod deployment;
pub mod kubelet_settings;
pub mod kubelet_version;
pub(crate) mod mutate;
mod own_names;
mod patch;
mod pool;
mod references;
pub mod selector;
mod set;
mod settings;
pub(crate) mod shape;
pub mod startup_taints;
mod subject;
pub mod template;
mod update;
mod validate;

pub use deployment::{mutate_deployment, validate_deployment, validate_deployment_subject};
pub use mutate::{mutate_create, mutate_update};
pub use patch::patch;
pub use references::{Reference, new_references};
pub use set::{mutate_set, validate_set, validate_set_subject};
pub use settings::{AdmissionSettings, Author, FeatureGateError, parse_feature_gates};
pub use subject::Subject;
pub use update::validate_update;
pub use validate::{validate_create, validate_create_subject};
