//! GPTQ: integers packed along the input axis, `[in·b/32, out]`, with zero points packed along the
//! output axis. The stored zero point is one less than the real one, except in `gptq_v2` and in
//! some files of AutoRound.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::bit_packing::in_words;
use crate::checkpoint::packed::float_part::{FloatPart, indices};
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::{Listing, PartTensor, required, shape};
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::{DType, FloatType, Shape};
use std::ops::Range;

/// A GPTQ tensor. A chunk is a few rows of the tensor, which are a few columns of every stored row;
/// these columns are read as a panel.
#[derive(Debug)]
struct Gptq {
    values: StoredId,
    zeros: StoredId,
    scales: FloatPart,
    order: Option<StoredId>,
    bits: u32,
    group: u64,
    groups: u64,
    /// Added to the stored zero point.
    zero_offset: i32,
    shape: Shape,
    original: FloatType,
    beside: Vec<StoredId>,
}

/// Bytes of zero points that are read to tell the two formats apart.
const INSPECTED_BYTES: u64 = 1 << 14;

/// Returns the number to add to stored zero points of a file without a configuration. Those of
/// symmetric quantization are in the middle of the range, or one less. `zeros` is the start of
/// rows of `columns` zero points.
fn offset_of_symmetric(zeros: &[u8], bits: u32, columns: u64) -> Result<i32, String> {
    let words: Vec<u32> = zeros.as_chunks().0.iter().map(|raw| u32::from_le_bytes(*raw)).collect();
    let word = |n: u64| words.get(n as usize).copied().unwrap_or(0);
    let width = u64::from(bits.max(1));
    // Values of the first row, which the start may not hold completely.
    let count = (words.len() as u64 * 32 / width).min(columns);
    let middle = 1u32 << (bits.clamp(1, 8) - 1);
    let all = |code: u32| count > 0 && (0..count).all(|n| in_words(word, n * width, bits) == code);
    match (all(middle), all(middle - 1)) {
        (true, _) => Ok(0),
        (_, true) => Ok(1),
        _ => Err(
            "no configuration says whether its zero points are stored one too low (gptq) or as they are (gptq_v2)"
                .into(),
        ),
    }
}

/// Recognizes I32 `qweight` with `qzeros` and `scales`.
pub(super) fn recognize(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let module = values.module("qweight")?;
    let named = |suffix: &str| listing.get(&format!("{module}.{suffix}"));
    if *values.dtype() != DType::I32 || !listing.allows(&["gptq"]) {
        return None;
    }
    let (zeros, scale) = (named("qzeros"), named("scales"));
    if listing.effective_method().is_none() {
        // AWQ uses the same names; the shapes distinguish the two.
        let columns = |part: Option<PartTensor>| Some(*part?.dims().last()?);
        if columns(scale) != columns(Some(values)) {
            return None;
        }
    }
    let decoded = decoded(listing, values, module, zeros, scale);
    Some(listing.decoded_or_named(values, &format!("{module}.weight"), "gptq", decoded))
}

fn decoded(
    listing: &Listing,
    values: PartTensor,
    module: &str,
    zeros: Option<PartTensor>,
    scale: Option<PartTensor>,
) -> Result<PackedTensor, String> {
    let named = |suffix: &str| format!("{module}.{suffix}");
    let Some(configured_offset) = listing.gptq_zero_offset() else {
        return Err(
            "config.json names another checkpoint format than gptq or gptq_v2, or both".into()
        );
    };
    let zeros = required(zeros, "zero points", &named("qzeros"))?;
    let scale = required(scale, "scales", &named("scales"))?;
    if listing.is_excluded(module) {
        return Err("config.json excludes its module from quantization".into());
    }
    if let Some(plain) = listing.get(&named("weight")) {
        let name = plain.stored.name.escape_debug();
        return Err(format!("'{name}' is stored plain, and there are quantized parts of it"));
    }
    let (words, out) = values.matrix("packed values")?;
    let (groups, _) = scale.matrix("scales")?;
    let (_, zero_words) = zeros.matrix("zero points")?;
    scale.shaped("scales", &[groups, out])?;
    zeros.typed("zero points", &[DType::I32])?;
    let configured = listing.module_number(module, &["bits", "w_bit"]);
    let bits = match configured {
        Some(bits) => u64::try_from(bits).unwrap_or(0),
        None => zero_words.saturating_mul(32).checked_div(out).unwrap_or(0),
    };
    if !(2..=8).contains(&bits) {
        return Err(format!("its values have {bits} bits, expected 2 to 8"));
    }
    zeros.shaped("zero points", &[groups, (out.saturating_mul(bits)).div_ceil(32)])?;
    let zero_offset = if listing.is_quantized() {
        configured_offset
    } else {
        offset_of_symmetric(&listing.start(zeros, INSPECTED_BYTES)?, bits as u32, out)?
    };
    let columns = words.checked_mul(32).filter(|all| all % bits == 0).map(|all| all / bits);
    let columns = columns
        .ok_or_else(|| format!("its {words} words do not hold whole values of {bits} bits"))?;
    let group = match listing.module_number(module, &["group_size"]) {
        Some(size) if size > 0 => size as u64,
        Some(_) => columns,
        None => columns.div_ceil(groups.max(1)),
    }
    .max(1);
    if columns.div_ceil(group) != groups {
        return Err(format!(
            "its {columns} inputs in groups of {group} need {} rows of scales, found {groups}",
            columns.div_ceil(group)
        ));
    }
    let order = listing.get(&named("g_idx"));
    if let Some(order) = order {
        order.typed("group indices", &[DType::I32])?;
        order.shaped("group indices", &[columns])?;
    } else if listing.flag("desc_act") {
        return Err("config.json says desc_act, its group indices are missing".into());
    }
    if scale.dtype().float().is_none() {
        return Err(format!("its scales are {}, expected floats", scale.dtype()));
    }
    let shape = shape(vec![out, columns])?;
    let format = Gptq {
        values: values.id,
        zeros: zeros.id,
        scales: FloatPart::new(scale, "scales")?,
        order: order.map(|part| part.id),
        bits: bits as u32,
        group,
        groups,
        zero_offset,
        shape: shape.clone(),
        original: listing.original(scale.dtype()),
        beside: [scale.id, zeros.id].into_iter().chain(order.map(|part| part.id)).collect(),
    };
    Ok(PackedTensor::new(named("weight"), shape, format))
}

