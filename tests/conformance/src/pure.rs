//! What the pure half must do: the cases that need no infra cluster.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use machinist_shared::api::config_var::LookupError;
use machinist_shared::api::decode::Fields;
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::provider::{Env, Overridden, ResolvedProviderSpec, Spec};
use serde_json::{Map, Value, json};

use crate::ProviderBed;
use crate::bed::PEER_CLUSTER;

/// Where it would be in a Machine.
const PATH: &str = "spec.providerSpec.value";

/// A `cloudProviderSpec`, read and judged.
fn judged<B: ProviderBed>(bed: &B, cloud_provider_spec: &Value) -> (Option<Arc<dyn Spec>>, Report) {
    let value = json!({"cloudProviderSpec": cloud_provider_spec});
    let mut report = Report::new();
    let fields = Fields::of(&value, FieldPath::new(PATH), &mut report);
    let read =
        fields.and_then(|mut fields| bed.pure().decode(&fields.take("cloudProviderSpec"), &mut report));
    if let Some(spec) = &read {
        let path = FieldPath::new(PATH).child("cloudProviderSpec");
        spec.validate(Overridden::default(), &path, &mut report);
    }
    (read, report)
}

/// The bed's spec, resolved.
pub(crate) fn resolved<B: ProviderBed>(bed: &B) -> Result<Arc<dyn ResolvedProviderSpec>> {
    let (read, report) = judged(bed, &bed.cloud_provider_spec());
    let spec = read.with_context(|| format!("it cannot be read: {:?}", report.errors))?;
    Ok(spec.resolve(&Env::new(|_| None), &|_| Err(LookupError::NoObject))?)
}

pub(crate) fn valid<B: ProviderBed>(bed: &B) -> Result<()> {
    let (read, report) = judged(bed, &bed.cloud_provider_spec());
    ensure!(report.is_ok(), "it is refused: {:?}", report.errors);
    let spec = read.context("it is not read")?;
    let references = spec.references();
    let credential = spec.credential().reference();
    ensure!(
        references.iter().copied().eq(credential),
        "the credential's reference is the only one: {references:?}"
    );
    let name = spec.cluster_name(&Env::new(|_| None), &|_| Err(LookupError::NoObject))?;
    ensure!(
        name == PEER_CLUSTER && resolved(bed)?.cluster_name() == PEER_CLUSTER,
        "the cluster is called {name}"
    );
    Ok(())
}

pub(crate) fn unknown_field<B: ProviderBed>(bed: &B) -> Result<()> {
    let mut wrong = bed.cloud_provider_spec();
    wrong["clusterNam"] = json!("x");
    let (_, report) = judged(bed, &wrong);
    let path = format!("{PATH}.cloudProviderSpec.clusterNam");
    let names_path = |error: &machinist_shared::api::field::FieldError| error.path.to_string() == path;
    ensure!(
        report.errors.iter().any(names_path),
        "an unknown key is not reported: {report:?}"
    );
    let (_, report) = judged(bed, &json!("no object"));
    ensure!(!report.is_ok(), "a string is accepted as a spec");
    Ok(())
}

/// The spec of a Machine.
fn machine<B: ProviderBed>(bed: &B) -> Map<String, Value> {
    let value = json!({"cloudProvider": bed.pure().name(), "cloudProviderSpec": bed.cloud_provider_spec()});
    let spec = json!({"metadata": {"labels": {}}, "providerSpec": {"value": value}});
    spec.as_object().cloned().unwrap_or_default()
}

pub(crate) fn defaults_twice<B: ProviderBed>(bed: &B) -> Result<()> {
    let mut spec = machine(bed);
    bed.pure().add_defaults(&mut spec, None, "one");
    let once = spec.clone();
    bed.pure().add_defaults(&mut spec, None, "one");
    ensure!(once == spec, "{once:?} becomes {spec:?}");
    let mut unreadable = Map::from_iter([(
        "providerSpec".to_owned(),
        json!({"value": {"cloudProviderSpec": 7}}),
    )]);
    bed.pure().add_defaults(&mut unreadable, None, "one");
    let left = Value::from(unreadable);
    ensure!(
        left.pointer("/providerSpec/value/cloudProviderSpec") == Some(&json!(7)),
        "an unreadable spec is changed: {left}"
    );
    Ok(())
}

/// Another template rolls every Machine.
pub(crate) fn stored_stays<B: ProviderBed>(bed: &B) -> Result<()> {
    let mut stored = machine(bed);
    bed.pure().add_defaults(&mut stored, None, "one");
    let mut applied = machine(bed);
    bed.pure().add_defaults(&mut applied, Some(&stored), "another");
    ensure!(
        stored == applied,
        "the spec applied again is {applied:?}, not {stored:?}"
    );
    Ok(())
}
