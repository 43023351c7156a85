//! `machinist_fuzz_targets::answers`, led by coverage.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use machinist_fuzz_targets::{Input, answers};

fuzz_target!(|data: &[u8]| -> Corpus {
    match answers::run(data) {
        Input::Taken => Corpus::Keep,
        Input::Rejected => Corpus::Reject,
    }
});
