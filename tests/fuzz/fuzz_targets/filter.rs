//! A filter or pattern.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| quantscope_fuzz::filter(text));
