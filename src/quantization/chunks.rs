//! The division of a tensor into chunks that are processed one at a time.

use crate::quantization::groups::Groups;
use crate::quantization::preset::Preset;
use crate::quantization::scheme::QuantizationScheme;
use crate::tensor::Shape;
use std::ops::Range;

/// A division of a tensor into chunks of nearly equal length.
///
/// Chunks end at the ends of channels; if channels are longer than a chunk, at the ends of rows; if
/// rows are longer too, at the ends of blocks. For presets and for ggml's block types, which may
/// depend on a whole row, a chunk consists of whole rows of any length. The division depends on the
/// shape and the schemes only, never on the number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    elements: u64,
    length: u64,
    align: Groups,
}

impl Chunks {
    /// Divides a tensor of `shape` into chunks of about `length` elements, with regard to the
    /// groups of `schemes`.
    pub fn new(
        shape: &Shape,
        length: u64,
        schemes: impl IntoIterator<Item = QuantizationScheme>,
    ) -> Chunks {
        let schemes: Vec<QuantizationScheme> = schemes.into_iter().collect();
        let (elements, length) = (shape.elements(), length.max(1));
        let presets = schemes.iter().filter_map(|scheme| scheme.preset());
        if let Some(rows) = presets.map(Preset::rows_together).reduce(lcm) {
            let unit = rows.saturating_mul(shape.channel_len().max(1));
            let align = Groups::new(elements, unit, unit);
            return Chunks { elements, length: length.max(unit), align };
        }
        let every = |len: u64| Groups::new(elements, len, len);
        if schemes.iter().any(|scheme| scheme.ggml().is_some()) && shape.row_len() > length {
            let align = every(shape.row_len());
            return Chunks { elements, length: shape.row_len(), align };
        }
        let align = if (1..=length).contains(&shape.channel_len()) {
            every(shape.channel_len())
        } else if (1..=length).contains(&shape.row_len()) {
            every(shape.row_len())
        } else {
            let blocks = schemes.iter().filter_map(|scheme| match *scheme {
                QuantizationScheme::PerBlock(_, _, block) => Some(u64::from(block)),
                _ => None,
            });
            let unit = blocks.fold(128, lcm);
            Groups::new(elements, shape.row_len(), if unit <= length { unit } else { length })
        };
        Chunks { elements, length, align }
    }

    /// Number of chunks; zero for an empty tensor.
    pub fn count(&self) -> u64 {
        self.elements.div_ceil(self.length)
    }

    /// The elements of chunk `k`; empty past the last chunk.
    pub fn range(&self, k: u64) -> Range<u64> {
        let bound = |k: u64| match k.saturating_mul(self.length) {
            at if at >= self.elements => self.elements,
            at => self.align.group_start(at),
        };
        bound(k)..bound(k.saturating_add(1))
    }

    /// Returns whether no group spans chunks. Strided groups span all of them.
    pub fn hold(&self, groups: &Groups) -> bool {
        !groups.are_strided() && (self.elements <= self.length || self.align.is_union_of(groups))
    }
}

fn lcm(a: u64, b: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (a / gcd(a, b).max(1)).saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_element_once_and_split_no_group_they_hold() {
        for dims in
            [&[3u64, 1_000_001][..], &[1_000_003], &[0, 5], &[1000, 1000], &[7, 11, 13], &[]]
        {
            let shape = Shape::new(dims).expect("fits");
            for scheme in [
                QuantizationScheme::PER_TENSOR,
                QuantizationScheme::PER_CHANNEL,
                QuantizationScheme::per_block(96),
                QuantizationScheme::per_block(3001),
            ] {
                let chunks = Chunks::new(&shape, 10_000, [scheme]);
                let groups = scheme.groups(&shape);
                let mut at = 0;
                for k in 0..chunks.count() {
                    let range = chunks.range(k);
                    assert_eq!(range.start, at);
                    let boundary = groups.group_start(at) == at;
                    assert!(boundary || !chunks.hold(&groups), "{dims:?} {scheme} at {at}");
                    at = range.end;
                }
                assert_eq!(at, shape.elements());
            }
        }
    }
}
