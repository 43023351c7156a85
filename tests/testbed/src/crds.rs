//! KubeVirt's own CRDs: a generated file that the testbed applies to infra clusters.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::wait::{await_condition, conditions},
};

/// The CRDs of KubeVirt and CDI that machines need, as a JSON `List`. `make kubevirt-crds` writes the file.
pub const KUBEVIRT: &str = include_str!("kubevirt-crds.json");

/// Returns the CRDs of KubeVirt and CDI that machines need.
pub fn kubevirt() -> Result<Vec<CustomResourceDefinition>> {
    #[derive(serde::Deserialize)]
    struct List {
        items: Vec<CustomResourceDefinition>,
    }
    let list: List = serde_json::from_str(KUBEVIRT).context("reading the kept CRDs of KubeVirt")?;
    Ok(list.items)
}

/// Applies CRDs and waits until the API server serves them all.
pub async fn install(client: &Client, crds: &[CustomResourceDefinition]) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("testbed").force();
    stream::iter(crds)
        .map(|crd| {
            let (api, params) = (&api, &params);
            async move {
                let name = crd.name_any();
                api.patch(&name, params, &Patch::Apply(crd))
                    .await
                    .with_context(|| format!("applying CRD {name}"))?;
                let established = await_condition(api.clone(), &name, conditions::is_crd_established());
                tokio::time::timeout(Duration::from_secs(30), established)
                    .await
                    .with_context(|| format!("CRD {name} was not established"))??;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(4)
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_stored_in_the_version_that_machines_use() {
        let crds = kubevirt().unwrap();
        let stored: Vec<_> = crds
            .iter()
            .flat_map(|crd| {
                let versions = crd.spec.versions.iter().filter(|version| version.storage);
                versions.map(|version| format!("{}/{}", crd.name_any(), version.name))
            })
            .collect();
        let expected = [
            "virtualmachines.kubevirt.io/v1",
            "virtualmachineinstances.kubevirt.io/v1",
            "virtualmachineinstancemigrations.kubevirt.io/v1",
            "virtualmachineinstancetypes.instancetype.kubevirt.io/v1beta1",
            "virtualmachineclusterinstancetypes.instancetype.kubevirt.io/v1beta1",
            "virtualmachinepreferences.instancetype.kubevirt.io/v1beta1",
            "virtualmachineclusterpreferences.instancetype.kubevirt.io/v1beta1",
            "datavolumes.cdi.kubevirt.io/v1beta1",
            "storageprofiles.cdi.kubevirt.io/v1beta1",
        ];
        assert_eq!(stored, expected);
    }
}
