//! MLX: affine integers of 1 to 8 bits with `scales` and `biases`, and the modes `mxfp4`, `mxfp8`
//! and `nvfp4` with `scales` only.

use crate::checkpoint::config::QUANTIZATION_KEYS;
use crate::checkpoint::error::Result;
use crate::checkpoint::packed::bit_packing::{Packing, packed_rows};
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::listing::{Listing, PartTensor, product, required, shape};
use crate::checkpoint::packed::runs::{columns_of, floats, runs, take};
use crate::checkpoint::packed::scale_grid::ScaleGrid;
use crate::checkpoint::packed::scaled::{Codes, FirstNibble, GlobalScale, Scaled};
use crate::checkpoint::stored::StoredId;
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::{Preset, QuantizationScheme};
use crate::tensor::minifloat::value_table;
use crate::tensor::{DType, FloatType, Shape};
use serde_json::{Map, Value};
use std::ops::Range;

/// The name of the container.
pub(crate) const NAME: &str = "mlx";

/// Group sizes and bit widths of the affine mode.
const AFFINE_GROUPS: [u64; 3] = [32, 64, 128];
const AFFINE_BITS: [u64; 7] = [1, 2, 3, 4, 5, 6, 8];

/// The offset of the codes of int4 that quantscope writes.
const INT4_OFFSET: f32 = 8.0;

/// The largest E4M3 times the largest E2M1, by which `global_scale` is divided.
const GLOBAL_DIVISOR: f32 = 448.0 * 6.0;

/// The quantization parameters of a module.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Parameters {
    mode: MlxMode,
    bits: u64,
    group: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum MlxMode {
    Affine,
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

impl MlxMode {
    fn name(self) -> &'static str {
        match self {
            MlxMode::Affine => "affine",
            MlxMode::Mxfp4 => "mxfp4",
            MlxMode::Mxfp8 => "mxfp8",
            MlxMode::Nvfp4 => "nvfp4",
        }
    }

    fn parse(name: &str) -> Option<MlxMode> {
        [MlxMode::Affine, MlxMode::Mxfp4, MlxMode::Mxfp8, MlxMode::Nvfp4]
            .into_iter()
            .find(|m| m.name() == name)
    }

    /// Returns bits and group size of a mode that supports only one combination.
    fn fixed(self) -> Option<(u64, u64)> {
        match self {
            MlxMode::Affine => None,
            MlxMode::Mxfp4 => Some((4, 32)),
            MlxMode::Mxfp8 => Some((8, 32)),
            MlxMode::Nvfp4 => Some((4, 16)),
        }
    }
}

impl Parameters {
    /// Returns the number of columns of a row with this many words and scales; `None` if they do
    /// not fit.
    fn columns(self, words: u64, scales: u64) -> Option<u64> {
        let columns = scales.checked_mul(self.group)?;
        let fits = words.checked_mul(32)? == columns.checked_mul(self.bits)?;
        (fits && columns > 0).then_some(columns)
    }
}

/// Recognizes U32 words with `scales`.
pub(super) fn recognize(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let (DType::U32, Some(module)) = (values.dtype(), values.module("weight")) else { return None };
    let scale = listing.get(&format!("{module}.scales"))?;
    if !listing.allows(&["mlx"]) {
        return None;
    }
    let name = values.stored.name.as_str();
    let format = match configured(listing, module) {
        Ok(Some((parameters, _))) => format!("mlx {}", parameters.mode.name()),
        _ => "mlx".to_owned(),
    };
    Some(listing.decoded_or_named(values, name, &format, decoded(listing, values, module, scale)))
}