impl PackedFormat for Gptq {
    fn name(&self) -> String {
        let version = if self.zero_offset == 0 { " v2" } else { "" };
        format!("gptq{version} int{}, groups of {}", self.bits, self.group)
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        [&[self.values], self.beside.as_slice()].concat()
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let &[outer, inner] = self.shape.dims() else { return Ok(()) };
        let bits = u64::from(self.bits);
        let mut left = floats(out, &range);
        if range.is_empty() {
            return Ok(());
        }
        let rows = range.start / inner..range.end.div_ceil(inner);
        let columns = columns_of(&range, inner);
        let order = match self.order {
            Some(id) => indices(reader, id, columns.clone(), self.groups)?,
            None => columns.clone().map(|column| column / self.group).collect(),
        };
        let words = columns.start * bits / 32..(columns.end * bits).div_ceil(32);
        let values =
            reader.panel(self.values, outer * 4, words.clone(), rows.start * 4..rows.end * 4)?;
        let zero_words = rows.start * bits / 32..(rows.end * bits).div_ceil(32);
        let zeros = reader.panel(
            self.zeros,
            (outer * bits).div_ceil(32) * 4,
            0..self.groups,
            zero_words.start * 4..zero_words.end * 4,
        )?;
        let size = self.scales.size();
        let scales = reader.panel(
            self.scales.id,
            outer * size,
            0..self.groups,
            rows.start * size..rows.end * size,
        )?;
        let mut known: Vec<(i32, f32)> = Vec::new();
        let mut column_words: Vec<u32> = Vec::new();
        for (row, here) in runs(range, inner) {
            known.clear();
            for group in 0..self.groups {
                let zero_word = |n: u64| u32_at(zeros.get(group, n * 4..n * 4 + 4));
                let zero = in_words(zero_word, row * bits, self.bits) as i32 + self.zero_offset;
                let scale = self.scales.parse(scales.get(group, row * size..(row + 1) * size));
                known.push((zero, scale.first().copied().unwrap_or(f32::NAN)));
            }
            column_words.clear();
            let bytes = row * 4..row * 4 + 4;
            column_words.extend(words.clone().map(|n| u32_at(values.get(n, bytes.clone()))));
            let word = |n: u64| column_words.get((n - words.start) as usize).copied().unwrap_or(0);
            let groups = order.get((here.start - columns.start) as usize..).unwrap_or_default();
            let out = take(&mut left, (here.end - here.start) as usize);
            for ((out, column), &group) in out.iter_mut().zip(here).zip(groups) {
                let code = in_words(word, column * bits, self.bits) as i32;
                let (zero, scale) = known.get(group as usize).copied().unwrap_or((0, f32::NAN));
                *out = ((code - zero) as f32 * scale).to_le_bytes();
            }
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_le_bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symmetric_zero_points_tell_their_offset() {
        let of = |words: &[u32], bits, columns| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            offset_of_symmetric(&bytes, bits, columns).ok()
        };
        assert_eq!(of(&[0x7777_7777, 0x7777_7777], 4, 16), Some(1));
        assert_eq!(of(&[0x8888_8888, 0x8888_8888], 4, 16), Some(0));
        assert_eq!(of(&[0x8888_8888, 0x7777_7777], 4, 16), None);
        assert_eq!(of(&[0x7777_7777, 0x0777_7777], 4, 15), Some(1));
        assert_eq!(of(&[0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d], 3, 32), Some(1));
        assert_eq!(of(&[0x2492_4924, 0x4924_9249, 0x9249_2492], 3, 32), Some(0));
        assert_eq!(of(&[0x7f7f_7f7f], 8, 4), Some(1));
        assert_eq!(of(&[], 4, 8), None);
    }
}
