//! One body, compiled once for each instruction set, chosen when the program runs.
//!
//! A kernel is plain code over [`LANES`]-element arrays, always inlined, generic over a
//! [`Level`]. It is instantiated inside functions that enable the level's instructions, so
//! the compiler turns the arrays into its vectors. The order of every operation is the
//! body's, never the level's: results are bit-identical on all of them.
//!
//! This is the only file with `unsafe`. A level other than [`Baseline`] is a private unit
//! struct that exists only inside the function that enables its features, which [`run_at`]
//! calls only after the processor reported every one of them; holding one is the proof
//! that its intrinsics may run.
#![allow(unsafe_code)]

use super::lanes::{LANES, Lanes, map, narrow_f16, widen_f16};
use super::levels::Watch;
use std::sync::OnceLock;

/// A loop over elements with everything it needs.
pub(super) trait Kernel {
    type Output;

    /// Not worth compiling for the widest vectors: the next narrower will do.
    const RARE: bool = false;

    /// Must be `#[inline(always)]`, as everything it calls in its loops.
    fn run<L: Level>(self, level: L) -> Self::Output;
}

/// What differs between instruction sets: never a result, only how it is reached.
pub(super) trait Level: Copy {
    /// Whether a fused multiply-add is one instruction.
    const FMA: bool;

    fn widen_f16(self, halves: Lanes<u16>) -> Lanes<f32>;

    /// To nearest even; NaN stays NaN.
    fn narrow_f16(self, singles: Lanes<f32>) -> Lanes<u16>;

    /// The low eight bits of every lane.
    fn low8(self, words: Lanes<u32>) -> Lanes<u8>;

    /// The low sixteen bits of every lane.
    fn low16(self, words: Lanes<u32>) -> Lanes<u16>;

    /// Bit 0 is set in at least one lane whenever a lane's code, the low eight bits of
    /// `codes`, is not in the watched set; `q` is the value that code stands for.
    fn unseen(self, watch: &Watch, codes: Lanes<u32>, q: Lanes<f32>) -> Lanes<u32>;
}

/// What the target guarantees: SSE2 on x86-64, NEON on AArch64.
#[derive(Clone, Copy)]
pub(super) struct Baseline;

impl Level for Baseline {
    const FMA: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

    #[inline(always)]
    fn widen_f16(self, halves: Lanes<u16>) -> Lanes<f32> {
        widen_f16(halves)
    }

    #[inline(always)]
    fn narrow_f16(self, singles: Lanes<f32>) -> Lanes<u16> {
        narrow_f16(singles)
    }

    #[inline(always)]
    fn low8(self, words: Lanes<u32>) -> Lanes<u8> {
        map(words, |word| word as u8)
    }

    #[inline(always)]
    fn low16(self, words: Lanes<u32>) -> Lanes<u16> {
        map(words, |word| word as u16)
    }

    #[inline(always)]
    fn unseen(self, watch: &Watch, _: Lanes<u32>, q: Lanes<f32>) -> Lanes<u32> {
        watch.beyond(q)
    }
}

/// An instruction set a kernel was compiled for.
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

    /// The last supported one of [`Isa::ALL`].
    fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            Isa::ALL.iter().rev().copied().find(|isa| isa.is_supported()).unwrap_or(Isa::Baseline)
        })
    }
}

/// Runs `kernel` with the best instructions of this machine.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    match Isa::best() {
        Isa::Baseline => kernel.run(Baseline),
        // SAFETY: `best` returned this set, so the processor has its features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::avx2(kernel) },
        // SAFETY: as above; the features of AVX2 are among those of AVX-512.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { if K::RARE { x86::avx2(kernel) } else { x86::avx512(kernel) } },
    }
}

