//! The vector operations that kernels are written in, and their implementations.
//!
//! [`Level`] is implemented by arrays (the baseline of every target), AVX2 and AVX-512. Only
//! `kernels` may import this folder; it knows bits and vectors, not tensors.

mod array;
mod level;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

pub(super) use array::Baseline;
pub(super) use level::Level;
