//! Values that were written, beside what their elements give: whether they are the same is
//! found out on the way, while the error is measured.

use super::Quantization;
use super::dispatch::run;
use super::error::{ErrorOf, error_by_channel};
use super::levels::Seen;
use super::quantize::quantize;
use super::rounding::{IntegersHalfEven, is_ordinary};
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
    let how = Quantization { scale, qtype: QuantizationType::QInt8, rounding };
    if dtype == FloatType::F64 || rounding != Rounding::HalfEven || !is_ordinary(scale) {
        let mut values = vec![0; written.len()];
        quantize(dtype, bytes, scale, rounding, &mut values);
        return (values == written).then(|| error_by_channel(dtype, bytes, how, None, seen).0);
    }
    let codes = Written::new(bytemuck::cast_slice(written));
    let (grid, watch) = (IntegersHalfEven, &mut seen.0);
    let found = run(ErrorOf { dtype, bytes, how, grid, cuts: None, watch, codes });
    found.codes.are_same().then_some(found.sums)
}

/// What the codes of elements are compared with, element after element.
pub(super) trait Codes: Copy {
    /// Whether there is anything to compare with.
    const ARE_THERE: bool;

    /// The first `count` of `codes` are those of the next elements.
    fn compare<const N: usize>(&mut self, codes: [u8; N], count: usize);
}

/// With nothing.
impl Codes for () {
    const ARE_THERE: bool = false;

    #[inline(always)]
    fn compare<const N: usize>(&mut self, _codes: [u8; N], _count: usize) {}
}

/// With those that were written.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    left: &'a [u8],
    are_same: bool,
}

impl<'a> Written<'a> {
    pub(super) fn new(codes: &'a [u8]) -> Self {
        Written { left: codes, are_same: true }
    }

    /// Whether all that were compared are.
    pub(super) fn are_same(&self) -> bool {
        self.are_same
    }
}

impl Codes for Written<'_> {
    const ARE_THERE: bool = true;

    #[inline(always)]
    fn compare<const N: usize>(&mut self, codes: [u8; N], count: usize) {
        match self.left.split_first_chunk::<N>() {
            Some((next, left)) if count >= N => {
                self.are_same &= *next == codes;
                self.left = left;
            }
            _ => {
                let (next, left) = self.left.split_at(count.min(self.left.len()));
                self.are_same &= codes.get(..count) == Some(next);
                self.left = left;
            }
        }
    }
}
