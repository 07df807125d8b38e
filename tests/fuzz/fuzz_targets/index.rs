//! An index of shards beside two shards, and a third outside of the model's directory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| quantscope_fuzz::index(data));
