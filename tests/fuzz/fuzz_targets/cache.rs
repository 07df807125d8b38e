//! A finding of a calibration as the cache keeps it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| quantscope_fuzz::cache(data));