fn decoded(
    listing: &Listing,
    values: PartTensor,
    module: &str,
    scale: PartTensor,
) -> Result<PackedTensor, String> {
    let biases = listing.get(&format!("{module}.biases"));
    let (Some((&words, leading)), Some((&groups, _))) =
        (values.dims().split_last(), scale.dims().split_last())
    else {
        return Err("it has no dimensions".into());
    };
    let has_biases = biases.is_some() || scale.dtype().float().is_some();
    let parameters = match configured(listing, module)? {
        Some((parameters, own)) => match parameters.columns(words, groups) {
            Some(_) if (parameters.mode == MlxMode::Affine) == has_biases => parameters,
            // mlx-lm does the same for modules that the configuration does not mention.
            _ if !own => inferred(words, groups, has_biases)?,
            _ => {
                return Err(format!(
                    "its {words} words and {groups} scales in a row do not fit the {} of {} bits in groups of {} of config.json",
                    parameters.mode.name(),
                    parameters.bits,
                    parameters.group
                ));
            }
        },
        None => inferred(words, groups, has_biases)?,
    };
    let columns = parameters.columns(words, groups).ok_or("its words do not fit its scales")?;
    let grid_dims = [leading, &[groups]].concat();
    scale.shaped("scales", &grid_dims)?;
    let shape = shape([leading, &[columns]].concat())?;
    if parameters.mode != MlxMode::Affine {
        return floats_of(listing, values, module, scale, parameters, shape);
    }
    let bias = required(biases, "biases", &format!("{module}.biases"))?;
    bias.shaped("biases", &grid_dims)?;
    if [scale, bias].iter().any(|part| part.dtype().float().is_none()) {
        return Err("its scales and biases are not floats".into());
    }
    let scale_numbers = FloatPart::new(scale, "scales")?;
    let name = values.stored.name.as_str();
    let recorded = listing.recorded_type(values, name);
    // quantscope writes symmetric int8 and int4 and records the original types.
    let int8 = match (recorded, scale.dtype().float(), u32::try_from(parameters.group)) {
        (Some(original), Some(scale_type), Ok(group)) if parameters.bits == 8 => Some(Int8 {
            container: Some(NAME),
            values: values.id,
            stored_as: Int8Values::Offset,
            scale: scale.id,
            scale_type,
            biases: Some(bias.id),
            scheme: QuantizationScheme::per_block(group),
            rounding: listing.rounding(values),
            calibration: listing.calibration(values, name),
            original,
            shape: shape.clone(),
            beside: Vec::new(),
        }),
        _ => None,
    };
    let preset = match (recorded, u32::try_from(parameters.group)) {
        (Some(_), Ok(group)) if parameters.bits == 4 => Some(Preset::W4A16(group)),
        _ => None,
    };
    let format = Affine {
        int8,
        preset,
        values: values.id,
        row_bytes: product(words, 4)?,
        bits: parameters.bits as u32,
        group: parameters.group,
        scales: scale_numbers,
        biases: FloatPart::new(bias, "biases")?,
        shape: shape.clone(),
        original: recorded.unwrap_or_else(|| listing.original(scale.dtype())),
    };
    Ok(PackedTensor::new(name, shape, format))
}

