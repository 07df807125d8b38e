//! A config.json, a zero byte, and stored tensors with arbitrary names, types and shapes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| quantscope_fuzz::layout(data));
