//! AWQ, gemm version: words of eight 4-bit integers packed along the output,
//! `[in, out/8]`, in an order of their own.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::{Listing, Part, Recognised, product, shape};
use crate::checkpoint::packed::numbers::Numbers;
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::{DType, FloatType, Shape};
use std::ops::Range;

/// Values in a word.
const PER_WORD: u64 = 8;

/// The bit at which the value of each of a word's columns starts: nibble `k` holds column
/// `[0, 2, 4, 6, 1, 3, 5, 7][k]`.
const SHIFTS: [u32; 8] = [0, 16, 4, 20, 8, 24, 12, 28];

/// A chunk is a few of the real rows, so a few columns of every stored row: those columns,
/// and some more for the chunks that follow, are read as a panel.
#[derive(Debug)]
struct Awq {
    values: StoredId,
    zeros: StoredId,
    scales: Numbers,
    group: u64,
    shape: Shape,
    original: FloatType,
}

pub(super) fn recognise(listing: &Listing, values: Part) -> Recognised {
    let Some(module) = values.module("qweight") else { return Ok(None) };
    if *values.dtype() != DType::I32 || !matches!(listing.method(), None | Some("awq")) {
        return Ok(None);
    }
    let config = listing.config.as_ref();
    let gemm = config.and_then(|c| c.text("version")).is_none_or(|version| version == "gemm");
    let bits = config.and_then(|c| c.number(&["bits", "w_bit"])).unwrap_or(4);
    if !gemm || bits != 4 {
        return Ok(None);
    }
    let named = |suffix: &str| listing.get(&format!("{module}.{suffix}"));
    let (Some(zeros), Some(scale)) = (named("qzeros"), named("scales")) else { return Ok(None) };
    let (inner, words) = values.matrix("packed values")?;
    let (groups, _) = scale.matrix("scales")?;
    let outer = product(words, PER_WORD)?;
    scale.shaped("scales", &[groups, outer])?;
    zeros.typed("zero points", &[DType::I32])?;
    zeros.shaped("zero points", &[groups, words])?;
    let said = config.and_then(|c| c.number(&["group_size", "q_group_size"]));
    let group = match said {
        Some(size) if size > 0 => size as u64,
        Some(_) => inner,
        None => inner.div_ceil(groups.max(1)),
    }
    .max(1);
    if inner.div_ceil(group) != groups {
        return Err(format!(
            "its {inner} inputs in groups of {group} need {} rows of scales, found {groups}",
            inner.div_ceil(group)
        )
        .into());
    }
    let shape = shape(vec![outer, inner])?;
    let layout = Awq {
        values: values.id,
        zeros: zeros.id,
        scales: Numbers::new(scale, "scales")?,
        group,
        shape: shape.clone(),
        original: listing.original(scale.dtype()),
    };
    Ok(Some(PackedTensor::new(format!("{module}.weight"), shape, layout)))
}

impl PackedFormat for Awq {
    fn name(&self) -> String {
        format!("awq int4, groups of {}", self.group)
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        vec![self.values, self.scales.id, self.zeros]
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let &[outer, inner] = self.shape.dims() else { return Ok(()) };
        let mut left = floats(out, &range);
        if range.is_empty() {
            return Ok(());
        }
        let rows = range.start / inner..range.end.div_ceil(inner);
        let columns = columns_of(&range, inner);
        let words = rows.start / PER_WORD * 4..rows.end.div_ceil(PER_WORD) * 4;
        let row_bytes = outer / PER_WORD * 4;
        let groups = columns.start / self.group..columns.end.div_ceil(self.group);
        let values = reader.panel(self.values, row_bytes, columns, words.clone())?;
        let zeros = reader.panel(self.zeros, row_bytes, groups.clone(), words)?;
        let size = self.scales.size();
        let scales = rows.start * size..rows.end * size;
        let scales = reader.panel(self.scales.id, outer * size, groups, scales)?;
        for (row, here) in runs(range, inner) {
            let bytes = row / PER_WORD * 4..row / PER_WORD * 4 + 4;
            let shift = SHIFTS[(row % PER_WORD) as usize];
            let mut column = here.start;
            while column < here.end {
                let group = column / self.group;
                let end = here.end.min((group + 1).saturating_mul(self.group));
                let zero = nibble(zeros.get(group, bytes.clone()), shift);
                let scale = self.scales.parse(scales.get(group, row * size..(row + 1) * size));
                let scale = scale.first().copied().unwrap_or(f32::NAN);
                let out = take(&mut left, (end - column) as usize);
                for (out, column) in out.iter_mut().zip(column..end) {
                    let code = nibble(values.get(column, bytes.clone()), shift);
                    *out = ((code - zero) as f32 * scale).to_le_bytes();
                }
                column = end;
            }
        }
        Ok(())
    }
}

fn nibble(word: &[u8], shift: u32) -> i32 {
    let word = word.try_into().map(u32::from_le_bytes).unwrap_or(0);
    (word >> shift & 15) as i32
}