/// Decodes a tensor of one of the modes for small floats.
fn floats_of(
    listing: &Listing,
    values: PartTensor,
    module: &str,
    scale: PartTensor,
    parameters: Parameters,
    shape: Shape,
) -> Result<PackedTensor, String> {
    scale.typed("scales", &[DType::U8])?;
    let mode = parameters.mode;
    let numbers = match mode {
        MlxMode::Nvfp4 => FloatPart::bytes_of(scale, "scales", DType::F8E4M3)?,
        _ => FloatPart::exponents(scale, "scales")?,
    };
    let e4m3 = value_table(&DType::F8E4M3).ok_or("it does not hold 8-bit floats")?;
    let mut parts = vec![scale.id];
    let has_global = has_global_scale(listing, module);
    let global = match (listing.get(&format!("{module}.global_scale")), has_global) {
        (None, false) => None,
        (Some(part), true) if mode == MlxMode::Nvfp4 => {
            let matrices =
                shape.elements() / shape.dims().iter().rev().take(2).product::<u64>().max(1);
            if part.elements() != matrices {
                part.shaped("global scale", &[matrices])?;
            }
            parts.push(part.id);
            let numbers = FloatPart::new(part, "global scale")?;
            Some(GlobalScale::MultipliesMatrix(numbers, GLOBAL_DIVISOR))
        }
        (Some(_), _) => return Err("it has a global scale that config.json does not name".into()),
        (None, true) => return Err("its global scale is missing".into()),
    };
    let name = format!("mlx {}, blocks of {}", mode.name(), parameters.group);
    let codes = match mode {
        MlxMode::Mxfp8 => Codes::Bytes(e4m3),
        _ => Codes::E2m1(FirstNibble::Low),
    };
    let scales = ScaleGrid::of_blocks(numbers, &shape, 1, parameters.group);
    let original = listing.original(scale.dtype());
    let format = Scaled::new(name, values.id, codes, Some(scales), shape, original);
    Ok(Scaled { global, parts, ..format }.into_tensor(&values.stored.name))
}

/// Returns the only parameters that fit a row's words and scales.
fn inferred(words: u64, scales: u64, has_biases: bool) -> Result<Parameters, String> {
    let candidates: Vec<Parameters> = if has_biases {
        let affine = |group, bits| Parameters { mode: MlxMode::Affine, bits, group };
        AFFINE_GROUPS.iter().flat_map(|&g| AFFINE_BITS.map(|bits| affine(g, bits))).collect()
    } else {
        [MlxMode::Mxfp4, MlxMode::Mxfp8, MlxMode::Nvfp4]
            .into_iter()
            .filter_map(|mode| mode.fixed().map(|(bits, group)| Parameters { mode, bits, group }))
            .collect()
    };
    let mut fitting = candidates.into_iter().filter(|p| p.columns(words, scales).is_some());
    match (fitting.next(), fitting.next()) {
        (Some(parameters), None) => Ok(parameters),
        (None, _) => Err(format!("its {words} words in a row do not fit its {scales} scales")),
        _ => Err(format!(
            "its {words} words and {scales} scales in a row fit several widths, and config.json names none of them"
        )),
    }
}

/// Returns the model's entry for quantization in MLX's configuration.
fn quantization<'l>(listing: &'l Listing) -> Option<&'l Map<String, Value>> {
    let json = listing.config.as_ref()?.json();
    let keys = std::iter::once(&"quantization").chain(&QUANTIZATION_KEYS);
    keys.into_iter().find_map(|&key| json.get(key)?.as_object())
}

/// Returns a module's own entry, by its path or the end of it.
fn own_entry<'l>(listing: &'l Listing, module: &str) -> Option<&'l Value> {
    let all = quantization(listing)?;
    let ends = |path: &str| {
        let entry = all.get(path)?;
        (entry.is_object() || entry.is_boolean()).then_some(entry)
    };
    let mut path = module;
    loop {
        if let Some(entry) = ends(path) {
            return Some(entry);
        }
        path = path.split_once('.')?.1;
    }
}

fn has_global_scale(listing: &Listing, module: &str) -> bool {
    let entry = own_entry(listing, module).and_then(Value::as_object);
    let entry = entry.or_else(|| quantization(listing));
    entry.and_then(|entry| entry.get("global_scale")?.as_bool()).unwrap_or(false)
}

