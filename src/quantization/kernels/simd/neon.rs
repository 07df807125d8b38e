//! Bit patterns of 16-bit elements as NEON vectors.
//!
//! The compiler vectorizes minima and maxima of arrays badly: it gathers the same lane of eight
//! vectors at a time.
//!
//! # Safety
//!
//! NEON is part of the AArch64 target. The transmutes are between arrays and vectors of the
//! same size, for which every bit pattern is valid.
#![allow(unsafe_code)]

use crate::quantization::kernels::array_lanes::{LANES, Lanes, PAIR};
use std::arch::aarch64::*;
use std::array::from_fn;
use std::mem::transmute;

pub(super) type U16 = [uint16x8_t; 4];

const _: () = assert!(LANES == 16 && cfg!(target_feature = "neon"));

#[inline(always)]
pub(super) fn load(raw: &[Lanes<[u8; 2]>; 2]) -> U16 {
    unsafe { transmute(*raw) }
}
#[inline(always)]
pub(super) fn splat(a: u16) -> U16 {
    unsafe { [vdupq_n_u16(a); 4] }
}
#[inline(always)]
pub(super) fn array(a: U16) -> [u16; PAIR] {
    unsafe { transmute(a) }
}
#[inline(always)]
pub(super) fn and(a: U16, b: U16) -> U16 {
    from_fn(|i| unsafe { vandq_u16(a[i], b[i]) })
}
#[inline(always)]
pub(super) fn min(a: U16, b: U16) -> U16 {
    from_fn(|i| unsafe { vminq_u16(a[i], b[i]) })
}
#[inline(always)]
pub(super) fn max(a: U16, b: U16) -> U16 {
    from_fn(|i| unsafe { vmaxq_u16(a[i], b[i]) })
}
#[inline(always)]
pub(super) fn max_signed(a: U16, b: U16) -> U16 {
    from_fn(|i| unsafe {
        let [a, b] = [vreinterpretq_s16_u16(a[i]), vreinterpretq_s16_u16(b[i])];
        vreinterpretq_u16_s16(vmaxq_s16(a, b))
    })
}
#[inline(always)]
pub(super) fn count_at_most(a: U16, b: U16) -> u32 {
    let [p, q, r, s]: U16 = from_fn(|i| unsafe { vcleq_u16(a[i], b[i]) });
    // A lane is -1 where the comparison holds.
    let sum = unsafe { vaddvq_u16(vaddq_u16(vaddq_u16(p, q), vaddq_u16(r, s))) };
    sum.wrapping_neg().into()
}
#[inline(always)]
pub(super) fn widen_bf16(a: U16) -> [Lanes<f32>; 2] {
    let words = a.map(|a| unsafe { vreinterpretq_u32_u16(a) });
    let even = words.map(|w| unsafe { vshlq_n_u32::<16>(w) });
    let odd = words.map(|w| unsafe { vandq_u32(w, vdupq_n_u32(0xFFFF_0000)) });
    unsafe {
        [
            transmute::<[uint32x4_t; 4], Lanes<f32>>(even),
            transmute::<[uint32x4_t; 4], Lanes<f32>>(odd),
        ]
    }
}
