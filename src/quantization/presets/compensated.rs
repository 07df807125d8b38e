//! A preset of integers that is rounded for a layer's recorded inputs.

use crate::quantization::compensation::{Compensation, Product, RecordedInputs, add_product};
use crate::quantization::kernels::{self, Loop, integer_byte};
use crate::quantization::preset::{Preset, PresetGroup};
use crate::quantization::presets::coder::{EncodedRows, PresetCoder};
use crate::quantization::presets::levels::{level, restored};
use crate::quantization::presets::scale::GroupScale;
use crate::quantization::presets::working_type::{WorkingType, by_working_type};
use crate::quantization::quantizer::NotQuantizable;
use crate::quantization::statistics::ErrorSums;

/// Number of columns whose errors are compensated in all following columns at once.
const BLOCK: usize = 128;

/// The squared errors ‖(W−Ŵ)X‖² of the outputs of some rows, over the recorded inputs X.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct OutputErrors {
    /// ‖WX‖²
    pub signal: f64,
    /// ‖(W−Ŵ)X‖² with each element rounded to nearest by scales of whole ranges.
    pub nearest: f64,
    /// With each element rounded to nearest by scales of the clips that were found.
    pub clipped: Option<f64>,
    /// With compensation.
    pub compensated: Option<f64>,
}

impl OutputErrors {
    /// Adds the error of further rows.
    pub(crate) fn merge(&mut self, next: &OutputErrors) {
        let sum = |a: Option<f64>, b: Option<f64>| Some(a? + b?);
        self.signal += next.signal;
        self.nearest += next.nearest;
        self.clipped = sum(self.clipped, next.clipped);
        self.compensated = sum(self.compensated, next.compensated);
    }
}

impl Preset {
    /// Whether rounding to the preset can depend on a layer's recorded inputs.
    pub fn can_be_rounded_by_inputs(self) -> bool {
        matches!(self, Preset::W8A16(_) | Preset::W4A16(_) | Preset::W4A16Asym(_))
    }

    /// Number of columns that share a scale, for a weight with `columns` columns.
    pub(crate) fn columns_of_group(self, columns: usize) -> usize {
        match self.group() {
            PresetGroup::Columns(group) | PresetGroup::Block(group) => group as usize,
            PresetGroup::Tensor | PresetGroup::Channel => columns,
        }
    }
}

impl PresetCoder {
    /// Like [`PresetCoder::encode`], rounded for a layer's recorded inputs. With clips that are
    /// searched, the scales are those of the clips with the least output error. With compensation,
    /// columns are rounded from first to last, and each error is spread over the columns that
    /// follow. Returns the errors of the outputs and of the weights.
    ///
    /// # Errors
    ///
    /// See [`PresetCoder::encode`].
    pub(crate) fn encode_for_inputs(
        &self,
        bytes: &[u8],
        inputs: &RecordedInputs,
        out: &mut EncodedRows,
    ) -> Result<(OutputErrors, ErrorSums), NotQuantizable> {
        let (mut original, mut scales, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        self.encode_bands(bytes, out, |row| {
            original.extend_from_slice(row.x);
            lost.extend(row.x.iter().zip(row.restored).map(|(x, restored)| x - restored));
            scales.extend_from_slice(row.scales);
        })?;
        let compensation = &inputs.compensation;
        let error = |rows: Vec<f32>, rounding: Option<Rounding>| {
            kernels::run_loop(Columns { compensation, rows, rounding })
        };
        let mut found = OutputErrors {
            signal: error(original.clone(), None),
            nearest: error(lost, None),
            clipped: None,
            compensated: None,
        };
        let mut sums = ErrorSums::default();
        if let Some(groups) = &inputs.groups {
            scales = self.search_clips(&original, groups);
            let mut lost = Vec::with_capacity(original.len());
            self.encode_scaled(&original, &scales, out, |x, _, restored| {
                sums.merge(&kernels::restored_error(x, restored));
                lost.extend(x.iter().zip(restored).map(|(x, restored)| x - restored));
            });
            found.clipped = Some(error(lost, None));
        }
        if inputs.compensates {
            let mut levels = vec![0.0; original.len()];
            let rounding = Rounding { coder: self, scales: &scales, levels: &mut levels };
            found.compensated = Some(error(original.clone(), Some(rounding)));
            out.values.clear();
            let codes: Vec<u8> = levels.iter().map(|&level| integer_byte(level)).collect();
            self.pack(&codes, &mut out.values);
            sums = self.errors_of_levels(&original, &levels, &scales);
        }
        sums.levels = self.levels_of(&out.values);
        Ok((found, sums))
    }

    /// Like [`PresetCoder::encode`] for rows whose clips were searched: the clips are those whose
    /// scales equal the stored `scales`, and whole ranges where no clip has the scale. Calls
    /// `each` with the elements, codes and dequantized values of each row.
    ///
    /// # Errors
    ///
    /// See [`PresetCoder::encode`].
    pub(crate) fn encode_as_clipped(
        &self,
        bytes: &[u8],
        scales: &[u8],
        out: &mut EncodedRows,
        each: impl FnMut(&[f32], &[u8], &[f32]),
    ) -> Result<(), NotQuantizable> {
        let mut x = Vec::new();
        self.encode_bands(bytes, out, |row| x.extend_from_slice(row.x))?;
        let scales = self.clips_of_scales(&x, scales);
        self.encode_scaled(&x, &scales, out, each);
        Ok(())
    }

    /// The errors of the weights from the levels of whole rows.
    fn errors_of_levels(&self, x: &[f32], levels: &[f32], scales: &[GroupScale]) -> ErrorSums {
        let mut sums = ErrorSums::default();
        let mut restored = vec![0.0; self.columns()];
        let rows = x.chunks(self.columns()).zip(levels.chunks(self.columns()));
        for ((x, levels), row_scales) in rows.zip(scales.chunks(self.groups_across())) {
            kernels::run_loop(RestoreRow { coder: self, levels, row_scales, out: &mut restored });
            sums.merge(&kernels::restored_error(x, &restored));
        }
        sums
    }
}

/// The loop that restores the levels of a row.
struct RestoreRow<'a> {
    coder: &'a PresetCoder,
    levels: &'a [f32],
    row_scales: &'a [GroupScale],
    out: &'a mut [f32],
}

