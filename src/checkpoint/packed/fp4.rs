//! 4-bit floats (E2M1), two to a byte, the low half first: NVFP4 with a scale for each 16
//! of a row and one for the tensor, and MXFP4 with a power of two for each 32.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::bit_packing::{Packing, packed_rows};
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::listing::{Listing, Part, Recognised, product, required, shape};
use crate::checkpoint::packed::numbers::Numbers;
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::minifloat::E2M1_VALUES;
use crate::tensor::{DType, FloatType, Shape};
use std::ops::Range;

/// Values of one scale in gpt-oss' blocks.
const BLOCK: u64 = 32;

/// Rows as they are: element `i` is `fp4 * scale`, the scale of its run.
#[derive(Debug)]
struct Fp4 {
    name: &'static str,
    values: StoredId,
    run: u64,
    scales: Numbers,
    /// One number that divides or multiplies all scales.
    overall: Option<(Numbers, Overall)>,
    shape: Shape,
    original: FloatType,
    beside: Vec<StoredId>,
}

#[derive(Clone, Copy, Debug)]
enum Overall {
    Divides,
    Multiplies,
}

/// U8 bytes of two FP4 values each: compressed-tensors' `weight_packed`, or ModelOpt's
/// `weight` with a `weight_scale_2`.
pub(super) fn nvfp4(listing: &Listing, values: Part) -> Recognised {
    if *values.dtype() != DType::U8 || values.stored.shape.rank() != 2 {
        return Ok(None);
    }
    let stored = values.stored.name.as_str();
    let modelopt = listing.get(&format!("{stored}_scale_2"));
    let (name, overall) = match (stored.strip_suffix("_packed"), modelopt) {
        (Some(name), _) => (name, None),
        (None, Some(overall)) => (stored, Some(overall)),
        (None, None) => return Ok(None),
    };
    let scale_name = format!("{name}_scale");
    let scale = required(listing.get(&scale_name), "scales", &scale_name)?;
    let (rows, bytes) = values.matrix("packed values")?;
    let columns = product(bytes, 2)?;
    let shape = shape(vec![rows, columns])?;
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    let global_name = format!("{name}_global_scale");
    let powers = matches!(scale.dtype(), DType::U8 | DType::F8E8M0);
    let (name_of, run, scales) = match powers {
        true => ("mxfp4, blocks of 32", 32, Numbers::exponents(scale, "scales")?),
        false => ("nvfp4, blocks of 16", 16, Numbers::new(scale, "scales")?),
    };
    scale.shaped("scales", &[rows, columns.div_ceil(run)])?;
    let overall = match (overall, powers) {
        (Some(part), _) => Some((part, Overall::Multiplies)),
        (None, true) => None,
        (None, false) => {
            let part = required(listing.get(&global_name), "overall scale", &global_name)?;
            Some((part, Overall::Divides))
        }
    };
    let mut beside = vec![scale.id];
    let overall = overall
        .map(|(part, how)| {
            if part.stored.shape.elements() != 1 {
                part.shaped("overall scale", &[1])?;
            }
            beside.push(part.id);
            Ok::<_, String>((Numbers::new(part, "overall scale")?, how))
        })
        .transpose()?;
    beside.extend(listing.members(module, &["input_global_scale", "input_scale"]));
    let layout = Fp4 {
        name: name_of,
        values: values.id,
        run,
        scales,
        overall,
        shape: shape.clone(),
        original: listing.original(scale.dtype()),
        beside,
    };
    Ok(Some(PackedTensor::new(name, shape, layout)))
}

impl PackedFormat for Fp4 {
    fn name(&self) -> String {
        self.name.to_owned()
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
        let row_len = self.shape.row_len().max(1);
        let mut out = floats(out, &range);
        if range.is_empty() {
            return Ok(());
        }
        let packing = Packing::Stream { bits: 4 };
        let (start, bytes) =
            packed_rows(reader, self.values, packing, row_len / 2, &range, row_len)?;
        let across = row_len.div_ceil(self.run);
        let columns = columns_of(&range, row_len);
        let first = range.start / row_len * across + columns.start / self.run;
        let last = (range.end - 1) / row_len * across + columns.end.div_ceil(self.run);
        let mut scales = self.scales.read(reader, first..last)?;
        if let Some((overall, how)) = &self.overall {
            let overall = overall.read(reader, 0..1)?.first().copied().unwrap_or(f32::NAN);
            for scale in &mut scales {
                *scale = match how {
                    Overall::Divides => *scale / overall,
                    Overall::Multiplies => *scale * overall,
                };
            }
        }
        let mut codes = Vec::new();
        for (row, columns) in runs(range, row_len) {
            let here = packing.bytes(columns.start, columns.end);
            let at = row * (row_len / 2) + here.start - start;
            let bytes = bytes.get(at as usize..).unwrap_or_default();
            codes.resize((columns.end - columns.start) as usize, 0);
            packing.unpack(bytes, columns.start, &mut codes);
            let out = take(&mut out, codes.len());
            for ((out, &code), column) in out.iter_mut().zip(&codes).zip(columns) {
                let at = row * across + column / self.run - first;
                let scale = scales.get(at as usize).copied().unwrap_or(f32::NAN);
                *out = (E2M1_VALUES[usize::from(code & 15)] * scale).to_le_bytes();
            }
        }
        Ok(())
    }
}

/// gpt-oss' experts: blocks `[E, out, in/32, 16]` of the transposed matrices, which models
/// hold as `[E, in, out]`.
///
/// A chunk is a few of the `in` rows, so a few bytes of every stored row: those columns,
/// and some more for the chunks that follow, are read as a panel.
#[derive(Debug)]
struct Mxfp4 {
    values: StoredId,
    scales: Numbers,
    shape: Shape,
    original: FloatType,
}

pub(super) fn mxfp4(listing: &Listing, values: Part) -> Recognised {
    let Some(name) = values.stored.name.strip_suffix("_blocks") else { return Ok(None) };
    let (DType::U8, Some(scale)) = (values.dtype(), listing.get(&format!("{name}_scales"))) else {
        return Ok(None);
    };
    let &[experts, out, blocks, 16] = values.dims() else {
        values.shaped("blocks", &[1, 1, 1, 16])?;
        return Ok(None);
    };
    scale.shaped("scales", &[experts, out, blocks])?;
    let shape = shape(vec![experts, product(blocks, BLOCK)?, out])?;
    let layout = Mxfp4 {
        values: values.id,
        scales: Numbers::exponents(scale, "scales")?,
        shape: shape.clone(),
        original: listing
            .config
            .as_ref()
            .and_then(|config| config.dtype())
            .unwrap_or(FloatType::BF16),
    };
    Ok(Some(PackedTensor::new(name, shape, layout)))
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
        let blocks = inner / BLOCK;
        let mut left = floats(out, &range);
        let mut rows = runs(range, outer).peekable();
        while let Some((row, columns)) = rows.next() {
            let (expert, first) = (row / inner, row % inner);
            let block = first / BLOCK;
            // As many whole rows as lie in the same blocks are decoded together.
            let mut count = 1;
            let whole = columns == (0..outer);
            while whole
                && rows.peek().is_some_and(|(next, columns)| {
                    let same = next / inner == expert && next % inner / BLOCK == block;
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
                    let within = (first % BLOCK) as usize + i;
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
