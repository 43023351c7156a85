//! `machinist_fuzz_targets::admission`, led by coverage.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use machinist_fuzz_targets::{Input, admission};

fuzz_target!(|data: &[u8]| -> Corpus {
    match admission::run(data) {
        Input::Taken => Corpus::Keep,
        Input::Rejected => Corpus::Reject,
    }
});
