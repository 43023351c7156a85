//! `machinist_fuzz_targets::csr`, led by coverage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinist_fuzz_targets::csr;

fuzz_target!(|data: csr::Request<'_>| csr::run(data));
