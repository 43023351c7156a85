//! What the controller watches in the user cluster, projected to the fields that it uses.

mod machine;
mod node;
mod owner;
mod references;
mod stores;

pub use machine::{SpecState, StoredMachine};
pub use node::{Node, NodeSpec, NodeStatus};
pub use owner::MachineSetMeta;
pub use references::{Looked, Reference, ReferenceKind, References};
pub use stores::{Stores, TOKEN_NAMESPACE};
