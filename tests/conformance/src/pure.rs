//! What the pure half must do: the cases that need no place.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use machinist_shared::api::config_var::LookupError;
use machinist_shared::api::decode::Fields;
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::provider::{Env, Overridden, ResolvedProviderSpec, Spec};
use serde_json::{Map, Value, json};

use crate::Bed;
use crate::bed::PEER;

/// Where it would be in a Machine.
const PATH: &str = "spec.providerSpec.value";

/// A `cloudProviderSpec`, read and judged.
fn judged<B: Bed>(bed: &B, written: &Value) -> (Option<Arc<dyn Spec>>, Report) {
    let value = json!({"cloudProviderSpec": written});
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

/// What the bed's spec comes to.
pub(crate) fn blueprint<B: Bed>(bed: &B) -> Result<Arc<dyn ResolvedProviderSpec>> {
    let (read, report) = judged(bed, &bed.written());
    let spec = read.with_context(|| format!("it cannot be read: {:?}", report.errors))?;
    Ok(spec.resolve(&Env::new(|_| None), &|_| Err(LookupError::NoObject))?)
}

pub(crate) fn right<B: Bed>(bed: &B) -> Result<()> {
    let (read, report) = judged(bed, &bed.written());
    ensure!(report.is_ok(), "it is refused: {:?}", report.errors);
    let spec = read.context("it is not read")?;
    let references = spec.references();
    let credential = spec.credential().reference();
    ensure!(
        references.iter().copied().eq(credential),
        "the credential's reference is the only one, and told: {references:?}"
    );
    let name = spec.cluster_name(&Env::new(|_| None), &|_| Err(LookupError::NoObject))?;
    ensure!(
        name == PEER && blueprint(bed)?.cluster_name() == PEER,
        "the cluster is called {name}"
    );
    Ok(())
}

pub(crate) fn mistake<B: Bed>(bed: &B) -> Result<()> {
    let mut wrong = bed.written();
    wrong["clusterNam"] = json!("x");
    let (_, report) = judged(bed, &wrong);
    let path = format!("{PATH}.cloudProviderSpec.clusterNam");
    let told = |error: &machinist_shared::api::field::FieldError| error.path.to_string() == path;
    ensure!(
        report.errors.iter().any(told),
        "an unknown key is not told: {report:?}"
    );
    let (_, report) = judged(bed, &json!("no object"));
    ensure!(!report.is_ok(), "a text is taken for a spec");
    Ok(())
}

/// The spec of a Machine.
fn machine<B: Bed>(bed: &B) -> Map<String, Value> {
    let value = json!({"cloudProvider": bed.pure().name(), "cloudProviderSpec": bed.written()});
    let spec = json!({"metadata": {"labels": {}}, "providerSpec": {"value": value}});
    spec.as_object().cloned().unwrap_or_default()
}

pub(crate) fn defaults_twice<B: Bed>(bed: &B) -> Result<()> {
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
        "what cannot be read is not left alone: {left}"
    );
    Ok(())
}

/// Another template rolls every Machine.
pub(crate) fn stored_stays<B: Bed>(bed: &B) -> Result<()> {
    let mut stored = machine(bed);
    bed.pure().add_defaults(&mut stored, None, "one");
    let mut applied = machine(bed);
    bed.pure().add_defaults(&mut applied, Some(&stored), "another");
    ensure!(
        stored == applied,
        "what is applied anew is {applied:?}, not {stored:?}"
    );
    Ok(())
}
