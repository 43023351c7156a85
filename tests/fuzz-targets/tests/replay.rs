//! Every seed, and every input of the kept corpora (`tests/fuzz/corpora/TARGET`) passes its target again.

#![allow(clippy::unwrap_used, reason = "a test fails so")]

use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::{Arbitrary as _, Unstructured};
use machinist_fuzz_targets::{Input, admission, answers, csr, seeds, values, watched};

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
fn the_corpus_of_watched_breaks_no_law() {
    for (path, bytes) in corpus("watched") {
        replay(&path, || {
            watched::run(&bytes);
        });
    }
}

#[test]
fn the_corpus_of_answers_breaks_no_law() {
    for (path, bytes) in corpus("answers") {
        replay(&path, || {
            answers::run(&bytes);
        });
    }
}

/// Names that a request for a node's certificate may and may not bear, and extensions with and without DER in them.
#[test]
fn requests_with_any_names_and_extensions_break_no_law() {
    let common_names = [
        "",
        "system:node:",
        "system:node:worker",
        "system:node:Worker",
        "system:node:worker.example",
        "system:node:worker\0",
        "system:nodes",
        "worker",
    ];
    let organizations = [None, Some(""), Some("system:nodes"), Some("system:masters")];
    let extensions: [&[u8]; 5] = [
        b"",
        b"\x30\x00",
        // A DNS name, an IPv4 address, and a length beyond the end.
        b"\x30\x08\x82\x06worker",
        b"\x30\x06\x87\x04\x0a\x00\x00\x01",
        b"\x30\x7f\x82\x06worker",
    ];
    for common_name in common_names {
        for organization in organizations {
            for extension in extensions {
                for signed in [true, false] {
                    let what = format!("{common_name:?} {organization:?} {extension:?} {signed}");
                    replay(Path::new(&what), || {
                        csr::run((common_name, organization, extension.to_vec(), signed));
                    });
                }
            }
        }
    }
}
