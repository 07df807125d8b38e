//! What is typed as a filter, or given as a pattern.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| quantscope_fuzz::filter(text));
