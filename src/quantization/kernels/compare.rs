//! Values that were written, beside what their elements give: whether they are the same is
//! found out on the way, while the error is measured.

use crate::quantization::kernels::Quantization;
use crate::quantization::kernels::array_lanes::LANES;
use crate::quantization::kernels::dispatch::run;
use crate::quantization::kernels::error::{ErrorOf, error_by_channel};
use crate::quantization::kernels::f16_bits::Half;
use crate::quantization::kernels::level_tracker::Seen;
use crate::quantization::kernels::quantize::quantize;
use crate::quantization::kernels::rounding::{IntegersHalfEven, is_ordinary};
use crate::quantization::kernels::simd::Level;
use crate::quantization::{ErrorSums, QuantizationType, Rounding};
use crate::tensor::FloatType;

/// What quantizing the elements to int8 by `scale` loses, as `error_by_channel` has it, if that
/// gives just these values; `None` if it does not.
pub fn error_of_written(
    dtype: FloatType,
    bytes: &[u8],
    (scale, rounding): (f32, Rounding),
    written: &[i8],
    seen: &mut Seen,
) -> Option<ErrorSums> {
    if written.len() != bytes.len() / dtype.size() {
        return None;
    }
    let params = Quantization { scale, qtype: QuantizationType::QInt8, rounding };
    if dtype == FloatType::F64 || rounding != Rounding::HalfEven || !is_ordinary(scale) {
        let mut values = vec![0; written.len()];
        quantize(dtype, bytes, scale, rounding, &mut values);
        return (values == written).then(|| error_by_channel(dtype, bytes, params, None, seen).0);
    }
    let beside = Written(bytemuck::cast_slice(written));
    let (grid, watch) = (IntegersHalfEven, &mut seen.0);
    let found = run(ErrorOf { dtype, bytes, params, grid, cuts: None, watch, beside });
    found.are_same.then_some(found.sums)
}

/// What lies beside the elements of a sweep.
pub(super) trait Beside: Copy {
    type Codes<L: Level>: Codes<L>;

    fn codes<L: Level>(self, l: L) -> Self::Codes<L>;
}

/// What the codes of elements are compared with, element after element.
pub(super) trait Codes<L: Level>: Copy {
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
impl Beside for () {
    type Codes<L: Level> = ();

    #[inline(always)]
    fn codes<L: Level>(self, _l: L) {}
}

impl<L: Level> Codes<L> for () {
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

/// Codes that were written.
#[derive(Clone, Copy)]
pub(super) struct Written<'a>(pub &'a [u8]);

impl<'a> Beside for Written<'a> {
    type Codes<L: Level> = Compared<'a, L>;

    #[inline(always)]
    fn codes<L: Level>(self, l: L) -> Compared<'a, L> {
        Compared { left: self.0, unlike: l.u32s([0; LANES]) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Compared<'a, L: Level> {
    left: &'a [u8],
    /// Bits that differ.
    unlike: L::U32,
}

impl<L: Level> Codes<L> for Compared<'_, L> {
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
