//! KubeVirt's own CRDs: printed once by `kubevirt-crds`, kept in the tool cache, applied to infra clusters.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::wait::{await_condition, conditions},
};

use crate::{binaries, paths};

/// The CRDs of KubeVirt and CDI that machines need. Compiles their printer first where that is needed.
pub fn kubevirt() -> Result<Vec<CustomResourceDefinition>> {
    #[derive(serde::Deserialize)]
    struct List {
        items: Vec<CustomResourceDefinition>,
    }
    let text = fs::read(cached()?)?;
    let list: List = serde_json::from_slice(&text).context("reading the printed CRDs of KubeVirt")?;
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

fn cached() -> Result<PathBuf> {
    let cache = paths::tools_cache();
    fs::create_dir_all(&cache)?;
    let lock = fs::File::create(cache.join("kubevirt-crds.lock"))?;
    lock.lock()?;
    let (file, stamp_file) = (
        cache.join("kubevirt-crds.json"),
        cache.join("kubevirt-crds.stamp"),
    );
    let source = paths::workspace().join("tests/testbed/kubevirt-crds");
    let mut hasher = DefaultHasher::new();
    for part in ["Cargo.toml", "src/main.rs"] {
        fs::read(source.join(part))?.hash(&mut hasher);
    }
    let stamp = format!("{:016x}\n", hasher.finish());
    if file.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(file);
    }
    eprintln!("Printing KubeVirt's CRDs (compiles about 3 minutes the first time) ...");
    binaries::build(&["kubevirt-crds"])?;
    let printed = Command::new(binaries::find("kubevirt-crds")?)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting kubevirt-crds")?;
    if !printed.status.success() {
        bail!("kubevirt-crds ended with {}", printed.status);
    }
    fs::write(&file, printed.stdout)?;
    fs::write(&stamp_file, stamp)?;
    Ok(file)
}
