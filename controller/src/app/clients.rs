//! The clients of the user cluster, and options of those of infra clusters.

use anyhow::Context as _;
use kube::Client;
use machinist_infra::client::{ClientOptions, user_cluster_client};
use machinist_infra::clock::ServerClock;
use machinist_infra::fence::MayWrite;
use machinist_infra::traffic::Traffic;

use crate::config::Flags;
use crate::leader::Fence;

/// Makes a client of the user cluster.
pub(super) async fn user_cluster(flags: &Flags, options: &ClientOptions) -> anyhow::Result<Client> {
    user_cluster_client(flags.user_cluster(), options)
        .await
        .context("cannot make a client of the user cluster")
}

/// A client's options.
pub(super) fn counted(traffic: &Traffic) -> ClientOptions {
    ClientOptions {
        traffic: traffic.clone(),
        ..ClientOptions::default()
    }
}

/// The same of a client whose writes are the leader's.
pub(super) fn fenced(traffic: &Traffic, fence: &Fence) -> ClientOptions {
    let fence = fence.clone();
    ClientOptions {
        may_write: MayWrite::by(move || fence.may_write()),
        ..counted(traffic)
    }
}

/// The same of a client that tells the time.
pub(super) fn timed(options: ClientOptions, clock: &ServerClock) -> ClientOptions {
    ClientOptions {
        clock: Some(clock.clone()),
        ..options
    }
}
