//! Code that is compiled once per instruction set.

use crate::quantization::kernels::simd::operations::Simd;

/// A loop over elements together with its arguments.
pub(in crate::quantization::kernels) trait Kernel {
    type Output;

    /// Whether the kernel is used too rarely to be compiled for AVX-512.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    const IS_RARELY_USED: bool = false;

    /// Runs the loop. Must be `#[inline(always)]`, like everything its loops call, so that it
    /// is compiled with the instructions of the caller.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}
