//! Encodes and decodes the rows of one tensor with a preset.

use crate::quantization::kernels::{self, GroupedLevels, Loop};
use crate::quantization::preset::{Preset, PresetGroup};
use crate::quantization::preset_parts::scale_type;
use crate::quantization::presets::levels::{divides_in_f32, level_rule, restores_bf16};
use crate::quantization::presets::pack::{code_bits, negative_zero, pack_row, pack_zero_points};
use crate::quantization::presets::scale::{GroupScale, global_scale, group_scales};
use crate::quantization::presets::working_type::{WorkingType, by_working_type};
use crate::quantization::quantizer::NotQuantizable;
use crate::quantization::scale_tiles;
use crate::quantization::statistics::LevelSet;
use crate::tensor::{FloatType, Shape, write_f64};

/// Encodes and restores whole rows of a tensor, which is treated as a matrix of output channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PresetCoder {
    preset: Preset,
    dtype: FloatType,
    columns: usize,
    /// Number of columns that share a scale.
    group: usize,
    /// Number of rows that share scales.
    height: usize,
    global: f32,
}

/// The stored bytes of consecutive rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EncodedRows {
    pub values: Vec<u8>,
    pub scales: Vec<u8>,
    /// Empty unless the preset is asymmetric.
    pub zero_points: Vec<u8>,
}

/// The rows that share scales, or one row.
pub(super) struct Band<'a> {
    pub x: &'a [f32],
    ranges: &'a [(f32, f32)],
    pub scales: &'a [GroupScale],
    codes: &'a [u8],
    pub restored: &'a [f32],
}

impl Band<'_> {
    /// The elements, codes and dequantized values of each row.
    fn rows(&self, columns: usize) -> impl Iterator<Item = (&[f32], &[u8], &[f32])> {
        let rows = self.x.chunks(columns).zip(self.codes.chunks(columns));
        rows.zip(self.restored.chunks(columns)).map(|((x, codes), restored)| (x, codes, restored))
    }
}

/// Why a band cannot be quantized.
enum BandError {
    /// An element is NaN or infinite in F32.
    NotFinite,
    /// The scale of a group with this largest magnitude is beyond its type.
    ScaleOverflow(f32),
}

/// Buffers that are reused for every band.
#[derive(Default)]
struct Buffers {
    ranges: Vec<(f32, f32)>,
    scales: Vec<GroupScale>,
    codes: Vec<u8>,
    restored: Vec<f32>,
}

impl PresetCoder {
    /// Creates a coder. `absmax` is the largest magnitude of all tensors that share the global
    /// scale; ignored for presets without one.
    pub(crate) fn new(preset: Preset, dtype: FloatType, shape: &Shape, absmax: f64) -> PresetCoder {
        let columns = usize::try_from(shape.channel_len()).unwrap_or(usize::MAX).max(1);
        let (group, height) = match preset.group() {
            PresetGroup::Tensor | PresetGroup::Channel => (columns, 1),
            PresetGroup::Columns(group) => (group as usize, 1),
            PresetGroup::Block(side) => (side as usize, side as usize),
        };
        let global = by_working_type!(dtype, W => global_scale::<W>(preset, absmax as f32));
        PresetCoder { preset, dtype, columns, group: group.max(1), height, global }
    }

    /// The global scale; 1 for presets without one.
    pub(crate) fn global(&self) -> f32 {
        self.global
    }

    /// Number of elements in a row.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Size of the values of one row in bytes.
    pub(crate) fn row_bytes(&self) -> usize {
        (self.columns as u64 * code_bits(self.preset)).div_ceil(8) as usize
    }

    /// Size of the scales of all rows before `row` in bytes; a band must start at `row`.
    pub(crate) fn scales_before(&self, row: u64) -> u64 {
        if self.preset == Preset::Nvfp4ComfyUi {
            return row / scale_tiles::ROWS * scale_tiles::band(self.groups_across() as u64);
        }
        let size = if self.has_byte_scales() { 1 } else { scale_type(self.dtype).size() };
        row / self.height as u64 * (self.groups_across() * size) as u64
    }

    /// The stored global scale. Its type is F32 unless `to` names another.
    pub(crate) fn global_bytes(&self, to: Option<FloatType>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_f64(to.unwrap_or(FloatType::F32), self.global.into(), &mut bytes);
        bytes
    }