/// Runs `kernel` with the instructions of `isa`; `None` if this machine lacks them, or
/// the kernel was not compiled for them.
#[cfg(test)]
pub(super) fn run_at<K: Kernel>(isa: Isa, kernel: K) -> Option<K::Output> {
    isa.is_supported().then_some(())?;
    match isa {
        Isa::Baseline => Some(kernel.run(Baseline)),
        // SAFETY: `is_supported` has just said that the processor has these features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(unsafe { x86::avx2(kernel) }),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            if K::RARE {
                None
            } else {
                Some(unsafe { x86::avx512(kernel) })
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, LANES, Lanes, Level, Watch};
    use std::arch::x86_64::*;
    use std::mem::transmute;

    #[derive(Clone, Copy)]
    struct Avx2(());

    #[derive(Clone, Copy)]
    struct Avx512(());

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }

    // The transmutes below are between arrays and vectors of the same size, for which
    // every bit pattern is valid; the intrinsics may run because the level exists.
    const _: () = assert!(LANES == 16);

    impl Level for Avx2 {
        const FMA: bool = true;

        #[inline(always)]
        fn widen_f16(self, halves: Lanes<u16>) -> Lanes<f32> {
            // SAFETY: see above.
            unsafe {
                let [low, high]: [__m128i; 2] = transmute(halves);
                transmute([_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)])
            }
        }

        #[inline(always)]
        fn narrow_f16(self, singles: Lanes<f32>) -> Lanes<u16> {
            // SAFETY: see above.
            unsafe {
                let [low, high]: [__m256; 2] = transmute(singles);
                transmute([
                    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low),
                    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high),
                ])
            }
        }

        #[inline(always)]
        fn low8(self, words: Lanes<u32>) -> Lanes<u8> {
            // SAFETY: see above. Packing saturates, so the high bits are cleared first; it
            // works on halves of its operands, which the permutation puts in order.
            unsafe {
                let [low, high]: [__m256i; 2] = transmute(words);
                let mask = _mm256_set1_epi32(0xFF);
                let low = _mm256_and_si256(low, mask);
                let high = _mm256_and_si256(high, mask);
                let packed =
                    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
                let (low, high) =
                    (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
                transmute(_mm_packus_epi16(low, high))
            }
        }

        #[inline(always)]
        fn low16(self, words: Lanes<u32>) -> Lanes<u16> {
            // SAFETY: as in `low8`.
            unsafe {
                let [low, high]: [__m256i; 2] = transmute(words);
                let mask = _mm256_set1_epi32(0xFFFF);
                let low = _mm256_and_si256(low, mask);
                let high = _mm256_and_si256(high, mask);
                transmute(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high)))
            }
        }

        #[inline(always)]
        fn unseen(self, watch: &Watch, codes: Lanes<u32>, _: Lanes<f32>) -> Lanes<u32> {
            // SAFETY: see above. A permutation reads the low three bits of an index.
            unsafe {
                let table: __m256i = transmute(watch.missing);
                let halves: [__m256i; 2] = transmute(codes);
                transmute(halves.map(|codes| {
                    let word = _mm256_permutevar8x32_epi32(table, _mm256_srli_epi32::<5>(codes));
                    _mm256_srlv_epi32(word, _mm256_and_si256(codes, _mm256_set1_epi32(31)))
                }))
            }
        }
    }

    impl Level for Avx512 {
        const FMA: bool = true;

        #[inline(always)]
        fn widen_f16(self, halves: Lanes<u16>) -> Lanes<f32> {
            // SAFETY: see above.
            unsafe { transmute(_mm512_cvtph_ps(transmute::<Lanes<u16>, __m256i>(halves))) }
        }

        #[inline(always)]
        fn narrow_f16(self, singles: Lanes<f32>) -> Lanes<u16> {
            // SAFETY: see above.
            unsafe {
                transmute(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(transmute::<
                    Lanes<f32>,
                    __m512,
                >(singles)))
            }
        }

        #[inline(always)]
        fn low8(self, words: Lanes<u32>) -> Lanes<u8> {
            // SAFETY: see above.
            unsafe { transmute(_mm512_cvtepi32_epi8(transmute::<Lanes<u32>, __m512i>(words))) }
        }

        #[inline(always)]
        fn low16(self, words: Lanes<u32>) -> Lanes<u16> {
            // SAFETY: see above.
            unsafe { transmute(_mm512_cvtepi32_epi16(transmute::<Lanes<u32>, __m512i>(words))) }
        }

        #[inline(always)]
        fn unseen(self, watch: &Watch, codes: Lanes<u32>, _: Lanes<f32>) -> Lanes<u32> {
            // SAFETY: see above. A permutation reads the low four bits of an index, and the
            // table is there twice; a rotation reads the low five bits of its count.
            unsafe {
                let table = _mm512_broadcast_i64x4(transmute::<[u32; 8], __m256i>(watch.missing));
                let codes: __m512i = transmute(codes);
                let word = _mm512_permutexvar_epi32(_mm512_srli_epi32::<5>(codes), table);
                transmute(_mm512_rorv_epi32(word, codes))
            }
        }
    }
}
