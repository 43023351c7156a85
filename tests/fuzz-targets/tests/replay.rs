//! Every seed and every input of the kept corpora (`tests/fuzz/corpora/TARGET`) passes its target again.

#![allow(clippy::unwrap_used, reason = "a test fails so")]

use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::{Arbitrary as _, Unstructured};
use machinist_fuzz_targets::{Input, admission, csr, seeds, values};

/// The inputs that the fuzzer found worth keeping, a file each.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpora")
        .join(target);
    let inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    assert!(
        inputs.len() >= 50,
        "{} inputs in {}",
        inputs.len(),
        folder.display()
    );
    inputs
}

/// Names the input that breaks a law.
fn replay(path: &Path, run: impl FnOnce() + std::panic::UnwindSafe) {
    let outcome = std::panic::catch_unwind(run);
    assert!(outcome.is_ok(), "{} breaks a law", path.display());
}

#[test]
fn the_seeds_of_admission_break_no_law() {
    let manifests = seeds::manifests().unwrap();
    let seeds = seeds::of(&manifests).unwrap();
    assert!(seeds.len() >= 10, "{} seeds of {manifests:?}", seeds.len());
    for (name, bytes) in seeds {
        replay(Path::new(&name), || {
            assert_eq!(admission::run(bytes.as_bytes()), Input::Taken);
        });
    }
}

#[test]
fn the_corpus_of_admission_breaks_no_law() {
    for (path, bytes) in corpus("admission") {
        replay(&path, || {
            admission::run(&bytes);
        });
    }
}

#[test]
fn the_corpus_of_values_breaks_no_law() {
    for (path, bytes) in corpus("values") {
        replay(&path, || {
            if let Ok(text) = <&str>::arbitrary_take_rest(Unstructured::new(&bytes)) {
                values::run(text);
            }
        });
    }
}

#[test]
fn the_corpus_of_csr_breaks_no_law() {
    for (path, bytes) in corpus("csr") {
        replay(&path, || {
            if let Ok(data) = csr::Request::arbitrary_take_rest(Unstructured::new(&bytes)) {
                csr::run(data);
            }
        });
    }
}
