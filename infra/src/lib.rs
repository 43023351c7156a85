//! The providers' I/O half: [`provider`] is what the controller knows of them; the other modules are KubeVirt's, from a
//! kubeconfig in a spec to a pooled client, and what is watched through it.

pub mod answer;
pub mod breaker;
pub mod client;
pub mod clock;
pub mod facts;
pub mod fence;
pub mod http_server;
pub mod inquiry;
mod json_strings;
pub mod kubeconfig;
pub mod kubevirt;
pub mod lane;
pub mod objects;
pub mod orphans;
pub mod pool;
pub mod process;
mod projected;
pub mod provider;
pub mod reflect;
pub mod store;
pub mod telemetry;
pub mod traffic;
pub mod user_cluster;
mod user_data;
pub mod watch;
