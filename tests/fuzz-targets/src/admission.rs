//! Admission of Machines, MachineSets and MachineDeployments, with arbitrary bytes: decode, default, validate, patch, render. The
//! input is one JSON value, the object. A second one after it is the stored object.
//!
//! The laws are the properties in `shared/tests/laws.rs`; coverage guides the fuzzer to their corner cases.

use std::collections::BTreeMap;

use machinist_shared::admission::template::{equal, equal_in_place, hash};
use machinist_shared::admission::{
    AdmissionSettings, Author, mutate_create, mutate_deployment, mutate_set, mutate_update, patch,
    validate_create, validate_deployment, validate_set, validate_update,
};
use machinist_shared::api::field::{FieldPath, Report};
use machinist_shared::kubevirt::facts::{Facts, facts_needed};
use machinist_shared::kubevirt::render::{RenderInput, render};
use machinist_shared::kubevirt::resolved::resolve;
use machinist_shared::provider::Env;
use machinist_shared::provider_spec::ProviderConfig;
use serde_json::{Deserializer, Value};

use crate::Input;

/// One input; [`Input::Rejected`] if it is not one or two JSON values.
///
/// # Panics
/// If a law is broken.
pub fn run(data: &[u8]) -> Input {
    let mut values = Deserializer::from_slice(data).into_iter::<Value>();
    let Some(Ok(object)) = values.next() else {
        return Input::Rejected;
    };
    let old = match values.next() {
        None => None,
        Some(Ok(old)) => Some(old),
        Some(Err(_)) => return Input::Rejected,
    };
    let settings = AdmissionSettings::default();
    create(&object, &settings);
    deployment(old.as_ref(), &object, &settings);
    set(old.as_ref(), &object, &settings);
    if let Some(old) = &old {
        update(old, &object, &settings);
    }
    update(&object, &object, &settings);
    Input::Taken
}

fn create(object: &Value, settings: &AdmissionSettings) {
    let stored = mutate_create(object, settings);
    leads(object, &stored);
    assert_eq!(
        mutate_create(&stored, settings),
        stored,
        "defaulting twice is not defaulting once"
    );

    let before = validate_create(object, Author::Person, settings);
    let after = validate_create(&stored, Author::Person, settings);
    assert!(
        !before.is_ok() || after.is_ok(),
        "defaults broke a valid object: {:?}",
        after.errors
    );
    places(&after);
    let controller = validate_create(&stored, Author::SetController, settings);
    let is_found = |error| after.errors.contains(error);
    assert!(
        controller.errors.iter().all(is_found),
        "our set controller is refused for more"
    );
    if after.is_ok() {
        renders(&stored);
    }
}

fn update(old: &Value, new: &Value, settings: &AdmissionSettings) {
    let stored = mutate_update(old, new);
    leads(new, &stored);
    assert_eq!(
        mutate_update(old, &stored),
        stored,
        "defaulting twice is not defaulting once"
    );
    let report = validate_update(old, &stored, Author::Person, settings);
    places(&report);
    assert!(
        old != new || report.is_ok() || !new.is_object(),
        "refused what is stored: {:?}",
        report.errors
    );
}

fn deployment(old: Option<&Value>, new: &Value, settings: &AdmissionSettings) {
    let stored = mutate_deployment(old, new, settings);
    leads(new, &stored);
    assert_eq!(
        mutate_deployment(old, &stored, settings),
        stored,
        "defaulting twice is not defaulting once"
    );
    assert_eq!(
        mutate_deployment(Some(&stored), &stored, settings),
        stored,
        "an update that changes nothing changes something"
    );
    places(&validate_deployment(old, &stored, settings));
    let report = validate_deployment(Some(&stored), &stored, settings);
    assert!(
        report.is_ok() || !new.is_object(),
        "refused what is stored: {:?}",
        report.errors
    );
}

fn set(old: Option<&Value>, new: &Value, settings: &AdmissionSettings) {
    let person = Author::Person;
    let stored = mutate_set(old, new, person, settings);
    leads(new, &stored);
    assert_eq!(
        mutate_set(old, &stored, person, settings),
        stored,
        "defaulting twice is not defaulting once"
    );
    assert_eq!(
        mutate_set(Some(&stored), &stored, person, settings),
        stored,
        "an update that changes nothing changes something"
    );
    assert_eq!(
        &mutate_set(old, new, Author::SetController, settings),
        new,
        "our own controller's bytes are changed"
    );
    let judged = validate_set(old, &stored, person, settings);
    places(&judged);
    let controller = validate_set(old, &stored, Author::SetController, settings);
    assert!(
        controller
            .errors
            .iter()
            .all(|error| judged.errors.contains(error)),
        "our set controller is refused for more"
    );
    let report = validate_set(Some(&stored), &stored, person, settings);
    assert!(
        report.is_ok() || !new.is_object(),
        "refused what is stored: {:?}",
        report.errors
    );
    alike(new, &stored);
}

/// Equal templates are equal in every respect.
fn alike(written: &Value, stored: &Value) {
    let (Some(written), Some(stored)) = (
        written.pointer("/spec/template"),
        stored.pointer("/spec/template"),
    ) else {
        return;
    };
    if equal(written, stored) {
        assert_eq!(hash(written), hash(stored), "equal templates of another number");
        assert!(
            equal_in_place(written, stored),
            "equal templates, and others in place"
        );
    }
}

/// Applying a patch yields the defaulted object.
fn leads(before: &Value, after: &Value) {
    let mut patched = before.clone();
    json_patch::patch(&mut patched, &patch(before, after).0).expect("the patch applies");
    assert_eq!(&patched, after, "the patch leads elsewhere");
}

/// Every error has a path and a message.
fn places(report: &Report) {
    for error in &report.errors {
        assert!(
            !error.path.to_string().is_empty() && !error.message.is_empty(),
            "{error}"
        );
    }
}

/// Admitted objects can be rendered, whatever their references contain.
fn renders(machine: &Value) {
    let (path, mut report) = (FieldPath::new("spec.providerSpec.value"), Report::new());
    let config = ProviderConfig::decode(machine.pointer("/spec/providerSpec/value"), &path, &mut report);
    let spec = config
        .cloud_provider_spec
        .expect("an admitted Machine has a provider's part");
    let env = Env {
        kubeconfig: "environment".to_owned(),
        ..Env::new(|_| None)
    };
    let resolved = match resolve(spec.of().expect("it is KubeVirt's"), &env, &|_| {
        Ok("true".to_owned())
    }) {
        Ok(resolved) => resolved,
        // A reference may contain a value that admission has not validated.
        Err(_) if !spec.references().is_empty() => return,
        Err(error) => panic!("an admitted Machine does not resolve: {error}"),
    };
    let _ = facts_needed(&resolved);
    let texts = |pointer| -> BTreeMap<String, String> {
        let map = machine.pointer(pointer).and_then(Value::as_object);
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        map.into_iter().flatten().filter_map(text).collect()
    };
    let vm = render(&RenderInput {
        name: machine
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default(),
        uid: "uid",
        labels: &texts("/metadata/labels"),
        annotations: &texts("/metadata/annotations"),
        machine_deployment: None,
        cluster_uid: "cluster",
        namespace: &env.infra_namespace,
        spec: &resolved,
        facts: &Facts::default(),
        user_data_secret: "secret",
        ignition: None,
    });
    assert!(
        vm.pointer("/spec/template/spec").is_some_and(Value::is_object),
        "no virtual machine: {vm}"
    );
}
