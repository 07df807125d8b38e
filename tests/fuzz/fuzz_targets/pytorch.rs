//! A file of `torch.save`, in the zip or the legacy format.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| quantscope_fuzz::open("m.pt", data));