/// Returns the configured parameters of a module, and whether the configuration names the module.
fn configured(listing: &Listing, module: &str) -> Result<Option<(Parameters, bool)>, String> {
    let Some(all) = quantization(listing) else { return Ok(None) };
    let own = match own_entry(listing, module) {
        Some(Value::Object(own)) => Some(own),
        Some(Value::Bool(false)) => {
            return Err("config.json says that its module is not quantized".into());
        }
        _ => None,
    };
    let number = |key: &str| {
        let own = own.and_then(|own| own.get(key));
        own.or_else(|| all.get(key)).and_then(Value::as_u64)
    };
    let mode = own.unwrap_or(all).get("mode").and_then(Value::as_str).unwrap_or("affine");
    let Some(mode) = MlxMode::parse(mode) else {
        return Err(format!("config.json says mode '{}', which is not read", mode.escape_debug()));
    };
    let (bits, group) = mode.fixed().unwrap_or((4, 64));
    let parameters = Parameters {
        mode,
        bits: number("bits").unwrap_or(bits),
        group: number("group_size").unwrap_or(group),
    };
    let fixed = mode.fixed();
    let valid = match fixed {
        Some(fixed) => fixed == (parameters.bits, parameters.group),
        None => (1..=8).contains(&parameters.bits) && parameters.group > 0,
    };
    if !valid && own.is_some() {
        return Err(format!(
            "config.json says {} of {} bits in groups of {}, which is not read",
            mode.name(),
            parameters.bits,
            parameters.group
        ));
    }
    Ok(valid.then_some((parameters, own.is_some())))
}

/// An affine tensor: an element is `code * scale + bias` of its group.
#[derive(Debug)]
struct Affine {
    /// The same tensor as symmetric int8, if quantscope wrote it.
    int8: Option<Int8>,
    /// The preset with the same codes and scales, if quantscope wrote it.
    preset: Option<Preset>,
    values: StoredId,
    row_bytes: u64,
    bits: u32,
    group: u64,
    scales: FloatPart,
    biases: FloatPart,
    shape: Shape,
    original: FloatType,
}

impl PackedFormat for Affine {
    fn name(&self) -> String {
        format!("{NAME} int{}, groups of {}", self.bits, self.group)
    }

    fn int8(&self) -> Option<&Int8> {
        self.int8.as_ref()
    }

    fn preset(&self) -> Option<Preset> {
        self.preset
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn parts(&self) -> Vec<StoredId> {
        vec![self.values, self.scales.id, self.biases.id]
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let row_len = self.shape.row_len().max(1);
        let mut left = floats(out, &range);
        if range.is_empty() {
            return Ok(());
        }
        let packing = Packing::Stream { bits: self.bits };
        let (start, bytes) =
            packed_rows(reader, self.values, packing, self.row_bytes, &range, row_len)?;
        let across = row_len / self.group;
        let columns = columns_of(&range, row_len);
        let first = range.start / row_len * across + columns.start / self.group;
        let last = (range.end - 1) / row_len * across + columns.end.div_ceil(self.group);
        let scales = self.scales.read(reader, first..last)?;
        let biases = self.biases.read(reader, first..last)?;
        let mut codes = Vec::new();
        for (row, columns) in runs(range, row_len) {
            let here = packing.bytes(columns.start, columns.end);
            let at = row * self.row_bytes + here.start - start;
            codes.resize((columns.end - columns.start) as usize, 0);
            packing.unpack(bytes.get(at as usize..).unwrap_or_default(), columns.start, &mut codes);
            let mut codes = codes.as_mut_slice();
            let mut column = columns.start;
            while column < columns.end {
                let group = column / self.group;
                let end = columns.end.min((group + 1) * self.group);
                let at = (row * across + group - first) as usize;
                let scale = scales.get(at).copied().unwrap_or(f32::NAN);
                let bias = biases.get(at).copied().unwrap_or(f32::NAN);
                let count = (end - column) as usize;
                let codes = take(&mut codes, count);
                let value = |code: u8| match self.preset {
                    // Equals the sum, except for rounding if scales are F32.
                    Some(_) => (f32::from(code) - INT4_OFFSET) * scale,
                    None => f32::from(code) * scale + bias,
                };
                for (out, &mut code) in take(&mut left, count).iter_mut().zip(codes) {
                    *out = value(code).to_le_bytes();
                }
                column = end;
            }
        }
        Ok(())
    }
}
