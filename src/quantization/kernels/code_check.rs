//! Comparing the codes of elements with reference codes while their error is measured.

use crate::quantization::kernels::array_lanes::LANES;
use crate::quantization::kernels::f16_bits::Half;
use crate::quantization::kernels::simd::Level;

/// What lies beside the elements of a sweep.
pub(super) trait Reference: Copy {
    type CodeCheck<L: Level>: CodeCheck<L>;

    fn codes<L: Level>(self, l: L) -> Self::CodeCheck<L>;
}

/// What the codes of elements are compared with, element after element.
pub(super) trait CodeCheck<L: Level>: Copy {
    /// Whether there is anything to compare with.
    const ARE_THERE: bool;

    /// The low eight bits of the first `count` lanes are the codes of the next elements.
    fn compare(&mut self, l: L, codes: L::U32, count: usize);

    /// Those of a pair's lanes are.
    fn compare_pair<E: Half>(&mut self, l: L, pair: [L::U32; 2]);

    /// Whether all that were compared are the same.
    fn are_same(&self, l: L) -> bool;
}

/// Nothing.
impl Reference for () {
    type CodeCheck<L: Level> = ();

    #[inline(always)]
    fn codes<L: Level>(self, _l: L) {}
}

impl<L: Level> CodeCheck<L> for () {
    const ARE_THERE: bool = false;

    #[inline(always)]
    fn compare(&mut self, _l: L, _codes: L::U32, _count: usize) {}
    #[inline(always)]
    fn compare_pair<E: Half>(&mut self, _l: L, _pair: [L::U32; 2]) {}
    #[inline(always)]
    fn are_same(&self, _l: L) -> bool {
        true
    }
}

/// CodeCheck that were written.
#[derive(Clone, Copy)]
pub(super) struct ReferenceCodes<'a>(pub &'a [u8]);

impl<'a> Reference for ReferenceCodes<'a> {
    type CodeCheck<L: Level> = CodeMismatch<'a, L>;

    #[inline(always)]
    fn codes<L: Level>(self, l: L) -> CodeMismatch<'a, L> {
        CodeMismatch { left: self.0, unlike: l.u32s([0; LANES]) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct CodeMismatch<'a, L: Level> {
    left: &'a [u8],
    /// Bits that differ.
    unlike: L::U32,
}

impl<L: Level> CodeCheck<L> for CodeMismatch<'_, L> {
    const ARE_THERE: bool = true;

    #[inline(always)]
    fn compare(&mut self, l: L, codes: L::U32, count: usize) {
        let unlike = match self.left.split_first_chunk() {
            Some((next, left)) if count >= LANES => {
                self.left = left;
                l.unlike8(codes, next)
            }
            _ => {
                let (next, left) = self.left.split_at(count.min(self.left.len()));
                self.left = left;
                let are_same = l.low8(codes).get(..count) == Some(next);
                l.u32s([u32::from(!are_same); LANES])
            }
        };
        self.unlike = l.or(self.unlike, unlike);
    }

    #[inline(always)]
    fn compare_pair<E: Half>(&mut self, l: L, pair: [L::U32; 2]) {
        let unlike = match self.left.split_first_chunk() {
            Some((next, left)) => {
                self.left = left;
                E::unlike8(l, pair, next)
            }
            None => l.u32s([1; LANES]),
        };
        self.unlike = l.or(self.unlike, unlike);
    }

    #[inline(always)]
    fn are_same(&self, l: L) -> bool {
        l.array_u32(self.unlike) == [0; LANES]
    }
}
