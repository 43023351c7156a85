//! `machinist_fuzz_targets::watched`, led by coverage.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use machinist_fuzz_targets::{Input, watched};

fuzz_target!(|data: &[u8]| -> Corpus {
    match watched::run(data) {
        Input::Taken => Corpus::Keep,
        Input::Rejected => Corpus::Reject,
    }
});
