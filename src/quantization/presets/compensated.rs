//! A preset of integers whose rounding is compensated for a layer's recorded inputs.

use crate::quantization::compensation::{Compensation, Product, add_product};
use crate::quantization::kernels::{self, Loop, integer_byte};
use crate::quantization::preset::Preset;
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
pub(crate) struct CompensatedError {
    /// ‖WX‖²
    pub signal: f64,
    /// ‖(W−Ŵ)X‖² with each element rounded to nearest.
    pub nearest: f64,
    /// With compensation.
    pub compensated: f64,
}

impl CompensatedError {
    /// Adds the error of further rows.
    pub(crate) fn merge(&mut self, next: &CompensatedError) {
        self.signal += next.signal;
        self.nearest += next.nearest;
        self.compensated += next.compensated;
    }
}

impl Preset {
    /// Whether rounding to the preset can be compensated.
    pub fn can_be_compensated(self) -> bool {
        matches!(self, Preset::W8A16(_) | Preset::W4A16(_) | Preset::W4A16Asym(_))
    }
}

impl PresetCoder {
    /// Like [`PresetCoder::encode`], with the same scales and zero points. Columns are rounded
    /// from first to last, and each error is spread over the columns that follow. Returns the
    /// errors of the outputs and of the weights.
    ///
    /// # Errors
    ///
    /// See [`PresetCoder::encode`].
    pub(crate) fn encode_compensated(
        &self,
        bytes: &[u8],
        compensation: &Compensation,
        out: &mut EncodedRows,
    ) -> Result<(CompensatedError, ErrorSums), NotQuantizable> {
        let (mut original, mut nearest, mut scales) = (Vec::new(), Vec::new(), Vec::new());
        // Scales and zero points are those of rounding to nearest.
        self.encode_bands(bytes, out, |row| {
            original.extend_from_slice(row.x);
            nearest.extend(row.x.iter().zip(row.restored).map(|(x, restored)| x - restored));
            scales.extend_from_slice(row.scales);
        })?;
        let mut levels = vec![0.0; original.len()];
        let rounding = Rounding { coder: self, scales: &scales, levels: &mut levels };
        let error = |rows: Vec<f32>, rounding: Option<Rounding>| {
            kernels::run_loop(Columns { compensation, rows, rounding })
        };
        let found = CompensatedError {
            signal: error(original.clone(), None),
            nearest: error(nearest, None),
            compensated: error(original.clone(), Some(rounding)),
        };
        out.values.clear();
        let codes: Vec<u8> = levels.iter().map(|&level| integer_byte(level)).collect();
        self.pack(&codes, &mut out.values);
        let mut sums = ErrorSums::default();
        let mut restored = vec![0.0; self.columns()];
        let rows = original.chunks(self.columns()).zip(levels.chunks(self.columns()));
        for ((x, levels), row_scales) in rows.zip(scales.chunks(self.groups_across())) {
            kernels::run_loop(RestoreRow { coder: self, levels, row_scales, out: &mut restored });
            sums.merge(&kernels::restored_error(x, &restored));
        }
        sums.levels = self.levels_of(&out.values);
        Ok((found, sums))
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
