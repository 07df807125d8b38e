//! A config.json beside a quantized model. The first byte selects the model.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| quantscope_fuzz::config(data));