    /// The type of stored scales that are floats.
    pub(crate) fn scale_type(&self) -> FloatType {
        scale_type(self.dtype)
    }

    /// Size of the zero points of all rows before `row` in bytes; `row` must be a multiple of
    /// eight.
    pub(crate) fn zero_points_before(&self, row: u64) -> u64 {
        row / 8 * (self.groups_across() * 4) as u64
    }

    /// The codes that occur in stored values. Both zeros count as one.
    pub(crate) fn levels_of(&self, values: &[u8]) -> LevelSet {
        let mut seen = [false; 256];
        values.iter().for_each(|&byte| seen[usize::from(byte)] = true);
        let bytes = (0..=u8::MAX).filter(|&byte| seen[usize::from(byte)]);
        let codes: Vec<u8> = match code_bits(self.preset) {
            8 => bytes.collect(),
            _ => bytes.flat_map(|byte| [byte & 15, byte >> 4]).collect(),
        };
        let negative_zero = negative_zero(self.preset);
        let codes = codes.into_iter();
        codes.map(|code| if negative_zero == Some(code) { 0 } else { code }).collect()
    }

    /// Whether the global scale is the only one.
    pub(crate) fn has_tensor_scale(&self) -> bool {
        self.preset.group() == PresetGroup::Tensor
    }

    fn has_byte_scales(&self) -> bool {
        matches!(
            self.preset,
            Preset::Nvfp4A16 | Preset::Nvfp4ComfyUi | Preset::Mxfp4A16 | Preset::Mxfp8A16
        )
    }

    /// Number of groups in a row.
    pub(crate) fn groups_across(&self) -> usize {
        self.columns.div_ceil(self.group)
    }

    /// Replaces the content of `out` by the stored bytes of rows. `bytes` are little-endian
    /// elements of the tensor's type. The rows must start at a multiple of
    /// [`Preset::rows_together`], and end at one or at the end of the tensor.
    ///
    /// # Errors
    ///
    /// An element is NaN or infinite, or a scale is beyond its type.
    pub(crate) fn encode(&self, bytes: &[u8], out: &mut EncodedRows) -> Result<(), NotQuantizable> {
        self.encode_bands(bytes, out, |_| {})
    }

    /// Like [`PresetCoder::encode`]. Also calls `each` with every row, as
    /// [`PresetCoder::restore`] does.
    ///
    /// # Errors
    ///
    /// See [`PresetCoder::encode`].
    pub(crate) fn encode_and_restore(
        &self,
        bytes: &[u8],
        out: &mut EncodedRows,
        mut each: impl FnMut(&[f32], &[u8], &[f32]),
    ) -> Result<(), NotQuantizable> {
        self.encode_bands(bytes, out, |band| {
            band.rows(self.columns).for_each(|(x, codes, restored)| each(x, codes, restored));
        })
    }

    /// Like [`PresetCoder::encode`]. Also calls `each` with every band.
    pub(super) fn encode_bands(
        &self,
        bytes: &[u8],
        out: &mut EncodedRows,
        mut each: impl FnMut(&Band),
    ) -> Result<(), NotQuantizable> {
        let EncodedRows { values, scales, zero_points } = out;
        values.clear();
        scales.clear();
        zero_points.clear();
        let mut zeros = Vec::new();
        let has_byte_scales = self.has_byte_scales();
        self.each_band(bytes, |band| {
            self.pack(band.codes, values);
            if self.has_tensor_scale() {
                // It is the global scale.
            } else if has_byte_scales {
                scales.extend(band.scales.iter().map(|group| group.code));
            } else {
                self.append_scales(band.scales, scales);
            }
            if self.has_zero_points() {
                zeros.extend(band.scales.iter().map(|group| group.zero));
            }
            each(&band);
        })?;
        if self.preset == Preset::Nvfp4ComfyUi {
            *scales = tiled(scales, self.groups_across());
        }
        self.append_zero_points(&zeros, zero_points);
        Ok(())
    }

    /// Appends the stored form of scales of the weight's type.
    pub(super) fn append_scales(&self, groups: &[GroupScale], scales: &mut Vec<u8>) {
        let stored = scale_type(self.dtype);
        groups.iter().for_each(|group| write_f64(stored, group.scale.into(), scales));
    }

    /// Appends the stored form of the zero points of whole rows.
    pub(super) fn append_zero_points(&self, zeros: &[f32], zero_points: &mut Vec<u8>) {
        let across = self.groups_across();
        for words in zeros.chunks(across * 8) {
            let rows: Vec<&[f32]> = words.chunks(across).collect();
            pack_zero_points(&rows, zero_points);
        }
    }

