//! Compares the codes of elements with reference codes while their error is measured.

use crate::quantization::kernels::array_lanes::LANES;
use crate::quantization::kernels::f16_bits::Bits16;
use crate::quantization::kernels::simd::Simd;

/// The reference that the codes of a sweep are compared with: codes, or nothing.
pub(super) trait Reference: Copy {
    type CodeCheck<S: Simd>: CodeCheck<S>;

    fn codes<S: Simd>(self, simd: S) -> Self::CodeCheck<S>;
}

/// A comparison of codes that advances with a sweep over the elements.
pub(super) trait CodeCheck<S: Simd>: Copy {
    /// Whether anything is compared.
    const IS_COMPARING: bool;

    /// Compares the next `count` codes, which are the low eight bits of the first lanes.
    fn compare(&mut self, simd: S, codes: S::U32, count: usize);

    /// Compares the next [`PAIR`](crate::quantization::kernels::array_lanes::PAIR) codes.
    fn compare_pair<E: Bits16>(&mut self, simd: S, pair: [S::U32; 2]);

    /// Whether all codes compared so far are equal.
    fn codes_match(&self, simd: S) -> bool;
}

/// Compares nothing.
impl Reference for () {
    type CodeCheck<S: Simd> = ();

    #[inline(always)]
    fn codes<S: Simd>(self, _l: S) {}
}

impl<S: Simd> CodeCheck<S> for () {
    const IS_COMPARING: bool = false;

    #[inline(always)]
    fn compare(&mut self, _l: S, _codes: S::U32, _count: usize) {}
    #[inline(always)]
    fn compare_pair<E: Bits16>(&mut self, _l: S, _pair: [S::U32; 2]) {}
    #[inline(always)]
    fn codes_match(&self, _l: S) -> bool {
        true
    }
}

/// The codes to compare with, one byte for each element.
#[derive(Clone, Copy)]
pub(super) struct ReferenceCodes<'a>(pub &'a [u8]);

impl<'a> Reference for ReferenceCodes<'a> {
    type CodeCheck<S: Simd> = CodeMismatch<'a, S>;

    #[inline(always)]
    fn codes<S: Simd>(self, simd: S) -> CodeMismatch<'a, S> {
        CodeMismatch { left: self.0, mismatches: simd.u32s([0; LANES]) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct CodeMismatch<'a, S: Simd> {
    left: &'a [u8],
    /// Non-zero once a code differs.
    mismatches: S::U32,
}

impl<S: Simd> CodeCheck<S> for CodeMismatch<'_, S> {
    const IS_COMPARING: bool = true;

    #[inline(always)]
    fn compare(&mut self, simd: S, codes: S::U32, count: usize) {
        let mismatches = match self.left.split_first_chunk() {
            Some((next, left)) if count >= LANES => {
                self.left = left;
                simd.differ8(codes, next)
            }
            _ => {
                let (next, left) = self.left.split_at(count.min(self.left.len()));
                self.left = left;
                let codes_match = simd.low8(codes).get(..count) == Some(next);
                simd.u32s([u32::from(!codes_match); LANES])
            }
        };
        self.mismatches = simd.or(self.mismatches, mismatches);
    }

    #[inline(always)]
    fn compare_pair<E: Bits16>(&mut self, simd: S, pair: [S::U32; 2]) {
        let mismatches = match self.left.split_first_chunk() {
            Some((next, left)) => {
                self.left = left;
                E::differ8(simd, pair, next)
            }
            None => simd.u32s([1; LANES]),
        };
        self.mismatches = simd.or(self.mismatches, mismatches);
    }

    #[inline(always)]
    fn codes_match(&self, simd: S) -> bool {
        simd.array_u32(self.mismatches) == [0; LANES]
    }
}
