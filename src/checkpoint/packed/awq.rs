//! AWQ, gemm version: integers packed along the output axis, `[in, out·b/32]`, with a permutation
//! in each run of eight.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::bit_packing::in_words;
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::{Listing, PartTensor, product, required, shape};
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::{Panel, StoredReader};
use crate::tensor::{DType, FloatType, Shape};
use std::ops::Range;

/// Number of columns that are permuted together.
const RUN_COLUMNS: u64 = 8;

/// The stored position of each column of a run: position `k` holds column `[0, 2, 4, 6, 1, 3, 5,
/// 7][k]`.
const POSITIONS: [u64; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// An AWQ tensor. A chunk is a few rows of the tensor, which are a few columns of every stored row;
/// these columns are read as a panel.
#[derive(Debug)]
struct Awq {
    values: StoredId,
    zeros: StoredId,
    scales: FloatPart,
    bits: u32,
    group: u64,
    shape: Shape,
    original: FloatType,
}

/// Recognizes I32 `qweight` with `qzeros` and `scales`.
pub(super) fn recognize(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let module = values.module("qweight")?;
    if *values.dtype() != DType::I32 || !listing.allows(&["awq"]) {
        return None;
    }
    let config = listing.config.as_ref();
    let gemm = config.and_then(|c| c.text("version")).is_none_or(|version| version == "gemm");
    let bits = listing.module_number(module, &["bits", "w_bit"]).unwrap_or(4);
    // AutoAWQ writes 4 bits, AutoRound up to 7.
    let largest = if listing.method() == Some("awq") { 4 } else { 7 };
    if !gemm || !(4..=largest).contains(&bits) {
        return None;
    }
    let name = format!("{module}.weight");
    match decoded(listing, values, module, bits as u32) {
        Ok(tensor) => Some(tensor),
        Err(reason) => {
            let mut others = listing.other_parts(values);
            others.extend(activation_scales(listing, module).map(|part| part.id));
            Some(listing.named_with(values, &name, "awq", Some(reason), &others))
        }
    }
}

/// Returns the scales of an activation function near the module whose output may be the module's
/// input.
fn activation_scales<'s>(listing: &Listing<'s>, module: &str) -> Option<PartTensor<'s>> {
    let parent = module.rsplit_once('.').map_or("", |(parent, _)| parent);
    listing.get(&format!("{parent}.act.scales"))
}

fn decoded(
    listing: &Listing,
    values: PartTensor,
    module: &str,
    bits: u32,
) -> Result<PackedTensor, String> {
    let named = |suffix: &str| format!("{module}.{suffix}");
    let part =
        |suffix: &str, what: &str| required(listing.get(&named(suffix)), what, &named(suffix));
    let (zeros, scale) = (part("qzeros", "zero points")?, part("scales", "scales")?);
    if listing.is_excluded(module) {
        return Err("config.json excludes its module from quantization".into());
    }
    let (inner, words) = values.matrix("packed values")?;
    let (groups, _) = scale.matrix("scales")?;
    let (outer, rest) =
        (product(words, 32)? / u64::from(bits), product(words, 32)? % u64::from(bits));
    if rest != 0 || !outer.is_multiple_of(RUN_COLUMNS) {
        return Err(format!("its {words} words do not hold whole values of {bits} bits"));
    }
    scale.shaped("scales", &[groups, outer])?;
    zeros.typed("zero points", &[DType::I32])?;
    zeros.shaped("zero points", &[groups, words])?;
    if scale.dtype().float().is_none() {
        return Err(format!("its scales are {}, expected floats", scale.dtype()));
    }
    if let Some(activation) = activation_scales(listing, module)
        && activation.elements() == inner
    {
        let name = activation.stored.name.escape_debug();
        return Err(format!(
            "its input may be divided by '{name}', which quantscope does not undo"
        ));
    }
    let configured = listing.module_number(module, &["group_size", "q_group_size"]);
    let group = match configured {
        Some(size) if size > 0 => size as u64,
        Some(_) => inner,
        None => inner.div_ceil(groups.max(1)),
    }
    .max(1);
    if inner.div_ceil(group) != groups {
        return Err(format!(
            "its {inner} inputs in groups of {group} need {} rows of scales, found {groups}",
            inner.div_ceil(group)
        ));
    }
    let shape = shape(vec![outer, inner])?;
    let format = Awq {
        values: values.id,
        zeros: zeros.id,
        scales: FloatPart::new(scale, "scales")?,
        bits,
        group,
        shape: shape.clone(),
        original: listing.original(scale.dtype()),
    };
    Ok(PackedTensor::new(named("weight"), shape, format))
}

impl PackedFormat for Awq {
    fn name(&self) -> String {
        format!("awq int{}, groups of {}", self.bits, self.group)
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
        let bits = u64::from(self.bits);
        // The words that contain the rows.
        let words = rows.start / RUN_COLUMNS * RUN_COLUMNS * bits / 32;
        let words = words..(rows.end.div_ceil(RUN_COLUMNS) * RUN_COLUMNS * bits).div_ceil(32);
        let bytes = words.start * 4..words.end * 4;
        let row_bytes = outer * bits / 32 * 4;
        let groups = columns.start / self.group..columns.end.div_ceil(self.group);
        let values = reader.panel(self.values, row_bytes, columns, bytes.clone())?;
        let zeros = reader.panel(self.zeros, row_bytes, groups.clone(), bytes.clone())?;
        let size = self.scales.size();
        let scales = rows.start * size..rows.end * size;
        let scales = reader.panel(self.scales.id, outer * size, groups, scales)?;
        for (row, here) in runs(range, inner) {
            let bit =
                (row / RUN_COLUMNS * RUN_COLUMNS + POSITIONS[(row % RUN_COLUMNS) as usize]) * bits;
            let code = |panel: &Panel, line: u64| {
                let word = |n: u64| u32_at(panel.get(line, n * 4..n * 4 + 4));
                in_words(word, bit, self.bits) as i32
            };
            let mut column = here.start;
            while column < here.end {
                let group = column / self.group;
                let end = here.end.min((group + 1).saturating_mul(self.group));
                let zero = code(&zeros, group);
                let scale = self.scales.parse(scales.get(group, row * size..(row + 1) * size));
                let scale = scale.first().copied().unwrap_or(f32::NAN);
                let out = take(&mut left, (end - column) as usize);
                for (out, column) in out.iter_mut().zip(column..end) {
                    let difference = code(&values, column) - zero;
                    *out = (difference as f32 * scale).to_le_bytes();
                }
                column = end;
            }
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8]) -> u32 {
    bytes.try_into().map(u32::from_le_bytes).unwrap_or(0)
}