    /// Calls `each` with every row of `bytes`: its elements in F32, their codes, and their
    /// dequantized values. Calls `each_scale` with the largest magnitude and the scale of each
    /// group, except if the whole tensor has one scale. The rows must start and end as in
    /// [`PresetCoder::encode`].
    ///
    /// # Errors
    ///
    /// See [`PresetCoder::encode`].
    pub(crate) fn restore(
        &self,
        bytes: &[u8],
        mut each: impl FnMut(&[f32], &[u8], &[f32]),
        mut each_scale: impl FnMut(f64, f32),
    ) -> Result<(), NotQuantizable> {
        let most = f64::from(self.preset.quantization_type().max());
        self.each_band(bytes, |band| {
            let groups = if self.has_tensor_scale() { &[] } else { band.scales };
            for (range, group) in band.ranges.iter().zip(groups) {
                let is_zero = *range == (0.0, 0.0);
                let clip = if is_zero { 0.0 } else { f64::from(group.scale) * most };
                each_scale(clip, group.scale);
            }
            band.rows(self.columns).for_each(|(x, codes, restored)| each(x, codes, restored));
        })
    }

    /// Appends the stored form of the codes of whole rows to `values`.
    pub(super) fn pack(&self, codes: &[u8], values: &mut Vec<u8>) {
        let start = values.len();
        let rows = codes.len() / self.columns;
        values.resize(start + rows * self.row_bytes(), 0);
        let out = values.get_mut(start..).unwrap_or_default();
        kernels::run_loop(Pack { coder: self, codes, out });
    }

    pub(super) fn preset(&self) -> Preset {
        self.preset
    }

    pub(super) fn dtype(&self) -> FloatType {
        self.dtype
    }

    pub(super) fn has_zero_points(&self) -> bool {
        matches!(self.preset, Preset::W4A16Asym(_))
    }

    pub(super) fn grouped_levels<W: WorkingType>(&self) -> GroupedLevels {
        GroupedLevels {
            rule: level_rule(self.preset),
            quotient_type: if divides_in_f32(self.preset) { FloatType::F32 } else { self.dtype },
            restores_bf16: restores_bf16::<W>(self.preset),
            group: self.group,
        }
    }

    /// Columns that share a scale.
    pub(super) fn group(&self) -> usize {
        self.group
    }

    fn each_band(&self, bytes: &[u8], mut each: impl FnMut(Band)) -> Result<(), NotQuantizable> {
        let mut buffers = Buffers::default();
        let mut x: Vec<f32> = Vec::new();
        let row_bytes = self.columns.saturating_mul(self.dtype.size());
        for band in bytes.chunks(row_bytes.saturating_mul(self.height).max(1)) {
            widen(self.dtype, band, &mut x);
            let found = by_working_type!(self.dtype, W => self.quantize::<W>(&x, &mut buffers));
            found.map_err(|error| self.not_quantizable(error, bytes))?;
            let Buffers { ranges, scales, codes, restored } = &buffers;
            each(Band { x: &x, ranges, scales, codes, restored });
        }
        Ok(())
    }

    /// Returns why rows cannot be quantized, of which a band has the error `error`.
    fn not_quantizable(&self, error: BandError, bytes: &[u8]) -> NotQuantizable {
        // An F64 can be finite and beyond F32.
        let absmax = match (NotQuantizable::check(&kernels::range(self.dtype, bytes)), error) {
            (Err(why), _) => return why,
            (Ok(()), BandError::NotFinite) => f64::INFINITY,
            (Ok(()), BandError::ScaleOverflow(absmax)) => absmax.into(),
        };
        NotQuantizable::ScaleOverflow { absmax }
    }

