//! `machinist_fuzz_targets::values`, led by coverage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinist_fuzz_targets::values;

fuzz_target!(|text: &str| values::run(text));
