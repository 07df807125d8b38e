//! A record of the analysis cache.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| quantscope_fuzz::cache(data));
