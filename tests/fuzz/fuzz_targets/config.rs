//! A config.json beside a quantized model; the first byte says beside which.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| quantscope_fuzz::config(data));
