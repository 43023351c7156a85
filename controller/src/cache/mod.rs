//! What the controller watches in the user cluster, projected to the fields that it uses.

mod machine;
mod machine_deployment;
mod machine_set;
mod named;
mod node;
pub mod overlap;
pub mod owner;
mod raw;
mod references;
mod selection;
mod signing_request;
mod spec;
mod stores;
mod sync;
mod tombstones;
mod volume_attachment;

pub use machine::{SpecState, StoredMachine};
pub use machine_deployment::StoredMachineDeployment;
pub use machine_set::StoredMachineSet;
pub use node::{Node, NodeSpec, NodeStatus};
pub(crate) use raw::Raw;
pub use references::{Looked, NodeGroup, Reference, References, Referrer, is_pending};
pub use selection::{Labels, Selection, labels_of};
pub use signing_request::{CLIENT_SIGNER, MAX_BYTES, NODE_USER, StoredRequest, TOKEN_USER, is_decided};
pub use spec::{Decoded, Template};
pub use stores::{Stores, TOKEN_NAMESPACE};
pub use sync::{CacheSync, Synced};
pub use tombstones::{Remnant, Tombstones};
pub use volume_attachment::VolumeAttachment;
