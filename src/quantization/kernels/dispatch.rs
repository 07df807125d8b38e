//! Runs a kernel with the best instruction set of the processor.
//!
//! The body of a kernel is generic over [`Simd`] and always inlined. It is instantiated once
//! for each instruction set, in a function that enables the set's instructions. The order of
//! all operations is fixed by the body, so results are bit-identical on every instruction
//! set.
//!
//! Unsafe code is confined to the calls of these functions and to the implementations of
//! [`Simd`].
//!
//! [`Simd`]: crate::quantization::kernels::simd::Simd
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use crate::quantization::kernels::simd::x86;
use crate::quantization::kernels::simd::{Baseline, Kernel, Simd};
use std::sync::OnceLock;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    pub(super) const ALL: &[Isa] = &[
        Isa::Baseline,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512,
    ];

    fn is_supported(self) -> bool {
        match self {
            Isa::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        }
    }

    /// The last set in [`Isa::ALL`] that the processor supports.
    fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            Isa::ALL.iter().rev().copied().find(|isa| isa.is_supported()).unwrap_or(Isa::Baseline)
        })
    }
}

/// A loop that the compiler vectorizes without explicit vector operations.
pub(crate) trait Loop {
    type Output;

    /// Runs the loop. Must be `#[inline(always)]`, like everything that it calls.
    fn run(self) -> Self::Output;
}

/// A [`Loop`] as a [`Kernel`].
struct Plain<L>(L);

impl<L: Loop> Kernel for Plain<L> {
    type Output = L::Output;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> L::Output {
        self.0.run()
    }
}

/// Runs a loop compiled for the best instruction set that the processor supports.
pub(crate) fn run_loop<L: Loop>(body: L) -> L::Output {
    run(Plain(body))
}

/// Runs `kernel` with the best instruction set that the processor supports.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    match Isa::best() {
        Isa::Baseline => kernel.run(Baseline),
        // SAFETY: `best` returned this set, so the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::avx2(kernel) },
        // SAFETY: as above; the features of AVX2 are among those of AVX-512.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe {
            if K::IS_RARELY_USED { x86::avx2(kernel) } else { x86::avx512(kernel) }
        },
    }
}

/// Runs `kernel` with the instructions of `isa`; `None` if the processor does not support
/// them or the kernel is not compiled for them.
#[cfg(test)]
pub(super) fn run_at<K: Kernel>(isa: Isa, kernel: K) -> Option<K::Output> {
    isa.is_supported().then_some(())?;
    match isa {
        Isa::Baseline => Some(kernel.run(Baseline)),
        // SAFETY: `is_supported` just confirmed that the processor has these features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(unsafe { x86::avx2(kernel) }),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            if K::IS_RARELY_USED {
                None
            } else {
                Some(unsafe { x86::avx512(kernel) })
            }
        }
    }
}
