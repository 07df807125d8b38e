//! gpt-oss: MXFP4 experts in `_blocks` and `_scales`.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::{Listing, PartTensor, product, shape};
use crate::checkpoint::packed::quant_config::configured_dtype;
use crate::checkpoint::packed::runs::{floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::minifloat::E2M1_VALUES;
use crate::tensor::{DType, FloatType, Shape};
use std::ops::Range;

/// Number of columns that share a scale.
const BLOCK_COLUMNS: u64 = 32;

/// Experts stored as blocks `[E, out, in/32, 16]` of the transposed matrices; the model's tensor is
/// `[E, in, out]`.
///
/// A chunk is a few of the `in` rows, which are a few bytes of every stored row; these columns are
/// read as a panel.
#[derive(Debug)]
struct Mxfp4 {
    values: StoredId,
    scales: FloatPart,
    shape: Shape,
    original: FloatType,
}

/// Recognizes U8 blocks with exponents as scales.
pub(super) fn recognize(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let name = values.stored.name.strip_suffix("_blocks")?;
    let scale = listing.get(&format!("{name}_scales"))?;
    if *values.dtype() != DType::U8 {
        return None;
    }
    let decoded = || {
        if !listing.allows(&["mxfp4"]) {
            return Err("config.json names another quantization method".to_owned());
        }
        let &[experts, out, blocks, 16] = values.dims() else {
            let found = &values.stored.shape;
            return Err(format!(
                "its blocks are {found}, expected four dimensions, the last of 16"
            ));
        };
        scale.shaped("scales", &[experts, out, blocks])?;
        let shape = shape(vec![experts, product(blocks, BLOCK_COLUMNS)?, out])?;
        let format = Mxfp4 {
            values: values.id,
            scales: FloatPart::exponents(scale, "scales")?,
            shape: shape.clone(),
            original: configured_dtype(listing).unwrap_or(FloatType::BF16),
        };
        Ok(PackedTensor::new(name, shape, format))
    };
    Some(listing.decoded_or_named(values, name, "mxfp4", decoded()))
}

impl PackedFormat for Mxfp4 {
    fn name(&self) -> String {
        "mxfp4, blocks of 32".to_owned()
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        vec![self.values, self.scales.id]
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let &[_, inner, outer] = self.shape.dims() else { return Ok(()) };
        let blocks = inner / BLOCK_COLUMNS;
        let mut left = floats(out, &range);
        let mut rows = runs(range, outer).peekable();
        while let Some((row, columns)) = rows.next() {
            let (expert, first) = (row / inner, row % inner);
            let block = first / BLOCK_COLUMNS;
            // Decode whole rows of the same blocks together.
            let mut count = 1;
            let whole = columns == (0..outer);
            while whole
                && rows.peek().is_some_and(|(next, columns)| {
                    let same = next / inner == expert && next % inner / BLOCK_COLUMNS == block;
                    same && *columns == (0..outer)
                })
            {
                rows.next();
                count += 1;
            }
            let stored = expert * outer..(expert + 1) * outer;
            let bytes = block * 16..(block + 1) * 16;
            let values = reader.panel(self.values, blocks * 16, stored.clone(), bytes.clone())?;
            let exponents = reader.panel(self.scales.id, blocks, stored, block..block + 1)?;
            let width = (columns.end - columns.start) as usize;
            let out = take(&mut left, width.saturating_mul(count));
            for (k, column) in columns.enumerate() {
                let stored = expert * outer + column;
                let codes = values.get(stored, bytes.clone());
                let scale = self.scales.parse(exponents.get(stored, block..block + 1));
                let scale = scale.first().copied().unwrap_or(f32::NAN);
                for i in 0..count {
                    let within = (first % BLOCK_COLUMNS) as usize + i;
                    let byte = codes.get(within / 2).copied().unwrap_or(0);
                    let code = if within.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
                    if let Some(out) = out.get_mut(i * width + k) {
                        *out = (E2M1_VALUES[usize::from(code)] * scale).to_le_bytes();
                    }
                }
            }
        }
        Ok(())
    }
}
