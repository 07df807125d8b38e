//! Encodes and decodes the rows of one tensor with a preset.

use crate::quantization::kernels::{self, GroupedLevels, Loop};
use crate::quantization::preset::{Preset, PresetGroup};
use crate::quantization::preset_parts::scale_type;
use crate::quantization::presets::levels::{divides_in_f32, level_rule, restores_bf16};
use crate::quantization::presets::pack::{code_bits, pack_row, pack_zero_points};
use crate::quantization::presets::scale::{GroupScale, global_scale, group_scales};
use crate::quantization::presets::working_type::{WorkingType, by_working_type};
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::quantizer::NotQuantizable;
use crate::quantization::statistics::LevelSet;
use crate::tensor::{FloatType, Shape, write_f64};
use std::marker::PhantomData;

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
struct Band<'a> {
    x: &'a [f32],
    ranges: &'a [(f32, f32)],
    scales: &'a [GroupScale],
    codes: &'a [u8],
    restored: &'a [f32],
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
            PresetGroup::Channel => (columns, 1),
            PresetGroup::Columns(group) => (group as usize, 1),
            PresetGroup::Block(side) => (side as usize, side as usize),
        };
        let global = if preset.has_global_scale() {
            by_working_type!(dtype, W => global_scale::<W>(absmax as f32))
        } else {
            1.0
        };
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
        let size = if self.has_byte_scales() { 1 } else { scale_type(self.dtype).size() };
        row / self.height as u64 * (self.groups_across() * size) as u64
    }

    /// Size of the zero points of all rows before `row` in bytes; `row` must be a multiple of
    /// eight.
    pub(crate) fn zero_points_before(&self, row: u64) -> u64 {
        row / 8 * (self.groups_across() * 4) as u64
    }

    /// The codes that occur in encoded rows. Both zeros count as one.
    pub(crate) fn levels_of(&self, rows: &EncodedRows) -> LevelSet {
        let is_float = matches!(
            self.preset.quantization_type(),
            QuantizationType::F8E4M3 | QuantizationType::F4E2M1
        );
        let mut seen = [false; 256];
        rows.values.iter().for_each(|&byte| seen[usize::from(byte)] = true);
        let bytes = (0..=u8::MAX).filter(|&byte| seen[usize::from(byte)]);
        let (negative_zero, codes): (u8, Vec<u8>) = match code_bits(self.preset) {
            8 => (0x80, bytes.collect()),
            _ => (8, bytes.flat_map(|byte| [byte & 15, byte >> 4]).collect()),
        };
        let codes = codes.into_iter();
        codes.map(|code| if is_float && code == negative_zero { 0 } else { code }).collect()
    }

    fn has_byte_scales(&self) -> bool {
        matches!(self.preset, Preset::Nvfp4A16 | Preset::Mxfp4A16 | Preset::Mxfp8A16)
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
        let EncodedRows { values, scales, zero_points } = out;
        values.clear();
        scales.clear();
        zero_points.clear();
        let (mut zeros, stored) = (Vec::new(), scale_type(self.dtype));
        let has_byte_scales = self.has_byte_scales();
        self.each_band(bytes, |band| {
            self.pack(band.codes, values);
            if has_byte_scales {
                scales.extend(band.scales.iter().map(|group| group.code));
            } else {
                let all = band.scales.iter();
                all.for_each(|group| write_f64(stored, group.scale.into(), scales));
            }
            if let Preset::W4A16Asym(_) = self.preset {
                zeros.extend(band.scales.iter().map(|group| group.zero));
            }
        })?;
        if !zeros.is_empty() {
            let across = self.groups_across();
            for words in zeros.chunks(across * 8) {
                let rows: Vec<&[f32]> = words.chunks(across).collect();
                pack_zero_points(&rows, zero_points);
            }
        }
        Ok(())
    }

    /// Calls `each` with every row of `bytes`: its elements in F32, their codes, and their
    /// dequantized values. Calls `each_scale` with the largest magnitude and the scale of each
    /// group. The rows must start and end as in [`PresetCoder::encode`].
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
            for (range, group) in band.ranges.iter().zip(band.scales) {
                let is_zero = *range == (0.0, 0.0);
                let clip = if is_zero { 0.0 } else { f64::from(group.scale) * most };
                each_scale(clip, group.scale);
            }
            let rows = band.x.chunks(self.columns).zip(band.codes.chunks(self.columns));
            for ((x, codes), restored) in rows.zip(band.restored.chunks(self.columns)) {
                each(x, codes, restored);
            }
        })
    }

    /// Calls `each` with every row: its elements, the scales of its groups, and what its levels
    /// stand for. For presets whose rows have scales of their own.
    pub(super) fn each_row(
        &self,
        bytes: &[u8],
        mut each: impl FnMut(&[f32], &[GroupScale], &[f32]),
    ) -> Result<(), NotQuantizable> {
        self.each_band(bytes, |band| each(band.x, band.scales, band.restored))
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
        let has_signs = matches!(self.preset, Preset::W4A16Asym(_));
        let is_finite = |x: &[f32]| kernels::group_ranges(x, self.group, has_signs, ranges);
        // All rows are visited, because each extends the ranges.
        if x.chunks(self.columns).map(is_finite).filter(|is_finite| !is_finite).count() > 0 {
            return Err(BandError::NotFinite);
        }
        let (preset, global) = (self.preset, self.global);
        kernels::run_loop(GroupScales::<W> {
            preset,
            ranges,
            global,
            groups: scales,
            of: PhantomData,
        })
        .map_err(BandError::ScaleOverflow)?;
        codes.resize(x.len(), 0);
        restored.resize(x.len(), 0.0);
        let params = GroupedLevels {
            rule: level_rule(preset),
            quotient_type: if divides_in_f32(preset) { FloatType::F32 } else { self.dtype },
            restores_bf16: restores_bf16::<W>(preset),
            group: self.group,
        };
        let rows = codes.chunks_mut(self.columns).zip(restored.chunks_mut(self.columns));
        for (x, (codes, restored)) in x.chunks(self.columns).zip(rows) {
            let groups = scales.iter().map(|group| (group.scale, group.zero));
            kernels::quantize_groups(params, x, groups, codes, restored);
        }
        Ok(())
    }
}

/// Converts elements to F32; exact except for F64.
fn widen(dtype: FloatType, bytes: &[u8], x: &mut Vec<f32>) {
    x.resize(bytes.len() / dtype.size(), 0.0);
    kernels::widen(dtype, bytes, x);
}

/// The loop over the groups of a band.
struct GroupScales<'a, W> {
    preset: Preset,
    ranges: &'a [(f32, f32)],
    global: f32,
    groups: &'a mut Vec<GroupScale>,
    of: PhantomData<W>,
}

impl<W: WorkingType> Loop for GroupScales<'_, W> {
    type Output = Result<(), f32>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        group_scales::<W>(self.preset, self.ranges, self.global, self.groups)
    }
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
