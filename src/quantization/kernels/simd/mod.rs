//! The vector operations that kernels are written in, and their implementations.
//!
//! [`Simd`] is implemented by arrays (the baseline of every target), AVX2 and AVX-512. Only
//! `kernels` may import this folder; it knows bits and vectors, not tensors.

mod array;
mod kernel;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod operations;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

pub(super) use array::Baseline;
pub(super) use kernel::Kernel;
pub(super) use operations::Simd;
