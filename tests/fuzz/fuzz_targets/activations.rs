//! Recorded activations, and llama.cpp's importance matrix.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| quantscope_fuzz::activations(data));
