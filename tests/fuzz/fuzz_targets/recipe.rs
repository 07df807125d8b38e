//! A recipe for the demo.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| quantscope_fuzz::recipe(text));
