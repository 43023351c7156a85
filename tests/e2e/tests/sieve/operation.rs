//! Operations of users and of admins of the infra cluster, each from its own initial state.

use std::fmt;

use anyhow::{Context as _, Result};
use e2e::rollout::deployment;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use machinist_shared::api::{Machine, MachineDeployment};
use serde_json::json;

use super::{
    bed::{Bed, POOL},
    oracle::{Expected, Snapshot},
};

/// An operation on a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A pool of two is created.
    Create,
    /// A pool of two is deleted.
    Delete,
    /// From one Machine to three.
    ScaleUp,
    /// From three Machines to one.
    ScaleDown,
    /// The template of a pool of two changes.
    Rollout,
    /// The host of one of two VMs is drained.
    Evacuate,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::ScaleUp => "scale up",
            Self::ScaleDown => "scale down",
            Self::Rollout => "rollout",
            Self::Evacuate => "evacuation",
        })
    }
}

impl Operation {
    /// How many Machines the pool has before; `None`: there is no pool.
    fn before(self) -> Option<i32> {
        match self {
            Self::Create => None,
            Self::ScaleUp => Some(1),
            Self::ScaleDown => Some(3),
            Self::Delete | Self::Rollout | Self::Evacuate => Some(2),
        }
    }

    /// How many Machines it has after it; `None`: there is no pool.
    pub(crate) fn after(self) -> Option<i32> {
        match self {
            Self::Delete => None,
            Self::ScaleDown => Some(1),
            Self::ScaleUp => Some(3),
            Self::Create | Self::Rollout | Self::Evacuate => Some(2),
        }
    }

    /// How many Machines are created, and how many of the earlier ones stay.
    pub(crate) fn expected(self) -> Expected {
        let (created, kept) = match self {
            Self::Create => (2, 0),
            Self::Delete => (0, 0),
            Self::ScaleUp => (2, 1),
            Self::ScaleDown => (0, 1),
            Self::Rollout => (2, 0),
            Self::Evacuate => (1, 1),
        };
        Expected { created, kept }
    }

    /// Brings the pool to where the operation begins, without interference.
    pub(crate) async fn prepare(self, bed: &Bed) -> Result<Snapshot> {
        let pool = bed.case.deployments().get_opt(POOL).await?;
        match (pool, self.before()) {
            (None, None) => {}
            (Some(_), None) => delete(bed).await?,
            (None, Some(size)) => {
                bed.case.apply(&deployment(POOL, size)).await?;
            }
            (Some(_), Some(size)) => scale(bed, size).await?,
        }
        bed.obeyed(self.before()).await.context("before the operation")?;
        bed.case.settled().await;
        bed.seen().await
    }

    /// Requests it.
    pub(crate) async fn begin(self, bed: &Bed, before: &Snapshot) -> Result<()> {
        let case = &bed.case;
        match self {
            Self::Create => case.apply(&deployment(POOL, 2)).await.map(drop),
            Self::Delete => delete(bed).await,
            Self::ScaleUp => scale(bed, 3).await,
            Self::ScaleDown => scale(bed, 1).await,
            Self::Rollout => {
                let annotations = json!({"rolled": k8s_openapi::jiff::Timestamp::now().to_string()});
                patch(
                    bed,
                    &json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}),
                )
                .await
            }
            Self::Evacuate => {
                let name = before.pool().next().context("the pool has no Machine")?;
                let evacuate = json!({"metadata": {"annotations": {"sim.kubevirt.io/evacuate": "true"}}});
                case.vms()
                    .patch(name, &PatchParams::default(), &Patch::Merge(evacuate))
                    .await?;
                Ok(())
            }
        }
    }

    /// Whether an earlier Machine may be gone after it.
    pub(crate) fn is_over(self, before: &Snapshot, machines: &[&Machine]) -> bool {
        let is_there = |name: &str| machines.iter().any(|machine| machine.name_any() == name);
        let gone = before.pool().filter(|name| !is_there(name)).count();
        gone == before.pool().count().saturating_sub(self.expected().kept)
    }
}

async fn scale(bed: &Bed, size: i32) -> Result<()> {
    patch(bed, &json!({"spec": {"replicas": size}})).await
}

async fn patch(bed: &Bed, patch: &serde_json::Value) -> Result<()> {
    let patched: kube::Result<MachineDeployment> = bed
        .case
        .deployments()
        .patch(POOL, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    Ok(patched.map(drop)?)
}

/// As kubectl does it.
async fn delete(bed: &Bed) -> Result<()> {
    bed.case
        .deployments()
        .delete(POOL, &DeleteParams::background())
        .await?;
    Ok(())
}