impl Loop for RestoreRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let RestoreRow { coder, levels, row_scales, out } = self;
        let groups = levels.chunks(coder.group()).zip(out.chunks_mut(coder.group()));
        for ((levels, out), &scale) in groups.zip(row_scales) {
            for (out, &level) in out.iter_mut().zip(levels) {
                *out = by_working_type!(coder.dtype(), W => {
                    restored::<W>(coder.preset(), level, scale)
                });
            }
        }
    }
}

/// The rounding of columns.
struct Rounding<'a> {
    coder: &'a PresetCoder,
    /// The scale and zero point of each group, row by row.
    scales: &'a [GroupScale],
    levels: &'a mut [f32],
}

impl Rounding<'_> {
    /// Rounds the element `x` of a row and a column. Returns its dequantized value.
    #[inline(always)]
    fn round<W: WorkingType>(&mut self, row: usize, column: usize, x: f32) -> f32 {
        let coder = self.coder;
        let group = row * coder.groups_across() + column / coder.group();
        let scale = self.scales.get(group).copied().unwrap_or_default();
        let level = level::<W>(coder.preset(), x, scale);
        if let Some(out) = self.levels.get_mut(row * coder.columns() + column) {
            *out = level;
        }
        restored::<W>(coder.preset(), level, scale)
    }
}

/// The loop over the columns of some rows. Without rounding every column becomes zero, and the
/// error is that of the rows themselves.
struct Columns<'a> {
    compensation: &'a Compensation,
    rows: Vec<f32>,
    rounding: Option<Rounding<'a>>,
}

impl Loop for Columns<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        match &self.rounding {
            None => self.error::<crate::quantization::presets::working_type::F32>(),
            Some(rounding) => by_working_type!(rounding.coder.dtype(), W => self.error::<W>()),
        }
    }
}

impl Columns<'_> {
    /// The error minus what the damping adds to it.
    #[inline(always)]
    fn error<W: WorkingType>(self) -> f64 {
        let Columns { compensation, mut rows, mut rounding } = self;
        let n = compensation.columns();
        let count = rows.len() / n.max(1);
        let original = rows.clone();
        let (mut squares, mut distance) = (0.0f64, 0.0f64);
        let mut errors = vec![0.0f32; count * BLOCK];
        for start in (0..n).step_by(BLOCK) {
            let end = n.min(start + BLOCK);
            for column in start..end {
                let factors = compensation.rows_from(column);
                let (Some(&pivot), Some(factors)) =
                    (factors.get(column), factors.get(column + 1..end))
                else {
                    return f64::NAN;
                };
                for (row, values) in rows.chunks_exact_mut(n).enumerate() {
                    let (done, rest) = values.split_at_mut(column + 1);
                    let Some(&x) = done.last() else { return f64::NAN };
                    let value = match &mut rounding {
                        Some(rounding) => rounding.round::<W>(row, column, x),
                        None => 0.0,
                    };
                    let before = original.get(row * n + column).copied().unwrap_or(x);
                    let moved = f64::from(before - value);
                    distance += moved * moved;
                    let error = (x - value) / pivot;
                    squares += f64::from(error) * f64::from(error);
                    if let Some(kept) = errors.get_mut(row * BLOCK + column - start) {
                        *kept = -error;
                    }
                    let pairs = rest.iter_mut().zip(factors);
                    pairs.for_each(|(value, factor)| *value -= error * factor);
                }
            }
            let (b, rest) = (compensation.rows_from(start), n - end);
            let b = b.get(end..).unwrap_or_default();
            let (strides, dims) = ([n, BLOCK, n], [count, end - start, rest]);
            let c = rows.get_mut(end..).unwrap_or_default();
            add_product(Product { c, a: &errors, b, strides, dims });
        }
        (squares - compensation.damping() * distance).max(0.0)
    }
}