    /// Computes the scales, the codes and the dequantized values of a band.
    fn quantize<W: WorkingType>(&self, x: &[f32], buffers: &mut Buffers) -> Result<(), BandError> {
        let Buffers { ranges, scales, codes, restored } = buffers;
        ranges.clear();
        ranges.resize(self.groups_across(), (0.0, 0.0));
        let has_signs = self.has_zero_points();
        let mut is_finite = true;
        for x in x.chunks(self.columns) {
            is_finite &= kernels::group_ranges(x, self.group, has_signs, ranges);
        }
        if !is_finite {
            return Err(BandError::NotFinite);
        }
        let preset = self.preset;
        group_scales::<W>(preset, ranges, self.global, scales).map_err(BandError::ScaleOverflow)?;
        codes.resize(x.len(), 0);
        restored.resize(x.len(), 0.0);
        let params = self.grouped_levels::<W>();
        let rows = codes.chunks_mut(self.columns).zip(restored.chunks_mut(self.columns));
        for (x, (codes, restored)) in x.chunks(self.columns).zip(rows) {
            let groups = scales.iter().map(|group| (group.scale, group.zero));
            kernels::quantize_groups(params, x, groups, codes, restored);
            // Quotients by zero are not finite.
            if preset == Preset::Nvfp4ComfyUi {
                let groups = codes.chunks_mut(self.group).zip(restored.chunks_mut(self.group));
                let vanishing = groups.zip(&*scales).filter(|(_, group)| group.scale == 0.0);
                for ((codes, restored), _) in vanishing {
                    codes.fill(0);
                    restored.fill(0.0);
                }
            }
        }
        Ok(())
    }
}

/// Returns row-major scales of whole rows in tiles; see [`scale_tiles`].
fn tiled(scales: &[u8], across: usize) -> Vec<u8> {
    let (rows, wide) = (scales.len() as u64 / across.max(1) as u64, across as u64);
    let mut tiled = vec![0; (rows.div_ceil(scale_tiles::ROWS) * scale_tiles::band(wide)) as usize];
    for (row, scales) in (0..).zip(scales.chunks(across.max(1))) {
        for (column, &scale) in (0..).zip(scales) {
            if let Some(out) = tiled.get_mut(scale_tiles::index(row, column, wide) as usize) {
                *out = scale;
            }
        }
    }
    tiled
}

/// Converts elements to F32; exact except for F64.
fn widen(dtype: FloatType, bytes: &[u8], x: &mut Vec<f32>) {
    x.resize(bytes.len() / dtype.size(), 0.0);
    kernels::widen(dtype, bytes, x);
}

/// The loop that packs the codes of a band.
struct Pack<'a> {
    coder: &'a PresetCoder,
    codes: &'a [u8],
    out: &'a mut [u8],
}

impl Loop for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Pack { coder, codes, out } = self;
        let rows = codes.chunks(coder.columns).zip(out.chunks_mut(coder.row_bytes().max(1)));
        rows.for_each(|(codes, out)| pack_row(coder.preset, codes, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::kernels::{LevelRule, integer_byte};
    use crate::quantization::presets::levels::{level, restored};
    use crate::tensor::write_f64;

    #[test]
    fn rows_are_quantized_as_their_elements_one_by_one() {
        let shape = Shape::new([6, 192]).expect("fits");
        let groups = [Preset::W4A16(24), Preset::W4A16Asym(8), Preset::W8A16(24)];
        let small = [0.0, -0.0, 1e-6, -3e-8];
        let values = (0..6 * 192u32).map(|i| match small.get(i as usize % 41) {
            Some(&value) => value,
            None => f64::from(i.wrapping_mul(2_654_435_761) >> 20) / 4096.0 - 0.37,
        });
        for dtype in [FloatType::BF16, FloatType::F16, FloatType::F32] {
            let mut bytes = Vec::new();
            values.clone().for_each(|value| write_f64(dtype, value, &mut bytes));
            for preset in Preset::ALL.into_iter().chain(groups) {
                if preset.obstacle(&shape).is_some() {
                    continue;
                }
                let coder = PresetCoder::new(preset, dtype, &shape, 0.63);
                let found = coder.each_band(&bytes, |band| {
                    for (i, &x) in band.x.iter().enumerate() {
                        let scale = band.scales[i % coder.columns / coder.group];
                        let (level, value) = by_working_type!(dtype, W => {
                            let level = level::<W>(preset, x, scale);
                            (level, restored::<W>(preset, level, scale))
                        });
                        let code = match level_rule(preset) {
                            LevelRule::Integers { .. } => integer_byte(level),
                            LevelRule::Minifloat(format) => {
                                format.signed(format.nearest(level.abs()).1, level) as u8
                            }
                        };
                        assert_eq!(band.codes[i], code, "{preset} {dtype:?} {x}");
                        assert_eq!(band.restored[i], value, "{preset} {dtype:?} {x}");
                    }
                });
                found.expect("finite");
            }
        }
    }
}
